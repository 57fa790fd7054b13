from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers

from multimodal_embedding_serving.checkpoints.tokenizers import (
    clip_bpe_from_vocab,
    wordpiece_from_vocab,
)
from multimodal_embedding_serving.errors import BundleError, InvalidInput
from multimodal_embedding_serving.transforms.text import TextTransform, repair_surrogates

GOLDEN = Path(__file__).parent.parent / "golden" / "tokenizers"
EXPECTED: dict[str, Any] = json.loads((GOLDEN / "expected.json").read_text("utf-8"))
TEXTS: list[str] = EXPECTED["texts"]
LENGTH: int = EXPECTED["length"]
START, END, EOS = 765, 766, 1
PROMPTS = {"query": "Instruct: {instruction}\nQuery:{text}", "document": "{text}"}

SPECS: dict[str, dict[str, Any]] = {
    "wordpiece": {"max_length": LENGTH, "pad_id": 0},
    "clip": {"max_length": LENGTH, "pad_id": END},
    "gemma_fixed": {"max_length": LENGTH, "pad_id": 0, "fixed_length": True, "lowercase": True},
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tokenizer.json of each kind."""
    folder = tmp_path_factory.mktemp("tokenizers")
    wordpiece_from_vocab(GOLDEN / "vocab.txt").save(str(folder / "wordpiece.json"))
    clip = clip_bpe_from_vocab(GOLDEN / "vocab.json", GOLDEN / "merges.txt")
    clip.save(str(folder / "clip.json"))
    return {
        "wordpiece": folder / "wordpiece.json",
        "clip": folder / "clip.json",
        "gemma_fixed": GOLDEN / "gemma.json",
    }


@pytest.fixture(scope="module")
def transforms(files: dict[str, Path]) -> dict[str, TextTransform]:
    return {name: TextTransform(path, SPECS[name]) for name, path in files.items()}


@pytest.fixture(scope="module")
def query(files: dict[str, Path]) -> TextTransform:
    """In the manner of QwenText: prompts, an appended end, nothing padded."""
    spec = {"max_length": 24, "pad_id": 1, "prompts": PROMPTS, "default_instruction": "find"}
    return TextTransform(files["gemma_fixed"], spec)


def shown(transform: TextTransform, ids: Any) -> str:
    """The tokens' text, special ones included."""
    text: str = transform._tokenizer.decode(list(ids), skip_special_tokens=False)
    return text


@pytest.mark.parametrize("name", SPECS)
def test_ids_and_truncation_are_upstreams(name: str, transforms: dict[str, TextTransform]) -> None:
    prepared = transforms[name].prepare_many(TEXTS)
    assert [each.row.tolist() for each in prepared] == EXPECTED[name]
    assert {each.row.dtype for each in prepared} == {np.dtype(np.int32)}


def test_one_text_is_prepared_as_many_are(transforms: dict[str, TextTransform]) -> None:
    for transform in transforms.values():
        for text, together in zip(TEXTS, transform.prepare_many(TEXTS), strict=True):
            alone = transform.prepare(text)
            np.testing.assert_array_equal(alone.row, together.row)
            assert alone.tokens == together.tokens


def test_a_clip_text_that_is_cut_keeps_its_end_in_the_last_place(
    transforms: dict[str, TextTransform],
) -> None:
    long = transforms["clip"].prepare("the waves come in " * 50)
    assert long.truncated
    assert (long.row[0], long.row[-1], long.cost, long.tokens) == (START, END, LENGTH, LENGTH)
    assert list(long.row).index(END) == LENGTH - 1


def test_a_text_that_just_fits_is_not_cut(transforms: dict[str, TextTransform]) -> None:
    words = ["a"] * (LENGTH - 2)
    assert not transforms["clip"].prepare(" ".join(words)).truncated
    assert transforms["clip"].prepare(" ".join([*words, "a"])).truncated


def test_rows_are_not_padded_unless_their_length_is_fixed(
    transforms: dict[str, TextTransform],
) -> None:
    short = transforms["clip"].prepare("a cat")
    assert short.cost == short.tokens == len(short.row) == 4
    fixed = transforms["gemma_fixed"].prepare("a cat")
    assert fixed.cost == len(fixed.row) == LENGTH
    assert fixed.row.tolist()[fixed.tokens - 1 :] == [EOS] + [0] * (LENGTH - fixed.tokens)


def test_without_a_kept_end_a_text_is_simply_cut(files: dict[str, Path]) -> None:
    cut = TextTransform(files["clip"], SPECS["clip"] | {"eos_kept": False})
    row = cut.prepare("the waves come in " * 50).row
    assert len(row) == LENGTH
    assert row[-1] != END


def test_lower_casing_is_the_tokenizers_librarys(transforms: dict[str, TextTransform]) -> None:
    """Python's own would turn a final capital sigma into another letter."""
    upper, lower = transforms["gemma_fixed"].prepare_many(["ΟΔΟΣ", "οδοσ"])
    np.testing.assert_array_equal(upper.row, lower.row)


def test_a_query_is_wrapped_in_its_prompt(query: TextTransform) -> None:
    text = shown(query, query.prepare("two dogs", role="query").row)
    assert text == "Instruct: find\nQuery:two dogs<eos>"
    assert shown(query, query.prepare("dogs", role="query", instruction="see").row) == (
        "Instruct: see\nQuery:dogs<eos>"
    )


def test_a_document_and_a_bare_text_are_not_wrapped(query: TextTransform) -> None:
    assert shown(query, query.prepare("two dogs", role="document").row) == "two dogs<eos>"
    assert shown(query, query.prepare("two dogs").row) == "two dogs<eos>"


def test_a_role_without_a_prompt_changes_nothing(transforms: dict[str, TextTransform]) -> None:
    plain, with_role = (
        transforms["clip"].prepare("a cat", role=role).row for role in (None, "query")
    )
    np.testing.assert_array_equal(plain, with_role)


def test_braces_in_a_text_are_just_text(query: TextTransform) -> None:
    text = "{instruction} {0} {text}"
    wrapped = query.prepare(text, role="query", instruction="{text}").row
    assert shown(query, wrapped).startswith("Instruct: {text}\nQuery:{inst")


def test_a_long_query_keeps_the_appended_end(query: TextTransform) -> None:
    prepared = query.prepare("waves " * 100, role="query")
    assert prepared.truncated
    assert (prepared.row[-1], len(prepared.row)) == (EOS, 24)


@pytest.mark.parametrize(
    ("text", "repaired"),
    [
        ("plain", "plain"),
        ("a\ud83db", "a\ufffdb"),
        ("\udc00", "\ufffd"),
        ("\ud83d\ude00", "😀"),
        ("\ude00\ud83d", "\ufffd\ufffd"),
        ("\x00\x01\u200b", "\x00\x01\u200b"),
    ],
)
def test_lone_surrogates_become_the_replacement_character(text: str, repaired: str) -> None:
    assert repair_surrogates(text) == repaired


@settings(max_examples=300, deadline=None)
@given(text=st.text(st.characters(exclude_categories=()), max_size=200), role=st.booleans())
def test_no_string_makes_a_transform_fail(
    text: str, role: bool, transforms: dict[str, TextTransform], query: TextTransform
) -> None:
    for transform in [*transforms.values(), query]:
        prepared = transform.prepare(text, role="query" if role else None)
        length = transform.spec.max_length
        assert 1 <= prepared.tokens <= prepared.cost == len(prepared.row) <= length
        assert prepared.truncated <= (prepared.tokens == length)
        assert prepared.row.min() >= 0


def test_the_longest_text_that_may_be_sent_is_prepared(
    transforms: dict[str, TextTransform],
) -> None:
    for transform in transforms.values():
        for text in ("a" * 400_000, "a b " * 100_000, "猫" * 400_000):
            prepared = transform.prepare(text)
            assert prepared.tokens <= LENGTH


def test_truncation_and_padding_of_the_file_are_not_used(tmp_path: Path) -> None:
    tokenizer = wordpiece_from_vocab(GOLDEN / "vocab.txt")
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=9)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    transform = TextTransform(tmp_path / "tokenizer.json", SPECS["wordpiece"])
    assert transform.prepare("a photo of a cat").row.tolist() == EXPECTED["wordpiece"][1]


