"""Long texts in windows: nothing is lost or counted twice, each window is a text of its own."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from multimodal_embedding_serving.transforms.text import TextTransform
from multimodal_embedding_serving.transforms.windows import join_windows, split_windows
from multimodal_embedding_serving.types import Features
from tests.repositories import qwen_tokenizer

PROMPTS = {"query": "Instruct: {instruction}\nQuery:{text}", "document": "{text}"}
END = 0
TOKENS = st.integers(1, 50)


@st.composite
def texts(draw: st.DrawFn) -> tuple[list[int], list[int], list[int], int]:
    """(prompt alone, prompt as it stands before the text, text, length of a window).

    The tokenizer may have joined the prompt's last token with the text's first.
    """
    length = draw(st.integers(4, 40))
    prompt = draw(st.lists(TOKENS, max_size=length // 2))
    joined = prompt[:-1] if draw(st.booleans()) else prompt
    return prompt, joined, draw(st.lists(TOKENS, min_size=1, max_size=300)), length


@given(texts())
def test_windows_cover_every_token_once(
    drawn: tuple[list[int], list[int], list[int], int],
) -> None:
    prompt, joined, text, length = drawn
    windows = split_windows([*joined, *text, END], prompt, length)
    first, *others = windows
    whole = [*first.ids[:-1]]
    for window in others:
        assert window.ids[: len(prompt)] == prompt
        content = window.ids[len(prompt) : -1]
        assert 0 < window.covers <= len(content)
        repeated = content[: len(content) - window.covers]
        assert repeated == whole[len(whole) - len(repeated) :]
        whole += content[len(repeated) :]
    assert whole == [*joined, *text]
    assert all(window.ids[-1] == END and len(window.ids) <= length for window in windows)
    # what the text has in common with the prompt's end is counted to the prompt
    total = sum(window.covers for window in windows)
    assert len(text) - (len(prompt) - len(joined)) <= total <= len(text)


@given(texts())
def test_the_first_window_is_what_a_cut_would_leave(
    drawn: tuple[list[int], list[int], list[int], int],
) -> None:
    prompt, joined, text, length = drawn
    ids = [*joined, *text, END]
    first = split_windows(ids, prompt, length)[0]
    assert first.ids == (ids if len(ids) <= length else [*ids[: length - 1], END])


@given(st.integers(8, 64), st.integers(0, 500))
def test_a_window_repeats_a_tenth_of_the_one_before_it(length: int, count: int) -> None:
    windows = split_windows([*range(1, count + 1), END], [], length)
    for before, after in pairwise(windows):
        assert len(set(before.ids) & set(after.ids) - {END}) == (length - 1) // 10


def test_a_prompt_that_leaves_no_room_is_an_error() -> None:
    with pytest.raises(ValueError, match="9 tokens leaves no room for text in 10"):
        split_windows([*range(1, 30), END], [*range(1, 10)], 10)


@given(st.lists(st.integers(1, 100), min_size=1, max_size=6), st.integers(0, 2**32 - 1))
def test_the_joint_vector_is_the_weighted_mean_at_unit_length(covers: list[int], seed: int) -> None:
    vectors = np.random.default_rng(seed).standard_normal((len(covers), 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    joint = join_windows(list(vectors), covers)
    assert joint.dtype == np.float32
    mean = sum(
        weight * each for weight, each in zip(covers, vectors.astype(np.float64), strict=True)
    )
    assert np.allclose(joint, mean / np.linalg.norm(mean), atol=1e-5)
    if len(covers) == 1:
        assert np.allclose(joint, vectors[0], atol=1e-7)


def test_windows_that_cancel_out_give_no_nan() -> None:
    one = np.eye(4, dtype=np.float32)[0]
    assert not join_windows([one, -one], [3, 3]).any()


@pytest.fixture(scope="module")
def reading(tmp_path_factory: pytest.TempPathFactory) -> TextTransform:
    """Bytes in windows of 128, at most 1000 of them."""
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    qwen_tokenizer().save(str(path))
    return TextTransform(path, spec(1000), window=128)


def spec(longest: int) -> dict[str, object]:
    return {
        "max_length": longest, "pad_id": 256, "prompts": PROMPTS, "default_instruction": "find it",
    }  # fmt: skip


def windows_of(features: Features) -> list[Features]:
    return [features, *features.more]


def test_a_text_that_fits_is_one_row(reading: TextTransform) -> None:
    for size in (1, 127):
        features = reading.prepare("x" * size)
        assert not features.more
        assert len(features.row) == size + 1


def test_a_longer_text_is_in_windows_and_counts_as_a_whole(reading: TextTransform) -> None:
    short, long = reading.prepare_many(["x", "0123456789" * 40])
    assert not short.more
    assert len(long.more) == 3
    assert long.tokens == 401
    assert not long.truncated
    assert sum(window.covers for window in windows_of(long)) == 400
    assert {window.row[-1] for window in windows_of(long)} == {256}


def test_the_prompt_of_a_query_starts_each_window(reading: TextTransform) -> None:
    opening = reading.prepare("", role="query").row[:-1].tolist()
    query = reading.prepare("0123456789" * 40, role="query")
    assert len(windows_of(query)) == 5
    for window in windows_of(query):
        assert window.row[: len(opening)].tolist() == opening
        assert len(window.row) <= 128
    assert sum(window.covers for window in windows_of(query)) == 400


def test_a_text_beyond_the_limit_is_cut_and_says_so(reading: TextTransform) -> None:
    features = reading.prepare("x" * 5000)
    assert features.truncated
    assert features.tokens == 1000
    assert sum(window.covers for window in windows_of(features)) == 999


def test_a_prompt_of_more_than_half_a_window_is_cut(reading: TextTransform) -> None:
    features = reading.prepare("x" * 400, role="query", instruction="very " * 20)
    assert features.truncated
    assert not features.more
    assert len(features.row) == 128


def test_without_windows_a_text_of_any_length_is_one_row(tmp_path: Path) -> None:
    qwen_tokenizer().save(str(tmp_path / "tokenizer.json"))
    reading = TextTransform(tmp_path / "tokenizer.json", spec(1000))
    assert len(reading.prepare("x" * 900).row) == 901
