"""A tokenizer.json from a stranger: whatever it says, it is rejected by name or has a bound."""

from __future__ import annotations

import base64
import json
import os
import random
import resource
import struct
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multimodal_embedding_serving.checkpoints.token_settings import (
    TokenSettings,
    inspect_tokenizer,
)
from multimodal_embedding_serving.engine.preprocess import prepare_texts
from multimodal_embedding_serving.errors import (
    BundleError,
    CheckpointError,
    EmbeddingError,
    InvalidInput,
    TooLarge,
)
from multimodal_embedding_serving.inputs.items import TextItem
from multimodal_embedding_serving.transforms.text import (
    MAX_GROWN_BYTES,
    TextTransform,
    check_prompts,
    read_tokenizer_file,
)
from multimodal_embedding_serving.transforms.tokenizer_check import (
    MAX_TOKENIZER_BYTES,
    check_tokenizer,
)
from multimodal_embedding_serving.transforms.tokenizer_patterns import (
    UnboundedPattern,
    check_pattern,
)
from multimodal_embedding_serving.types import Features
from tests.conftest import ROOT, Figure

SPEC: dict[str, Any] = {"max_length": 16, "pad_id": 0, "eos_kept": False}
PLAIN: dict[str, Any] = {
    "version": "1.0", "truncation": None, "padding": None, "added_tokens": [],
    "normalizer": None, "pre_tokenizer": None, "post_processor": None, "decoder": None,
    "model": {"type": "WordLevel", "vocab": {"a": 0, "<unk>": 1}, "unk_token": "<unk>"},
}  # fmt: skip
CL100K = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CASED = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
)
O200K = (
    f"{CASED}|{CASED.replace('+(', '*(').replace(']*[', ']+[')}"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PUBLISHED_PATTERNS = [
    CL100K,
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+",
    O200K,
    r" ?[^(\s|[.,!?…。，、।۔،])]+",
    r"\s{2,}|[\n\r\t]",
    r"[!-/:-@\[-`{-~]",
    " {2,}",
]
SLOW_PATTERNS = [
    "(a+)+b", "a+b", "a*a*b", "(a|b)*c", "x*", "", "a||b", r"(?=a)b", r"(a)\1", "a{1000}",
    "a**", "a{2,}b", "(?:a{0,50}){0,50}", "(a?){30}a{30}", "a?" * 9 + "b", "(a|a)" * 9 + "b",
    r"\s*[\r\n]+", r"\s*[\r\n]+|\s|\s+", CASED, "(a", "[a", "(?<=a+)b", "a+$",
]  # fmt: skip


def chain(*parts: dict[str, Any], kind: str = "normalizers") -> dict[str, Any]:
    return {"type": "Sequence", kind: list(parts)}


def replace(content: str, pattern: dict[str, str] | None = None) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern or {"String": "a"}, "content": content}


def charsmap(units: list[int], text: bytes) -> str:
    """SentencePiece's table: a double array of 32 bits each, and the texts it refers to."""
    trie = b"".join(struct.pack("<I", unit) for unit in units)
    return base64.b64encode(struct.pack("<I", len(trie)) + trie + text).decode()


def precompiled(units: list[int], text: bytes = b"abc\0") -> dict[str, Any]:
    return {"type": "Precompiled", "precompiled_charsmap": charsmap(units, text)}


def template(single: list[Any], tokens: dict[str, Any] | None = None) -> dict[str, Any]:
    special = tokens or {}
    return {"type": "TemplateProcessing", "single": single, "pair": [], "special_tokens": special}