def test_a_tokenizer_that_appends_nothing_can_keep_nothing(tmp_path: Path) -> None:
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "?": 1}, unk_token="?"))  # noqa: S106
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "plain.json"))
    with pytest.raises(BundleError, match="no special token to keep"):
        TextTransform(tmp_path / "plain.json", {"max_length": 8, "pad_id": 1})
    plain = TextTransform(
        tmp_path / "plain.json", {"max_length": 8, "pad_id": 1, "eos_kept": False}
    )
    assert plain.prepare("a a").row.tolist() == [0, 0]
    assert plain.prepare("").row.tolist() == [1]


def test_a_length_without_room_for_a_word_is_refused(files: dict[str, Path]) -> None:
    with pytest.raises(BundleError, match="leaves no room"):
        TextTransform(files["clip"], {"max_length": 2, "pad_id": 0})


def test_token_ids_are_read_back_as_text(transforms: dict[str, TextTransform]) -> None:
    for name, transform in transforms.items():
        prepared = transform.prepare("two dogs are running")
        assert transform.decode(prepared.row.tolist()) == "two dogs are running", name


@pytest.mark.parametrize("wrong", [-1, 767, 2**40])
def test_an_id_outside_the_vocabulary_is_refused(
    wrong: int, transforms: dict[str, TextTransform]
) -> None:
    with pytest.raises(InvalidInput, match=f"{wrong} is not a token id"):
        transforms["clip"].decode([320, wrong])


def test_several_threads_may_prepare_at_once(transforms: dict[str, TextTransform]) -> None:
    with ThreadPoolExecutor(4) as pool:
        for prepared in pool.map(transforms["clip"].prepare_many, [TEXTS] * 40):
            assert [each.row.tolist() for each in prepared] == EXPECTED["clip"]
