from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from multimodal_embedding_serving.checkpoints.tokenizers import (
    clip_bpe_from_vocab,
    wordpiece_from_vocab,
)
from multimodal_embedding_serving.errors import CheckpointError

GOLDEN = Path(__file__).parent.parent / "golden" / "tokenizers"
EXPECTED: dict[str, Any] = json.loads((GOLDEN / "expected.json").read_text("utf-8"))


def ids(tokenizer: Tokenizer, text: str) -> list[int]:
    """Cut as the golden files were: the last token of a text that is too long stays."""
    found: list[int] = tokenizer.encode(text).ids
    length = EXPECTED["length"]
    return found if len(found) <= length else [*found[: length - 1], found[-1]]


@pytest.mark.parametrize(("name", "lowercase"), [("wordpiece", True), ("wordpiece_cased", False)])
def test_a_vocab_txt_gives_the_ids_of_upstreams_bert(name: str, lowercase: bool) -> None:
    tokenizer = wordpiece_from_vocab(GOLDEN / "vocab.txt", lowercase=lowercase)
    assert [ids(tokenizer, text) for text in EXPECTED["texts"]] == EXPECTED[name]


def test_a_vocab_json_with_merges_gives_the_ids_of_upstreams_clip() -> None:
    tokenizer = clip_bpe_from_vocab(GOLDEN / "vocab.json", GOLDEN / "merges.txt")
    assert [ids(tokenizer, text) for text in EXPECTED["texts"]] == EXPECTED["clip"]


@pytest.mark.parametrize("name", ["wordpiece", "clip"])
def test_a_built_tokenizer_is_the_same_after_it_was_saved(name: str, tmp_path: Path) -> None:
    if name == "clip":
        tokenizer = clip_bpe_from_vocab(GOLDEN / "vocab.json", GOLDEN / "merges.txt")
    else:
        tokenizer = wordpiece_from_vocab(GOLDEN / "vocab.txt")
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    again = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert [ids(again, text) for text in EXPECTED["texts"]] == EXPECTED[name]


def test_a_vocab_txt_with_windows_line_ends_is_read(tmp_path: Path) -> None:
    text = (GOLDEN / "vocab.txt").read_text("utf-8")
    (tmp_path / "vocab.txt").write_text(text, "utf-8", newline="\r\n")
    tokenizer = wordpiece_from_vocab(tmp_path / "vocab.txt")
    assert [ids(tokenizer, text) for text in EXPECTED["texts"]] == EXPECTED["wordpiece"]


def test_a_vocab_txt_without_a_special_token_is_refused_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\nword\n")
    with pytest.raises(CheckpointError, match=r"vocab\.txt lacks the token '\[SEP\]'"):
        wordpiece_from_vocab(tmp_path / "vocab.txt")


@pytest.mark.parametrize(
    ("vocab", "merges", "message"),
    [
        ("{", "", r"vocab\.json is not valid JSON"),
        ("[1, 2]", "", r"vocab\.json must map tokens to ids"),
        ('{"a": "b"}', "", r"vocab\.json must map tokens to ids"),
        ('{"a": 0}', "", r"vocab\.json lacks the token '<\|startoftext\|>'"),
        (None, "a b c\n", r"merges\.txt: 'a b c' is not a pair of tokens"),
        (None, "a zzz\n", r"vocab\.json lacks the token 'zzz'"),
    ],
)
def test_broken_clip_vocabularies_are_refused_by_file_and_token(
    vocab: str | None, merges: str, message: str, tmp_path: Path
) -> None:
    whole = (GOLDEN / "vocab.json").read_text("utf-8")
    (tmp_path / "vocab.json").write_text(whole if vocab is None else vocab, "utf-8")
    (tmp_path / "merges.txt").write_text(merges, "utf-8")
    with pytest.raises(CheckpointError, match=message):
        clip_bpe_from_vocab(tmp_path / "vocab.json", tmp_path / "merges.txt")


def test_a_vocabulary_that_is_no_text_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_bytes(b"\xff\xfe\x00[PAD]")
    with pytest.raises(CheckpointError, match=r"vocab\.txt is not UTF-8 text"):
        wordpiece_from_vocab(tmp_path / "vocab.txt")