def split(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def nested(depth: int) -> dict[str, Any]:
    part: dict[str, Any] = {"type": "NFC"}
    for _ in range(depth):
        part = chain(part)
    return part


A = {"Sequence": {"id": "A", "type_id": 0}}
X = {"SpecialToken": {"id": "x", "type_id": 0}}
METASPACE = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
BOMBS: dict[str, tuple[dict[str, Any], str]] = {
    "30 doublings": ({"normalizer": chain(*[replace("aa")] * 30)}, "normalizer may make"),
    "one long replacement": ({"normalizer": replace("b" * 10_000)}, "text of 10000 bytes"),
    "an empty pattern": ({"normalizer": replace("b", {"String": ""})}, "pattern is empty"),
    "an empty match": ({"normalizer": replace("b", {"Regex": "x*"})}, "matches nothing"),
    "prefixes": (
        {"normalizer": chain(*[{"type": "Prepend", "prepend": "b" * 60}] * 3)}, "may make",
    ),
    "a long table": ({"normalizer": precompiled([0] * 4, b"b" * 5000)}, "may make 5e+03"),
    "a table that lies": (
        {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "//////8="}}, "malformed",
    ),
    "a table that is no base64": (
        {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "é"}}, "malformed",
    ),
    "deep": ({"normalizer": nested(100)}, "nested too deeply"),
    "deeper": ({"normalizer": nested(200)}, "nested too deeply"),
    "many": ({"normalizer": chain(*[{"type": "NFC"}] * 5000)}, "more than 32 parts"),
    "unknown": ({"normalizer": {"type": "Exec"}}, "'Exec' is not supported"),
    "no type": ({"normalizer": {"content": "b"}}, "not an object with a type"),
    "backtracking": ({"pre_tokenizer": split("(a+)+b")}, "more than linear time"),
    "spaces": ({"pre_tokenizer": chain(*[METASPACE] * 9, kind="pretokenizers")}, "may make"),
    "the text twice": ({"post_processor": template([A, A])}, "the text 2 times"),
    "no text": ({"post_processor": template([X])}, "the text 0 times"),
    "a million special tokens": (
        {"post_processor": template([A, X], {"x": {"id": "x", "ids": [0] * 10**6}})},
        "adds 1000000 tokens",
    ),
    "a decoder that grows": (
        {"decoder": replace("b" * 100_000) | {"type": "Replace"}}, "text of 100000 bytes",
    ),
    "a long token": ({"model": PLAIN["model"] | {"vocab": {"a" * 5000: 0}}}, "more than 1024"),
    "a huge id": ({"model": PLAIN["model"] | {"vocab": {"a": 1 << 40}}}, "not the id"),
    "no vocabulary": ({"model": {"type": "BPE", "merges": []}}, "vocab is missing"),
    "chance": ({"model": PLAIN["model"] | {"dropout": 0.5}}, "other tokens each time"),
    "long words": (
        {"model": PLAIN["model"] | {"max_input_chars_per_word": 10**9}}, "allowed: 1 to 200",
    ),
    "a score": ({"model": {"type": "Unigram", "vocab": [["a", float("nan")]]}}, "finite number"),
    "an empty added token": ({"added_tokens": [{"id": 0, "content": ""}]}, "has no content"),
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_rejected_before_the_library_reads_it(name: str) -> None:
    change, reason = BOMBS[name]
    text = json.dumps(PLAIN | change)
    for error in (BundleError, CheckpointError):
        with pytest.raises(error, match=r"tokenizer\.json: ") as raised:
            check_tokenizer(text, error)
        assert reason in raised.value.message
        assert "\n" not in raised.value.message
        assert len(raised.value.message) < 400
    with pytest.raises(BundleError, match=r"tokenizer\.json"):
        TextTransform(text, SPEC)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", '{"a": 1, "a": 2}', '{"model": ' + "9" * 5000 + "}", "[" * 100_000, "null"],
)
def test_text_that_is_no_tokenizer_is_rejected(text: str) -> None:
    with pytest.raises(BundleError, match=r"tokenizer\.json: "):
        check_tokenizer(text, BundleError)


def test_a_file_above_the_limit_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    with path.open("wb") as file:
        file.truncate(MAX_TOKENIZER_BYTES + 1)
    with pytest.raises(CheckpointError, match="larger than 64 MB"):
        read_tokenizer_file(path, CheckpointError)
    path.write_bytes(b"\xff")
    with pytest.raises(CheckpointError, match="not UTF-8"):
        read_tokenizer_file(path, CheckpointError)


