"""The requests of wrong_requests.py get their status and message, over real sockets."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.api.fakes import FakeServing, Start
from tests.api.wrong_requests import WRONG, Wrong

ADVICE = re.compile(
    r"\b(use|send|set|see|remove|leave|let|must|needs?|required|supported|accepts|allowed|limit)\b"
    r"|\bEMBEDDING_[A-Z_]+",
    re.IGNORECASE,
)
"""A message names what is accepted, what to do, or the setting that decides."""


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeServing]:
    roots = (tmp_path_factory.mktemp("media"),)
    shared = FakeServing(max_body_mb=2, max_items=8, media_roots=roots)
    yield shared
    shared.stop()


def message_of(answer: httpx2.Response) -> str:
    """The message of an error in any dialect."""
    body = answer.json()
    error = body.get("error", {})
    return str(body.get("detail") or body.get("message") or error.get("message"))


def matches(pattern: str, message: str) -> bool:
    return re.fullmatch(".*".join(map(re.escape, pattern.split("…"))), message) is not None


@pytest.mark.parametrize("wrong", WRONG, ids=lambda each: f"{each.path} {each.message[:40]}")
def test_a_wrong_request_gets_its_message(strict: FakeServing, wrong: Wrong) -> None:
    answer = httpx2.request(
        wrong.method, strict.url + wrong.path, content=wrong.content, headers=wrong.headers
    )
    assert answer.status_code == wrong.status, answer.text
    assert matches(wrong.message, message_of(answer)), message_of(answer)


def test_every_message_says_what_to_do() -> None:
    assert len(WRONG) >= 40
    assert [each.message for each in WRONG if not ADVICE.search(each.message)] == []


def test_a_missing_key_is_named_with_its_header(start: Start) -> None:
    answer = httpx2.post(f"{start(api_keys=('k',)).url}/v1/embeddings", json={"input": "a"})
    assert answer.status_code == 401
    assert "Authorization: Bearer <key>" in message_of(answer)


def test_a_path_to_an_existing_file_is_not_read(strict: FakeServing, tmp_path: Path) -> None:
    """The message is that of any other path: it does not tell whether the file is there."""
    path = tmp_path / "cat"
    path.write_bytes(b"GIF89a")
    messages = [
        message_of(httpx2.post(f"{strict.url}/v1/embeddings", json={"input": [{"image": each}]}))
        for each in (str(path), f"{path}-gone")
    ]
    assert messages[0] == messages[1]
    assert "file path" in messages[0]
