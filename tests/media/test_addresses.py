"""What may be fetched, as pure rules."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multimodal_embedding_serving.errors import (
    EmbeddingError,
    Forbidden,
    InvalidInput,
    SettingsError,
)
from multimodal_embedding_serving.media.addresses import AddressRules, Entry, is_public
from tests.media.spellings import ADDRESSES, MALFORMED, NUMBERS, PRIVATE_NAMES, SIXES, private_urls

PUBLIC = AddressRules("public", ())


def test_the_list_of_spellings_is_long() -> None:
    assert len(private_urls()) + len(PRIVATE_NAMES) + len(MALFORMED) >= 240


def admits(rules: AddressRules, url: str, *addresses: str) -> bool:
    """Whether the rules let a URL through whose host resolves to these addresses."""
    try:
        target = rules.vet_url(url)
        rules.vet_name(target.host, target.port)
        rules.vet_addresses(target.host, target.port, addresses or [target.host])
    except (Forbidden, InvalidInput):
        return False
    return True


@pytest.mark.parametrize("url", private_urls())
def test_a_private_address_is_refused_in_every_spelling(url: str) -> None:
    assert not admits(PUBLIC, url)


@pytest.mark.parametrize("name", PRIVATE_NAMES)
def test_a_name_of_a_private_address_is_refused(name: str) -> None:
    assert not admits(PUBLIC, f"http://{name}/x.jpg", PRIVATE_NAMES[name])


@pytest.mark.parametrize("url", MALFORMED)
def test_a_url_that_parsers_disagree_on_is_refused(url: str) -> None:
    rules = AddressRules("public", ["unix"])
    assert not admits(rules, url, "127.0.0.1")


@pytest.mark.parametrize(
    "address",
    ["1.1.1.1", "8.8.8.8", "93.184.215.14", "172.15.0.1", "172.32.0.1", "100.63.0.1", "100.128.0.1",
     "192.0.1.1", "198.17.0.1", "223.255.255.255", "11.0.0.1", "2606:4700::1111", "2a00:1450::8a",
     "::ffff:8.8.8.8", "64:ff9b::8.8.8.8", "2400:cb00::1"],
)  # fmt: skip
def test_a_public_address_is_admitted(address: str) -> None:
    assert is_public(address)
    assert admits(PUBLIC, "https://example.com/x.jpg", address)


def test_one_private_address_among_public_ones_is_enough_to_refuse() -> None:
    assert not admits(PUBLIC, "http://example.com/", "8.8.8.8", "10.0.0.1")
    assert not admits(PUBLIC, "http://example.com/", "2606:4700::1111", "::ffff:127.0.0.1")


@pytest.mark.parametrize(
    ("url", "host", "authority"),
    [
        ("http://Example.COM:80/a", "example.com", b"example.com"),
        ("https://example.com.:8443/a?b=c", "example.com", b"example.com:8443"),
        ("http://[2606:4700:0:0::1111]/", "2606:4700::1111", b"[2606:4700::1111]"),
        ("https://8.8.8.8:443/", "8.8.8.8", b"8.8.8.8"),
        ("http://b\u00fccher.example/\u00e4", "xn--bcher-kva.example", b"xn--bcher-kva.example"),
        ("http://my_bucket.example:9000/x", "my_bucket.example", b"my_bucket.example:9000"),
    ],
)
def test_a_good_url_has_one_spelling_after_parsing(url: str, host: str, authority: bytes) -> None:
    target = PUBLIC.vet_url(url)
    assert (target.host, target.authority) == (host, authority)


def test_off_refuses_everything() -> None:
    assert not admits(AddressRules("off", ["example.com"]), "http://example.com/", "8.8.8.8")


@pytest.mark.parametrize(
    ("entry", "url", "address", "admitted"),
    [
        ("minio", "http://minio:9000/b/x", "10.0.0.7", True),
        ("minio:9000", "http://minio:9000/b/x", "10.0.0.7", True),
        ("minio:9000", "http://MINIO.:9000/b/x", "10.0.0.7", True),
        ("minio:9000", "http://minio:9001/b/x", "10.0.0.7", False),
        ("minio:90", "http://minio:90/b/x", "10.0.0.7", True),
        ("minio", "http://minio:90/b/x", "10.0.0.7", False),
        ("minio", "http://xminio/b", "10.0.0.7", False),
        ("*.corp.example", "http://a.b.corp.example/", "192.168.7.7", True),
        ("*.corp.example", "http://corp.example/", "192.168.7.7", False),
        ("*.corp.example", "http://evilcorp.example/", "192.168.7.7", False),
        ("*.corp.example:8080", "http://a.corp.example:8080/", "10.1.1.1", True),
        ("10.1.0.0/16", "http://any.example/", "10.1.2.3", True),
        ("10.1.0.0/16", "http://any.example/", "10.2.2.3", False),
        ("10.1.0.0/16:8000", "http://any.example:8000/", "10.1.2.3", True),
        ("10.1.0.0/16:8000", "http://any.example/", "10.1.2.3", False),
        ("10.1.2.3", "http://10.1.2.3:8000/", "10.1.2.3", True),
        ("10.1.2.3:81", "http://10.1.2.3:81/", "10.1.2.3", True),
        ("10.1.0.0/16", "http://[::ffff:10.1.2.3]/", "::ffff:10.1.2.3", True),
        ("fd00::/8", "http://[fd00::5]:8000/", "fd00::5", True),
        ("[fd00::5]:8000", "http://[fd00:0::5]:8000/", "fd00::5", True),
        ("[fd00::5]:8000", "http://[fd00::6]:8000/", "fd00::6", False),
    ],
)
@pytest.mark.parametrize("mode", ["public", "allowlist"])
def test_an_entry_of_the_allowlist_admits_what_it_names(
    mode: str, entry: str, url: str, address: str, admitted: bool
) -> None:
    assert admits(AddressRules(mode, [entry]), url, address) is admitted


def test_allowlist_mode_refuses_public_hosts_that_are_not_listed() -> None:
    for entries in ([], ["minio:9000"], ["10.0.0.0/8"]):
        rules = AddressRules("allowlist", entries)
        assert not admits(rules, "https://example.com/x.jpg", "8.8.8.8")
        assert not admits(rules, "https://8.8.8.8/x.jpg")


@pytest.mark.parametrize(
    "entry",
    ["", "*", "*.", "a b", "http://x", "x/y", "host:0", "host:99999", "host:x", "[::1", "ho$t",
     "10.0.0.0/40", "10.0.0.1:99999", "a..b"],
)  # fmt: skip
def test_an_entry_that_makes_no_sense_is_refused_at_start(entry: str) -> None:
    with pytest.raises(SettingsError, match="EMBEDDING_MEDIA_ALLOWED_HOSTS"):
        Entry.parse(entry)


def test_behind_a_proxy_names_of_private_hosts_are_refused() -> None:
    for name in ("localhost", "minio", "printer.local", "metadata.google.internal", "x.home.arpa"):
        with pytest.raises(Forbidden):
            PUBLIC.vet_name_for_proxy(name, 80)
    PUBLIC.vet_name_for_proxy("example.com", 443)
    AddressRules("allowlist", ["minio:9000"]).vet_name_for_proxy("minio", 9000)
    for rules in (AddressRules("allowlist", ["10.0.0.0/8"]), AddressRules("allowlist", [])):
        with pytest.raises(Forbidden):
            rules.vet_name_for_proxy("example.com", 443)
    for address in (*ADDRESSES, *SIXES[:20]):
        with pytest.raises(Forbidden):
            PUBLIC.vet_name_for_proxy(address, 80)


def test_the_refusal_of_an_address_does_not_say_it() -> None:
    with pytest.raises(Forbidden) as raised:
        PUBLIC.vet_addresses("example.com", 80, ["10.11.12.13"])
    assert "10.11" not in str(raised.value)
    for host in NUMBERS:
        assert verdict(f"http://{host}/") in (403, 422)
        with pytest.raises(Forbidden):
            PUBLIC.vet_addresses(host, 80, [host])


def verdict(url: str) -> int:
    try:
        target = PUBLIC.vet_url(url)
    except EmbeddingError as error:
        return error.status
    assert target.host == target.host.lower()
    assert target.host.isascii()
    assert 0 < target.port < 65536
    return 200


@given(st.one_of(st.text(), st.from_regex(r"https?://[^/]{0,30}(:\d{0,6})?/.{0,20}")))
def test_any_text_is_a_target_or_a_refusal(url: str) -> None:
    assert verdict(url) in (200, 403, 422)