@pytest.mark.parametrize("pattern", PUBLISHED_PATTERNS)
def test_patterns_of_published_tokenizers_are_linear(pattern: str) -> None:
    assert check_pattern(pattern) >= 1
    check_tokenizer(json.dumps(PLAIN | {"pre_tokenizer": split(pattern)}), BundleError)


@pytest.mark.parametrize("pattern", SLOW_PATTERNS)
def test_a_pattern_that_may_take_long_is_rejected(pattern: str) -> None:
    with pytest.raises(UnboundedPattern):
        check_pattern(pattern)


@given(st.text(alphabet="ab[](){}|*+?^$\\,.09-:!=<ps", max_size=30))
@settings(max_examples=300, deadline=None)
def test_any_pattern_is_linear_or_rejected(pattern: str) -> None:
    with suppress(UnboundedPattern):
        assert check_pattern(pattern) >= 1
        tokenizer = json.dumps(PLAIN | {"pre_tokenizer": split(pattern)})
        with suppress(EmbeddingError):  # the library may not know an escape
            TextTransform(tokenizer, SPEC).prepare("ab" * 2000 + " " * 2000)


def test_a_text_that_would_grow_too_much_is_a_413_and_a_short_one_is_served() -> None:
    grows = chain(replace("bbbbbbbbbb"), replace("cccccccccc", {"String": "b"}))
    transform = TextTransform(json.dumps(PLAIN | {"normalizer": grows}), SPEC)
    assert transform.prepare("a").tokens == 1
    assert transform.prepare("x" * 400_000).tokens == 1  # long, and nothing grows
    with pytest.raises(TooLarge, match="this model's tokenizer makes more than"):
        transform.prepare("a" * 400_000)
    assert MAX_GROWN_BYTES < 100 * 400_000


def test_growth_that_is_taken_back_counts_too() -> None:
    grows = chain(replace("b" * 60), replace("", {"String": "b"}))
    transform = TextTransform(json.dumps(PLAIN | {"normalizer": grows}), SPEC)
    with pytest.raises(TooLarge):
        transform.prepare("a" * 400_000)


PANICS = [0xFFFFFFFF] * 64


def test_a_panic_while_converting_is_a_checkpoints_error() -> None:
    text = json.dumps(PLAIN | {"normalizer": precompiled(PANICS)})
    check_tokenizer(text, CheckpointError)
    with pytest.raises(CheckpointError, match="the library failed on it"):
        inspect_tokenizer(text, TokenSettings())
    broken = json.dumps(PLAIN | {"normalizer": precompiled(PANICS, b"\xff\0")})
    with pytest.raises(BundleError, match="the library failed on it"):
        TextTransform(broken, SPEC)


def test_a_panic_while_serving_is_that_texts_error_only() -> None:
    """The table is read for what is between added tokens: an added token is no panic."""
    added = {
        "id": 0, "content": "a", "single_word": False, "lstrip": False, "rstrip": False,
        "normalized": False, "special": False,
    }  # fmt: skip
    tokenizer = PLAIN | {"normalizer": precompiled(PANICS), "added_tokens": [added]}
    prepare = prepare_texts(TextTransform(json.dumps(tokenizer), SPEC))
    first, second, third = prepare([TextItem("a"), TextItem("private words"), TextItem("aa")])
    assert isinstance(first, Features)
    assert isinstance(third, Features)
    assert isinstance(second, InvalidInput)
    assert second.message == "the text could not be tokenized: the library failed on it"


@pytest.mark.parametrize(
    "prompt",
    ["", "{text}{text}", "{text:>1000000000}", "{text.__class__}", "{text!r}", "{0}", "{", "{x}",
     "{instruction}", "x" * 20_000 + "{text}"],
)  # fmt: skip
def test_a_prompt_of_a_manifest_has_the_text_once_and_no_format(prompt: str) -> None:
    with pytest.raises(BundleError, match=r"prompts\.query must be a pattern"):
        check_prompts({"query": prompt})


