"""The hub says no, says nothing, or says it wrongly: the real client against the stand-in."""

from __future__ import annotations

from pathlib import Path

import pytest

from multimodal_embedding_serving.checkpoints.hub import find_checkpoint, find_tokenizer
from multimodal_embedding_serving.checkpoints.sources import HubAccess
from multimodal_embedding_serving.errors import CheckpointError, RemoteFailed
from tests.checkpoints.expectations import REPO, RIGHT, WRONG, Steps, refused, same
from tests.hub_standin import Answer, Cut, Damage, HubStandIn


def test_a_repository_that_is_not_there_is_named(hub: HubStandIn, access: HubAccess) -> None:
    message = refused(RemoteFailed, REPO, access)
    assert "no such repository, or a private one that HF_TOKEN can't access" in message
    assert "the hub responded with 401" in message
    with_token = HubAccess(endpoint=access.endpoint, cache=access.cache, token=WRONG)
    assert "the hub responded with 404" in refused(RemoteFailed, REPO, with_token)


def test_a_private_repository_opens_to_its_token_which_the_cdn_never_sees(
    hub: HubStandIn, access: HubAccess, files: dict[str, bytes | Path]
) -> None:
    hub.add(REPO, files, token=RIGHT)
    assert "401" in refused(RemoteFailed, REPO, access)
    wrong = HubAccess(endpoint=access.endpoint, cache=access.cache, token=WRONG)
    assert "401" in refused(RemoteFailed, REPO, wrong)
    right = HubAccess(endpoint=access.endpoint, cache=access.cache, token=RIGHT)
    assert same(find_checkpoint(REPO, access=right))
    assert hub.seen("GET", "/cdn/")
    assert all("authorization" not in each.headers for each in hub.seen("GET", "/cdn/"))


def test_a_gated_repository_says_what_to_do(
    hub: HubStandIn, access: HubAccess, files: dict[str, bytes | Path]
) -> None:
    hub.add(REPO, files, token=RIGHT, gated=True)
    assert "accept its conditions on its page" in refused(RemoteFailed, REPO, access)


def test_too_many_requests_says_when_to_try_again(
    hub: HubStandIn, access: HubAccess, files: dict[str, bytes | Path]
) -> None:
    hub.add(REPO, files)
    hub.fail("GET", "/api/", Answer(429, {"Retry-After": "7"}), times=1)
    message = refused(RemoteFailed, REPO, access)
    assert message == f"{REPO}: too many requests, try again in 7 s (the hub responded with 429)"
    assert same(find_checkpoint(REPO, access=access))


def test_too_many_requests_for_a_file_are_waited_for(
    hub: HubStandIn, access: HubAccess, files: dict[str, bytes | Path]
) -> None:
    hub.add(REPO, files)
    hub.fail("GET", "/cdn/", Answer(429, {"Retry-After": "0"}), times=1)
    assert same(find_checkpoint(REPO, access=access))


@pytest.mark.parametrize("status", [400, 403, 418, 500, 503])
def test_other_answers_are_reported_with_their_status(
    hub: HubStandIn, access: HubAccess, status: int
) -> None:
    hub.fail("GET", "/api/", Answer(status))
    assert str(status) in refused(RemoteFailed, REPO, access)


def test_a_file_that_vanished_is_named(
    hub: HubStandIn, access: HubAccess, files: dict[str, bytes | Path]
) -> None:
    hub.add(REPO, files)
    hub.fail("HEAD", "/config.json", Answer(404, {"X-Error-Code": "EntryNotFound"}))
    message = refused(RemoteFailed, REPO, access)
    assert message == f"{REPO}: config.json: no such file (the hub responded with 404)"


def test_a_connection_cut_in_the_middle_of_a_file_is_resumed_there(
    hub: HubStandIn, access: HubAccess, files: dict[str, bytes | Path]
) -> None:
    """The client keeps what it has by blocks of 10 MiB, and asks for the rest."""
    content = b"middle" * (4 << 20)
    hub.add(REPO, files | {"model.safetensors": content})
    hub.fail("GET", "/cdn/", Cut(15 << 20), times=1)
    steps = Steps()
    found = find_checkpoint(REPO, access=access, progress=steps.note)
    assert found.weights[0].read_bytes() == content
    ranges = [each.headers.get("range") for each in hub.seen("GET", "/cdn/")]
    assert f"bytes={10 << 20}-" in ranges
    steps.check()


