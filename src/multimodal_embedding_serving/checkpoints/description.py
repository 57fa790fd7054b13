"""What a checkpoint's files say beside its tensors' sizes, as plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from multimodal_embedding_serving.checkpoints.hub import CheckpointFiles
from multimodal_embedding_serving.checkpoints.modules import (
    Dense,
    ModuleSettings,
    read_module_settings,
)
from multimodal_embedding_serving.checkpoints.pixel_settings import (
    PixelSettings,
    read_pixel_settings,
)
from multimodal_embedding_serving.checkpoints.shards import read_weights
from multimodal_embedding_serving.checkpoints.token_settings import (
    TokenizerFacts,
    TokenSettings,
    inspect_tokenizer,
)
from multimodal_embedding_serving.checkpoints.weights import Weights


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """Everything is at its default where a checkpoint says nothing."""

    pixels: PixelSettings = field(default_factory=PixelSettings)
    tokens: TokenSettings = field(default_factory=TokenSettings)
    tokenizer: TokenizerFacts = field(default_factory=TokenizerFacts)
    modules: ModuleSettings = field(default_factory=ModuleSettings)
    dense: Sequence[tuple[Dense, Weights]] = ()
    """Layers after pooling, with their `weight` [out, in] and perhaps `bias` [out]."""


def describe_checkpoint(
    files: CheckpointFiles,
    documents: Mapping[str, Mapping[str, Any]],
    tokens: TokenSettings,
    tokenizer: str,
) -> Description:
    """`documents` are the JSON files without the keys that the user accepts; `tokenizer` is the
    text of tokenizer.json. Raises CheckpointError naming file, key and value."""
    modules = read_module_settings(files.modules, documents)
    return Description(
        pixels=read_pixel_settings(documents),
        tokens=tokens,
        tokenizer=inspect_tokenizer(tokenizer, tokens),
        modules=modules,
        dense=[(each, _read_dense(files, each)) for each in modules.dense],
    )


def _read_dense(files: CheckpointFiles, dense: Dense) -> Weights:
    paths = [path for name, path in files.parts.items() if name.startswith(f"{dense.path}/")]
    return read_weights(paths).sub("linear.")