CHILD = """
import random, resource, sys
from tests.transforms.test_tokenizer_bombs import fuzz
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
resource.setrlimit(resource.RLIMIT_CPU, (500, 500))
print(*fuzz(int(sys.argv[1]), random.Random(int(sys.argv[2]))))
"""


def fuzz(count: int, rng: random.Random) -> tuple[int, int]:
    """Mutate tokenizers and use them -> how many were served and how many rejected."""
    golden = ROOT / "tests" / "golden" / "tokenizers" / "gemma.json"
    mini = ROOT / "src" / "multimodal_embedding_serving" / "builtin" / "mini" / "tokenizer.json"
    sources = [json.loads(each.read_text("utf-8")) for each in (golden, mini)]
    sources.append(PLAIN)
    parts = [part for change, _ in BOMBS.values() for part in change.items()]
    parts += [("normalizer", precompiled([rng.getrandbits(32) for _ in range(64)]))]
    parts += [("normalizer", chain({"type": "NFKC"}, replace("▁", {"String": " "})))]
    parts += [("pre_tokenizer", chain(split(CL100K), METASPACE, kind="pretokenizers"))]
    parts += [("post_processor", template([X, A], {"x": {"id": "x", "ids": [1], "tokens": ["y"]}}))]
    served = rejected = 0
    for _ in range(count):
        source = rng.choice(sources)
        if rng.random() < 0.7:
            source = source | dict([rng.choice(parts)])
        text = json.dumps(mutate(source, rng) if rng.random() < 0.7 else source)
        try:
            transform = TextTransform(text, SPEC)
            for each in ("hello é \u3000World", "a" * 20_000, "x y " * 5000, "ﷺ" * 9000):
                transform.prepare(each)
            transform.decode([0, 1])
            served += 1
        except EmbeddingError:
            rejected += 1
    return served, rejected


def mutate(value: Any, rng: random.Random, depth: int = 0) -> Any:
    """A copy of JSON data in which one value, somewhere, is another."""
    if isinstance(value, dict) and value and (depth < 2 or rng.random() < 0.8):
        key = rng.choice(list(value))
        return {**value, key: mutate(value[key], rng, depth + 1)}
    if isinstance(value, list) and value and rng.random() < 0.8:
        place = rng.randrange(len(value))
        return [*value[:place], mutate(value[place], rng, depth + 1), *value[place + 1 :]]
    if isinstance(value, str):
        return rng.choice(["", "a", "▁" * 20, "é" * 2000, value * 2, value[:1], "(a|b)+?c"])
    if isinstance(value, int | float):
        return rng.choice([0, 1, -1, 7, -3.5, 1 << 31, 1 << 70, True])
    return rng.choice([None, 0, "", [], {}, [[]], {"Regex": r"\p{Nope}"}, nested(3), METASPACE])


def run_fuzz(count: int, figure: Figure) -> None:
    seed = int(os.environ.get("FUZZ_SEED") or random.randrange(1 << 32))
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(count), str(seed)],
        cwd=ROOT, env={**os.environ, "RUST_BACKTRACE": "0"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"FUZZ_SEED={seed}: {done.returncode} {done.stderr[-2000:]}"
    served, rejected = map(int, done.stdout.split())
    assert served + rejected == count
    assert min(served, rejected) > count // 20
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss >> 10
    figure(f"{count} mutated tokenizers: {served} served, {rejected} rejected, peak {peak} MB")


def test_mutated_tokenizers_neither_end_the_process_nor_hang(figure: Figure) -> None:
    run_fuzz(60, figure)


@pytest.mark.slow
def test_many_mutated_tokenizers_neither_end_the_process_nor_hang(figure: Figure) -> None:
    run_fuzz(2000, figure)
