"""One file, several shards, or the index of shards -> the tensors of one checkpoint."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from multimodal_embedding_serving.checkpoints.safetensors import read_safetensors
from multimodal_embedding_serving.checkpoints.torch_file import read_pickle
from multimodal_embedding_serving.checkpoints.weights import (
    MissingTensor,
    StoredTensor,
    Weights,
    quote,
)
from multimodal_embedding_serving.errors import CheckpointError

INDEX_SUFFIX = ".index.json"
MAX_INDEX = 64 << 20


def read_weights(paths: Sequence[Path]) -> Weights:
    """Map a checkpoint: one file, all of its shards, or an index (alone, or among its shards).

    With an index, each tensor is taken from the shard that it names. Raises CheckpointError naming
    the file and the tensor at fault.
    """
    indexes = [path for path in paths if path.name.endswith(INDEX_SUFFIX)]
    match indexes, paths:
        case [], []:
            raise CheckpointError("no checkpoint files to read")
        case [], [path]:
            return _read(path)
        case [], _:
            return _merge([_read(path) for path in paths], paths[0].name)
        case [index], _:
            return _follow(index)
        case _:
            names = ", ".join(path.name for path in indexes)
            raise CheckpointError(f"a checkpoint with more than one index: {names}")


def read_index(path: Path) -> dict[str, str]:
    """An index's map: tensor name -> base name of the shard beside it that holds it."""
    try:
        if path.stat().st_size > MAX_INDEX:
            raise CheckpointError(f"{path.name}: larger than {MAX_INDEX} bytes")
        content = json.loads(path.read_bytes())
    except OSError as error:
        reason = error.strerror or "input/output error"
        raise CheckpointError(f"{path.name}: can't be read ({reason})") from None
    except (ValueError, RecursionError):
        raise CheckpointError(f"{path.name}: not valid JSON") from None
    table = content.get("weight_map") if isinstance(content, dict) else None
    if not (isinstance(table, dict) and table and all(isinstance(v, str) for v in table.values())):
        raise CheckpointError(f"{path.name}: weight_map must map tensor names to files")
    for name, shard in table.items():
        if shard in ("", ".", "..") or any(sign in shard for sign in "/\\\0"):
            raise CheckpointError(
                f"{path.name}: tensor {quote(name)} is in {quote(shard)}, which is not a file name"
            )
    return table


def _read(path: Path) -> Weights:
    """By its signature where the name may mean either: `.bin` and `.pt` are zip pickles."""
    return read_safetensors(path) if path.suffix == ".safetensors" else read_pickle(path)


def _follow(index: Path) -> Weights:
    table = read_index(index)
    shards = {shard: _read(index.with_name(shard)) for shard in sorted(set(table.values()))}
    tensors = {name: _take(name, shards[shard]) for name, shard in table.items()}
    return Weights(tensors, file=index.name, metadata=_metadata(list(shards.values())))


def _take(name: str, shard: Weights) -> StoredTensor:
    try:
        return shard[name]
    except MissingTensor as error:
        raise CheckpointError(f"{error.message}, though the index puts it there") from None


def _merge(shards: list[Weights], file: str) -> Weights:
    tensors: dict[str, StoredTensor] = {}
    for shard in shards:
        for name, tensor in shard.items():
            if name in tensors:
                first = tensors[name].file
                raise CheckpointError(f"{shard.file}: tensor {quote(name)} is in {first} too")
            tensors[name] = tensor
    return Weights(tensors, file=f"{file} and {len(shards) - 1} more", metadata=_metadata(shards))


def _metadata(shards: list[Weights]) -> Mapping[str, str]:
    return {key: value for shard in shards for key, value in shard.metadata.items()}
