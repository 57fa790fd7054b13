"""What a tokenizer.json may do, checked before the library reads it.

The file comes from a stranger, and the library does what it says: a chain of replacements that
turns one letter into gigabytes, a template that repeats the text, an expression that backtracks
for hours, a table whose offsets lie. Nothing on this page runs the tokenizer: each part must be one
that is known, and how much it lengthens a text must have a bound.
"""

from __future__ import annotations

import base64
import binascii
import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from multimodal_embedding_serving.errors import EmbeddingError
from multimodal_embedding_serving.transforms.tokenizer_patterns import (
    UnboundedPattern,
    check_pattern,
)

MAX_TOKENIZER_BYTES = 1 << 26
"""Gemma's, with 256,000 tokens, has 33 MB."""
MAX_GROWTH = 1024
"""Bytes that the normalizers may make of one byte, if all of them do their worst."""
MAX_SPLIT_GROWTH = 16
"""The same for what splits a text into words."""
MAX_PARTS = 32
"""Of a chain of normalizers, splitters, processors or decoders."""
MAX_DEPTH = 4
MAX_PIECE_BYTES = 64
"""Of what a part looks for or puts in."""
MAX_TOKEN_CHARS, MAX_ADDED, MAX_ID = 1024, 1 << 17, (1 << 31) - 1
MAX_WORD_CHARS = 200
"""Of WordPiece, whose time is cubic in it; BERT's is 100."""
MAX_SPECIAL = 64
"""Tokens that a template adds."""
NFKC_GROWTH = 11
"""Of U+FDFA: 3 bytes become 33."""

Part = Mapping[str, Any]
NORMALIZERS = {
    "BertNormalizer": 8, "ByteLevel": 2, "Lowercase": 2, "NFC": 3, "NFD": 3, "NFKC": NFKC_GROWTH,
    "NFKD": NFKC_GROWTH, "Nmt": 1, "Strip": 1, "StripAccents": 1,
}  # fmt: skip
"""Bytes that each makes of one, at most; the sums for Unicode's forms are Unicode's own."""
SPLITTERS = {
    "BertPreTokenizer": 1, "ByteLevel": 4, "CharDelimiterSplit": 1, "Digits": 1, "FixedLength": 1,
    "Metaspace": 8, "Punctuation": 1, "Split": 1, "UnicodeScripts": 1, "Whitespace": 1,
    "WhitespaceSplit": 1,
}  # fmt: skip
PROCESSORS = {"BertProcessing", "ByteLevel", "RobertaProcessing", "TemplateProcessing"}
DECODERS = {
    "BPEDecoder", "ByteFallback", "ByteLevel", "CTC", "Fuse", "Metaspace", "Replace", "Strip",
    "WordPiece",
}  # fmt: skip
MODELS = ("BPE", "Unigram", "WordLevel", "WordPiece")


class RejectedTokenizer(ValueError):
    """Says which part of a tokenizer.json is not allowed, and why."""


@dataclass(frozen=True, slots=True)
class TokenizerBounds:
    """How much a tokenizer may lengthen a text, at worst."""

    growth: float
    """Bytes that the normalizers make of one byte."""
    split_growth: float
    """Bytes that the splitters make of one of those."""


def check_tokenizer(text: str, error: type[EmbeddingError]) -> TokenizerBounds:
    """Check the text of a tokenizer.json. Raises `error` with the part and the reason."""
    try:
        return _check(text)
    except (ValueError, RecursionError) as reason:
        shown = "it is nested too deeply" if isinstance(reason, RecursionError) else reason
        raise error(f"tokenizer.json: {shown}") from None


