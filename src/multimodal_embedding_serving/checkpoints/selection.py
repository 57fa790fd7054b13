"""Which files of a repository or a folder make a checkpoint: names in, names out, nothing read.

The order is that of docs/models.md: safetensors of the transformers layout (single or sharded),
safetensors of OpenCLIP, then pickles. Only files at the top count: a repository's folders hold
exports for other runtimes. (Modules of sentence-transformers are the exception: modules.json names
their folders.)
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from multimodal_embedding_serving.checkpoints.weights import quote
from multimodal_embedding_serving.errors import CheckpointError

Layout = Literal["transformers", "open_clip", "apple", "cn_clip"]
"""Whose names the tensors have, as far as the files' own names tell."""

CONFIG, OPEN_CLIP_CONFIG = "config.json", "open_clip_config.json"
TOKENIZER = "tokenizer.json"
TOKENIZER_SETTINGS = ("tokenizer_config.json", "special_tokens_map.json")
SENTENCEPIECE = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model")
"""Tokenizers that only their own library reads."""
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
DOCUMENTS = (
    "preprocessor_config.json",
    "processor_config.json",
    *TOKENIZER_SETTINGS,
    "config_sentence_transformers.json",
    "sentence_bert_config.json",
    ADAPTER_CONFIG,
)
"""JSON files beside the configuration that decide vectors."""
VOCABULARIES = (("vocab.txt",), ("vocab.json", "merges.txt"))
"""What a tokenizer is built from where there is no tokenizer.json: WordPiece, BPE."""

_SINGLE: Sequence[tuple[str, Layout]] = (
    ("model.safetensors", "transformers"),
    ("open_clip_model.safetensors", "open_clip"),
    ("pytorch_model.bin", "transformers"),
    ("open_clip_pytorch_model.bin", "open_clip"),
)
_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<total>\d{5})(?P<suffix>\.\w+)")
_SHOWN = 24
EXPECTED = (
    "model.safetensors (single or sharded), open_clip_model.safetensors, pytorch_model.bin, "
    "open_clip_pytorch_model.bin, one *.pt"
)


@dataclass(frozen=True, slots=True)
class Selection:
    """The weight files of a checkpoint; of shards the index alone, where there is one."""

    weights: tuple[str, ...]
    layout: Layout


def select_weights(names: Collection[str], where: str) -> Sequence[Selection]:
    """Every checkpoint among the files `names`, in the order in which they are tried.

    `where` (a repository or folder) starts errors. Raises CheckpointError listing the files when
    nothing fits.
    """
    selections: list[Selection] = []
    for name, layout in _SINGLE:
        index, shards = f"{name}.index.json", _find_shards(names, name)
        if name in names:
            selections.append(Selection((name,), layout))
        elif index in names:
            selections.append(Selection((index,), layout))
        elif shards:
            selections.append(Selection(shards, layout))
        elif name == "open_clip_model.safetensors" and (lone := _find_lone(names, ".safetensors")):
            selections.append(Selection((lone,), _guess_layout(lone, names)))
    if lone := _find_lone(names, ".pt"):
        selections.append(Selection((lone,), _guess_layout(lone, names)))
    if not selections:
        raise CheckpointError(
            f"{where} has no readable checkpoint; expected one of {EXPECTED}; "
            f"found {describe_names(names)}"
        )
    return selections


def select_config(names: Collection[str], layout: Layout) -> str | None:
    """The file that describes the model, by preference that of the layout."""
    configs = (CONFIG, OPEN_CLIP_CONFIG)
    for name in configs[::-1] if layout == "open_clip" else configs:
        if name in names:
            return name
    return None


def select_tokenizer(names: Collection[str]) -> tuple[str, ...]:
    """The tokenizer's files: tokenizer.json, or the vocabulary that it is built from."""
    settings = tuple(name for name in TOKENIZER_SETTINGS if name in names)
    if TOKENIZER in names:
        return (TOKENIZER, *settings)
    for vocabulary in VOCABULARIES:
        if all(name in names for name in vocabulary):
            return (*vocabulary, *settings)
    return ()


def describe_names(names: Collection[str]) -> str:
    """A short list for an error: the files at the top, and how many lie deeper."""
    top = sorted(name for name in names if "/" not in name)
    shown = [quote(name)[1:-1] for name in top[:_SHOWN]]
    if len(top) > _SHOWN:
        shown.append(f"{len(top) - _SHOWN} more")
    if len(top) < len(names):
        shown.append(f"{len(names) - len(top)} in folders")
    return ", ".join(shown) or "nothing"


def _find_shards(names: Collection[str], single: str) -> tuple[str, ...]:
    """All shards of `single`, in order, where they are complete though no index lists them."""
    stem, _, suffix = single.rpartition(".")
    totals: dict[str, int] = {}
    for name in names:
        match = _SHARD.fullmatch(name)
        if match and (match["stem"], match["suffix"]) == (stem, f".{suffix}"):
            totals[name] = int(match["total"])
    counts = set(totals.values())
    return tuple(sorted(totals)) if counts == {len(totals)} else ()


def _find_lone(names: Collection[str], suffix: str) -> str | None:
    """The only file at the top with this suffix."""
    ordinary = {single for single, _ in _SINGLE}
    matches = [
        name
        for name in names
        if name.endswith(suffix)
        and "/" not in name
        and name not in ordinary
        and not _SHARD.fullmatch(name)
    ]
    if len(matches) > 1:
        matches = [name for name in matches if name != ADAPTER_WEIGHTS]
    return matches[0] if len(matches) == 1 else None


def _guess_layout(name: str, names: Collection[str]) -> Layout:
    if name.startswith("mobileclip"):
        return "apple"
    if name.startswith("clip_cn"):
        return "cn_clip"
    return "open_clip" if OPEN_CLIP_CONFIG in names else "transformers"
