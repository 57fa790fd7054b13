"""Large bodies are parsed by another library than small ones: nobody may notice."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multimodal_embedding_serving.api.request_body import (
    CONTAINER_BYTES,
    MAX_FINDS,
    MAX_INLINE_BYTES,
    VALUE_BYTES,
    load_json,
    parsed_bytes,
)
from multimodal_embedding_serving.errors import InvalidInput

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


def large(text: str) -> bytes:
    """The same JSON, too large to be small."""
    return text.encode() + b" " * MAX_INLINE_BYTES


@given(values.filter(lambda value: value == value))
def test_a_large_body_says_what_a_small_one_does(value: Any) -> None:
    text = json.dumps(value, allow_nan=False) if "inf" not in repr(value) else '"left out"'
    assert load_json(large(text)) == load_json(text.encode())


@pytest.mark.parametrize(
    "text",
    ["{", '{"a":NaN}', '{"a":Infinity}', '{"a":01}', "[1,]", "{} x", '{"a":"\x01"}', "nul"],
)
def test_what_is_not_json_is_refused_in_a_large_body_too(text: str) -> None:
    for body in (text.encode(), large(text)):
        with pytest.raises(InvalidInput, match="not valid JSON"):
            load_json(body)


def test_depth_and_digits_are_bounded_in_a_large_body() -> None:
    for text in ("[" * 100_000, "9" * 100_000):
        with pytest.raises(InvalidInput):
            load_json(large(text))


def test_lone_surrogates_are_mended_in_a_large_body() -> None:
    assert load_json(large(r'{"a":"x\ud800y"}')) == {"a": "x\ufffdy"}


@given(
    st.lists(st.sampled_from([b"{", b"[", b",", b"\\u0041", b"\\n", b"u", b"plain", "é".encode()])),
    st.sampled_from([1, MAX_FINDS - 1, MAX_FINDS, MAX_FINDS + 1, 3 * MAX_FINDS]),
)
def test_what_a_body_takes_follows_its_marks_however_many(parts: list[bytes], times: int) -> None:
    body = b"".join(parts) * times
    wide = b"\\u" in body or not body.isascii()
    opened, listed = body.count(b"{") + body.count(b"["), body.count(b",")
    expected = len(body) * (5 if wide else 1) + CONTAINER_BYTES * opened + VALUE_BYTES * listed
    assert parsed_bytes(body) == expected