def _check(text: str) -> TokenizerBounds:
    if len(text) > MAX_TOKENIZER_BYTES:
        raise RejectedTokenizer(f"it is larger than {MAX_TOKENIZER_BYTES >> 20} MB")
    try:
        content = json.loads(text, object_pairs_hook=_unique)
    except json.JSONDecodeError as reason:
        raise RejectedTokenizer(f"it is not JSON ({reason})") from None
    if not isinstance(content, dict):
        raise RejectedTokenizer("it is not an object")
    _check_model(content.get("model"))
    _check_added(content.get("added_tokens") or [])
    growth = split_growth = 1.0
    for where, part in _parts(content, "normalizer", "normalizers"):
        growth = min(growth * _growth(part, where), math.inf)
    for where, part in _parts(content, "pre_tokenizer", "pretokenizers"):
        split_growth *= _known(part, SPLITTERS, where)
        if part["type"] == "Split":
            _pattern(part, where)
        _short(part.get("replacement"), where)
    for where, part in _parts(content, "post_processor", "processors"):
        _check_processor(part, where)
    for where, part in _parts(content, "decoder", "decoders"):
        _check_decoder(part, where)
    for name, bound, limit in (
        ("normalizer", growth, MAX_GROWTH), ("pre_tokenizer", split_growth, MAX_SPLIT_GROWTH)
    ):  # fmt: skip
        if bound > limit:
            raise RejectedTokenizer(
                f"{name} may make {bound:.3g} bytes of one byte; at most {limit} are allowed"
            )
    return TokenizerBounds(growth, split_growth)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Which of two equal keys counts is each reader's own choice."""
    result = dict(pairs)
    if len(result) != len(pairs):
        raise RejectedTokenizer("an object in it has the same key twice")
    return result


def _parts(content: Part, name: str, list_name: str) -> Iterator[tuple[str, Part]]:
    """The parts of a chain in order, with the places where they are."""
    parts = list(itertools.islice(_walk(content.get(name), name, list_name), MAX_PARTS + 1))
    if len(parts) > MAX_PARTS:
        raise RejectedTokenizer(f"{name} has more than {MAX_PARTS} parts")
    yield from parts


def _walk(part: Any, where: str, list_name: str, depth: int = 0) -> Iterator[tuple[str, Part]]:
    if part is None and not depth:
        return
    if not isinstance(part, dict) or not isinstance(part.get("type"), str):
        raise RejectedTokenizer(f"{where} is not an object with a type")
    if part["type"] != "Sequence":
        yield where, part
        return
    inner = part.get(list_name)
    if not isinstance(inner, list) or depth >= MAX_DEPTH:
        raise RejectedTokenizer(f"{where} is nested too deeply, or has no list {list_name}")
    for number, each in enumerate(inner):
        yield from _walk(each, f"{where}.{list_name}[{number}]", list_name, depth + 1)


def _known(part: Part, table: Mapping[str, int], where: str) -> int:
    if part["type"] not in table:
        raise _unknown(part, where, table)
    return table[part["type"]]


def _unknown(part: Part, where: str, known: Any) -> RejectedTokenizer:
    names = ", ".join(sorted(known))
    return RejectedTokenizer(
        f"{where}.type {str(part['type'])[:40]!r} is not supported; supported: {names}"
    )


def _growth(part: Part, where: str) -> float:
    match part["type"]:
        case "Replace":
            return max(1.0, _short(part.get("content"), where) / _pattern(part, where))
        case "Prepend":  # in front of everything between two added tokens
            return 1.0 + _short(part.get("prepend"), where)
        case "Precompiled":
            return _longest_replacement(part.get("precompiled_charsmap"), where)
    return _known(part, NORMALIZERS, where)


def _short(text: object, where: str) -> int:
    """The bytes of a short text."""
    if text is not None and not isinstance(text, str):
        raise RejectedTokenizer(f"{where} has a value that is not text")
    size = len((text or "").encode("utf-8", "surrogatepass"))
    if size > MAX_PIECE_BYTES:
        raise RejectedTokenizer(f"{where} has a text of {size} bytes; allowed: {MAX_PIECE_BYTES}")
    return size


def _pattern(part: Part, where: str) -> int:
    """The least number of bytes that a part's pattern matches."""
    pattern = _object(part.get("pattern"))
    kind, text = next(iter(pattern.items())) if len(pattern) == 1 else ("", None)
    if kind == "String":
        if not text and part["type"] == "Replace":
            raise RejectedTokenizer(f"{where}.pattern is empty: it matches at every position")
        return _short(text, where)
    if kind != "Regex" or not isinstance(text, str):
        raise RejectedTokenizer(f"{where}.pattern is neither a String nor a Regex")
    try:
        return check_pattern(text)
    except UnboundedPattern as reason:
        shown = text if len(text) <= 60 else f"{text[:60]}…"
        raise RejectedTokenizer(
            f"{where}.pattern {shown!r} may take more than linear time: {reason}"
        ) from None


