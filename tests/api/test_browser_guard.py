"""Pages of other sites and a loopback server without keys: DNS rebinding and blind requests."""

from __future__ import annotations

import socket
from typing import Any

import httpx2
import pytest

from tests.api.fakes import Start

TEXT = {"input": {"type": "text", "text": "a private thought"}}
CROSS = {"sec-fetch-site": "cross-site"}
LINK = {**CROSS, "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
PAGE = "https://page.example"


def ask(url: str, headers: dict[str, str], path: str = "/model/current") -> httpx2.Response:
    with httpx2.Client(base_url=url, timeout=20) as http:
        return http.get(path, headers=headers)


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:9777", "127.0.0.1", "127.0.0.1:1", "[::1]", "[::1]:9777"]
)
def test_names_of_the_loopback_are_accepted(start: Start, host: str) -> None:
    assert ask(start().url, {"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example:9777", "127.0.0.1.evil.example", "127.0.0.2",
             "localhost:9777:1", "evil.example:localhost", "", "::1"]
)  # fmt: skip
@pytest.mark.parametrize("path", ["/model/current", "/v1/models", "/health", "/", "/docs"])
def test_a_name_that_another_site_resolves_to_the_loopback_is_rejected(
    start: Start, host: str, path: str
) -> None:
    answer = ask(start().url, {"host": host}, path)
    assert answer.status_code == 403
    assert "EMBEDDING_ALLOWED_HOSTS" in answer.text


def test_the_error_has_its_own_code_and_the_paths_form(start: Start) -> None:
    url = start().url
    with httpx2.Client(base_url=url, headers={"host": "evil.example"}) as http:
        native: Any = http.post("/embeddings", json=TEXT).json()
        openai: Any = http.post("/v1/embeddings", json={"model": "x", "input": "y"}).json()
    assert native["code"] == "host_not_allowed"
    assert openai["error"]["code"] == "host_not_allowed"


@pytest.mark.parametrize(
    ("listed", "host"),
    [
        (("embed.example",), "embed.example:443"),
        (("embed.example",), "Embed.Example"),
        (("host.docker.internal:9777",), "host.docker.internal:9777"),
        (("*",), "anything.example"),
    ],
)
def test_listed_names_are_accepted(start: Start, listed: tuple[str, ...], host: str) -> None:
    assert ask(start(server_names=listed).url, {"host": host}).status_code == 200


def test_a_listed_port_is_meant(start: Start) -> None:
    url = start(server_names=("embed.example:443",)).url
    assert ask(url, {"host": "embed.example:80"}).status_code == 403


def test_a_request_without_a_host_is_served(start: Start) -> None:
    """HTTP/1.0 has no Host; no browser speaks it."""
    running = httpx2.URL(start().url)
    with socket.create_connection((running.host, running.port), 20) as connection:
        connection.sendall(b"GET /live HTTP/1.0\r\n\r\n")
        assert b" 200 " in connection.recv(4096)


def test_a_page_of_another_site_may_not_call(start: Start) -> None:
    with httpx2.Client(base_url=start().url, headers={**CROSS, "origin": PAGE}) as http:
        refused = http.post("/embeddings", json=TEXT, headers={"sec-fetch-mode": "no-cors"})
        assert refused.status_code == 403
        assert "EMBEDDING_CORS_ORIGINS" in refused.text
        assert refused.json()["code"] == "cross_site"
        assert http.get("/health", headers={"sec-fetch-mode": "no-cors"}).status_code == 403
        preflight = {"access-control-request-method": "POST", "sec-fetch-mode": "cors"}
        assert http.options("/embeddings", headers=preflight).status_code == 403


def test_links_to_the_pages_work_and_links_to_the_api_do_not(start: Start) -> None:
    url = start().url
    for path in ("/docs", "/playground/"):
        assert ask(url, LINK, path).status_code != 403
    assert ask(url, LINK, "/model/current").status_code == 403
    with httpx2.Client(base_url=url) as http:
        assert http.post("/embeddings", json=TEXT, headers=LINK).status_code == 403


@pytest.mark.parametrize("listed", [PAGE, "*"])
def test_a_listed_origin_may_call(start: Start, listed: str) -> None:
    headers = {**CROSS, "origin": PAGE, "sec-fetch-mode": "cors"}
    with httpx2.Client(base_url=start(cors_origins=listed).url, headers=headers) as http:
        ask_first = {"access-control-request-method": "POST"}
        assert http.options("/embeddings", headers=ask_first).status_code == 200
        answer = http.post("/embeddings", json=TEXT)
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] in (PAGE, "*")


@pytest.mark.parametrize("site", ["same-origin", "same-site", "none"])
def test_the_servers_own_page_and_local_pages_may_call(start: Start, site: str) -> None:
    assert ask(start().url, {"sec-fetch-site": site}).status_code == 200


@pytest.mark.parametrize("changes", [{"api_keys": ("key",)}, {"host": "0.0.0.0"}])
def test_keys_or_another_address_change_nothing(start: Start, changes: dict[str, Any]) -> None:
    headers = {"host": "embed.example", "authorization": "Bearer key", **CROSS}
    assert ask(start(**changes).url, headers).status_code == 200