def test_a_connection_that_is_reset_is_tried_again(
    hub: HubStandIn, access: HubAccess, files: dict[str, bytes | Path]
) -> None:
    hub.add(REPO, files)
    hub.fail("GET", "/cdn/", Cut(80_000, reset=True), times=2)
    assert same(find_checkpoint(REPO, access=access))
    hub.add(REPO, files | {"model.safetensors": bytes(100_000)})
    hub.fail("GET", "/cdn/", Cut(50_000, reset=True))
    message = refused(RemoteFailed, REPO, access)
    assert message == f"{REPO}: model.safetensors: the connection to the hub was cut"


def test_a_damaged_file_is_refused_and_removed(
    hub: HubStandIn, access: HubAccess, files: dict[str, bytes | Path]
) -> None:
    hub.add(REPO, files)
    for path, name in [("/cdn/", "model.safetensors"), ("/config.json", "config.json")]:
        hub.fail("GET", path, Damage())
        message = refused(CheckpointError, REPO, access)
        assert f"{REPO}: {name} does not match the hash that the hub lists" in message
        hub.heal()
        found = find_checkpoint(REPO, access=access)
        assert same(found)
        for each in (access.cache or Path()).rglob("*"):
            if each.is_file() and (path == "/cdn/" or each.name == "config.json"):
                each.unlink()


def test_a_file_of_another_size_is_refused(
    hub: HubStandIn, access: HubAccess, files: dict[str, bytes | Path]
) -> None:
    size = len(files["model.safetensors"])  # type: ignore[arg-type]
    hub.add(REPO, files, sizes={"model.safetensors": size + 1})
    message = refused(RemoteFailed, REPO, access)
    assert message == f"{REPO}: model.safetensors: its size is not what the hub announced"


def test_a_download_that_the_disk_can_not_hold_is_not_begun(
    hub: HubStandIn, access: HubAccess, files: dict[str, bytes | Path]
) -> None:
    hub.add(REPO, files, sizes={"model.safetensors": 1 << 60})
    message = refused(CheckpointError, REPO, access)
    assert "1152921504.6 GB to download" in message
    assert not hub.seen("HEAD")


def test_what_is_cached_serves_while_the_hub_can_not_be_asked(
    hub: HubStandIn, access: HubAccess, files: dict[str, bytes | Path]
) -> None:
    hub.add(REPO, files)
    online = find_checkpoint(REPO, access=access)
    hub.fail("GET", "/api/", Answer(503))
    assert find_checkpoint(REPO, access=access) == online
    hub.close()
    assert find_checkpoint(REPO, access=access) == online
    other = HubAccess(endpoint=access.endpoint, cache=access.cache)
    with pytest.raises(
        RemoteFailed, match=r"^org/other: the hub can't be reached; set HTTPS_PROXY"
    ):
        find_checkpoint("org/other", access=other)


def test_a_cache_that_holds_too_little_says_so_and_why(
    hub: HubStandIn, access: HubAccess, files: dict[str, bytes | Path]
) -> None:
    hub.add(REPO, files)
    find_tokenizer(REPO, access=access)
    hub.close()
    message = refused(CheckpointError, REPO, access)
    assert "the hub can't be reached" in message
    assert "found tokenizer.json, tokenizer_config.json" in message


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b"<html>", b'{"id": "a/b", "sha": "../.."}'])
def test_an_endpoint_that_is_no_hub_is_found_out(
    hub: HubStandIn, access: HubAccess, body: bytes
) -> None:
    hub.fail("GET", "/api/", Answer(200, body=body))
    assert "the hub sent an unexpected response" in refused(RemoteFailed, REPO, access)


@pytest.mark.parametrize("revision", ["../../x", "-", "a b", "/x"])
def test_a_revision_that_is_a_way_out_is_refused(
    hub: HubStandIn, access: HubAccess, revision: str
) -> None:
    assert "not a valid revision" in refused(CheckpointError, REPO, access, revision=revision)
    assert not hub.requests