def _longest_replacement(charsmap: object, where: str) -> float:
    """Of SentencePiece's table: the size of a trie, the trie, texts that end with a zero byte."""
    try:
        data = base64.b64decode(charsmap if isinstance(charsmap, str) else "", validate=True)
    except (binascii.Error, ValueError):
        data = b""
    size = int.from_bytes(data[:4], "little")
    if len(data) < 8 or size % 4 or size > len(data) - 4:
        raise RejectedTokenizer(f"{where}.precompiled_charsmap is malformed")
    return float(max(1, *map(len, data[4 + size :].split(b"\0"))))


def _check_processor(part: Part, where: str) -> None:
    if part["type"] not in PROCESSORS:
        raise _unknown(part, where, PROCESSORS)
    if part["type"] != "TemplateProcessing":
        return
    single, tokens = part.get("single"), part.get("special_tokens") or {}
    if not isinstance(single, list) or not isinstance(tokens, dict):
        raise RejectedTokenizer(f"{where} has no template for a single text")
    texts = [each for each in single if isinstance(each, dict) and "Sequence" in each]
    if len(texts) != 1:
        raise RejectedTokenizer(f"{where}.single has the text {len(texts)} times instead of once")
    added = 0
    for each in single:
        token = _object(_object(each).get("SpecialToken")).get("id")
        added += len(_list(_object(tokens.get(str(token))).get("ids")))
    if max(added, len(single)) > MAX_SPECIAL:
        raise RejectedTokenizer(f"{where}.single adds {added} tokens; allowed: {MAX_SPECIAL}")


def _object(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> Sequence[Any]:
    return value if isinstance(value, list) else ()


def _check_decoder(part: Part, where: str) -> None:
    if part["type"] not in DECODERS:
        raise _unknown(part, where, DECODERS)
    if part["type"] == "Replace":
        _pattern(part, where)
    for value in part.values():
        if isinstance(value, str):
            _short(value, where)


def _check_added(added: Any) -> None:
    if not isinstance(added, list) or len(added) > MAX_ADDED:
        raise RejectedTokenizer(f"added_tokens is not a list of at most {MAX_ADDED}")
    for number, each in enumerate(added):
        if not isinstance(each, dict) or not each.get("content"):
            raise RejectedTokenizer(f"added_tokens[{number}] has no content")
        _check_token(each["content"], each.get("id"), f"added_tokens[{number}]")


def _check_token(token: object, number: object, where: str) -> None:
    if not isinstance(token, str) or len(token) > MAX_TOKEN_CHARS:
        raise RejectedTokenizer(f"{where}: a token has more than {MAX_TOKEN_CHARS} characters")
    if type(number) is not int or not 0 <= number <= MAX_ID:
        raise RejectedTokenizer(f"{where}: {str(number)[:20]} is not the id of a token")


def _check_model(model: Any) -> None:
    if not isinstance(model, dict):
        raise RejectedTokenizer("model is not an object")
    # Files of 2020 don't name the kind; the library tries one after the other.
    kind = model.get("type", "BPE" if "merges" in model else None)
    if kind is not None and kind not in MODELS:
        raise _unknown(model, "model", MODELS)
    vocabulary = model.get("vocab")
    if isinstance(vocabulary, dict):
        for token, number in vocabulary.items():
            _check_token(token, number, "model.vocab")
    elif isinstance(vocabulary, list):
        for number, each in enumerate(vocabulary):
            _check_scored(each, number)
    else:
        raise RejectedTokenizer("model.vocab is missing")
    if model.get("dropout"):
        raise RejectedTokenizer("model.dropout would give a text other tokens each time")
    word = model.get("max_input_chars_per_word")
    if word is not None and not (type(word) is int and 0 < word <= MAX_WORD_CHARS):
        raise RejectedTokenizer(
            f"model.max_input_chars_per_word is {str(word)[:20]}; allowed: 1 to {MAX_WORD_CHARS}"
        )
    for name in ("continuing_subword_prefix", "end_of_word_suffix", "unk_token"):
        _short(model.get(name), f"model.{name}")


def _check_scored(entry: object, number: int) -> None:
    if not isinstance(entry, Sequence) or len(entry) != 2:
        raise RejectedTokenizer(f"model.vocab[{number}] is not a token with its score")
    token, score = entry
    _check_token(token, number, f"model.vocab[{number}]")
    if type(score) not in (int, float) or not abs(score) < math.inf:
        raise RejectedTokenizer(f"model.vocab[{number}]: the score is not a finite number")
