"""The server name and its certificate, though the connection goes to an address."""

from __future__ import annotations

import ssl
import subprocess
from pathlib import Path

import pytest

from multimodal_embedding_serving.errors import RemoteFailed
from multimodal_embedding_serving.media.fetch import Fetcher
from tests.media.remote import Names, remote

LOOPBACK = ["127.0.0.0/8"]
SITE = "site.example"


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for site.example and its key."""
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
         "-nodes", "-days", "2", "-subj", f"/CN={SITE}", "-addext", f"subjectAltName=DNS:{SITE}",
         "-keyout", str(key), "-out", str(cert)],
        check=True, capture_output=True,
    )  # fmt: skip
    return cert, key


async def test_https_sends_the_name_and_checks_the_certificate_against_it(
    certificate: tuple[Path, Path],
) -> None:
    offered = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    offered.load_cert_chain(*certificate)
    names: list[str | None] = []
    offered.sni_callback = lambda _socket, name, _context: names.append(name)
    trusted = ssl.create_default_context(cafile=str(certificate[0]))
    table = Names(site_example="127.0.0.1", other_example="127.0.0.1")
    fetcher = Fetcher(
        mode="public", allowed_hosts=LOOPBACK, proxy="", timeout=30, resolver=table, tls=trusted
    )
    async with remote(offered) as secure:
        secure.ok("/x", b"one")
        assert await fetcher.get(f"https://{SITE}:{secure.port}/x", max_bytes=99) == b"one"
        assert names == [SITE]
        assert secure.requests[0][1]["host"] == f"{SITE}:{secure.port}"
        with pytest.raises(RemoteFailed):
            await fetcher.get(f"https://other.example:{secure.port}/x", max_bytes=99)
        await fetcher.aclose()
