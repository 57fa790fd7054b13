"""safetensors files -> named tensors, memory-mapped, nothing copied.

Format: 8 bytes little-endian header length, a JSON object {name: {dtype, shape, data_offsets}},
then the data; offsets count from the end of the header and must cover the data without gap or
overlap. Source: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import mmap
from collections import Counter
from pathlib import Path
from typing import Any, NoReturn, cast

from multimodal_embedding_serving.checkpoints.weights import (
    DTYPES,
    DType,
    StoredTensor,
    Weights,
    byte_count,
    map_file,
    quote,
    view,
)
from multimodal_embedding_serving.errors import CheckpointError

LENGTH_BYTES = 8
MAX_HEADER = 16 << 20
"""Bytes of JSON: an honest header takes about 100 a tensor; parsing takes ten times its size."""


def read_safetensors(path: Path) -> Weights:
    """Map a safetensors file. Raises CheckpointError naming the file and the tensor at fault."""
    buffer = map_file(path)
    header, start = _read_header(buffer, path.name)
    metadata = header.pop("__metadata__", {})
    if not (isinstance(metadata, dict) and all(isinstance(v, str) for v in metadata.values())):
        raise CheckpointError(f"{path.name}: __metadata__ must map strings to strings")
    tensors: dict[str, StoredTensor] = {}
    ranges: list[tuple[int, int, str]] = []
    for name, entry in header.items():
        where = f"{path.name}: tensor {quote(name)}"
        dtype, shape, begin, end = _read_entry(entry, where, len(buffer) - start)
        data = view(buffer, dtype, shape, start + begin)
        tensors[name] = StoredTensor(name, dtype, shape, data, path.name)
        ranges.append((begin, end, name))
    _check_cover(ranges, len(buffer) - start, path.name)
    return Weights(tensors, file=path.name, metadata=metadata)


def _read_header(buffer: mmap.mmap, file: str) -> tuple[dict[str, Any], int]:
    """The header's table and the offset where the data starts."""
    if len(buffer) < LENGTH_BYTES:
        raise CheckpointError(f"{file}: truncated, {len(buffer)} bytes hold no header length")
    length = int.from_bytes(buffer[:LENGTH_BYTES], "little")
    start = LENGTH_BYTES + length
    if length > MAX_HEADER:
        raise CheckpointError(f"{file}: a header of {length} bytes, allowed: {MAX_HEADER}")
    if start > len(buffer):
        raise CheckpointError(f"{file}: truncated inside its header")
    try:
        header = json.loads(
            buffer[LENGTH_BYTES:start].decode("utf-8"),
            object_pairs_hook=_unique,
            parse_constant=_refuse_constant,
        )
    except (ValueError, RecursionError) as error:
        reason = str(error) if isinstance(error, _BadHeader) else "not valid JSON"
        raise CheckpointError(f"{file}: corrupt header, {reason}") from None
    if not isinstance(header, dict):
        raise CheckpointError(f"{file}: corrupt header, not a JSON object")
    return header, start


class _BadHeader(ValueError):
    """JSON that parses but may not be in a header."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        twice, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise _BadHeader(f"{quote(twice)} appears twice")
    return table


def _refuse_constant(word: str) -> NoReturn:
    raise _BadHeader(f"{word} is not a number")


def _read_entry(
    entry: object, where: str, data_bytes: int
) -> tuple[DType, tuple[int, ...], int, int]:
    """One checked entry: dtype, shape, first byte and the byte behind the last."""
    match entry:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [begin, end]}:
            pass
        case _:
            raise CheckpointError(f"{where} lacks a dtype, a shape or its two offsets")
    if dtype not in DTYPES:
        raise CheckpointError(f"{where} has the unknown dtype {quote(dtype)}")
    kind = cast("DType", dtype)
    size = byte_count(kind, shape, where)
    if type(begin) is not int or type(end) is not int or not 0 <= begin <= end:
        raise CheckpointError(f"{where} has invalid offsets")
    if end > data_bytes:
        raise CheckpointError(f"{where} lies outside the file: truncated or corrupt")
    if end - begin != size:
        raise CheckpointError(f"{where} has {end - begin} bytes, its shape needs {size}")
    return kind, tuple(shape), begin, end


def _check_cover(ranges: list[tuple[int, int, str]], data_bytes: int, file: str) -> None:
    """Each byte of the data belongs to exactly one tensor, as the format demands."""
    position = 0
    for begin, end, name in sorted(ranges):
        if begin < position:
            raise CheckpointError(f"{file}: tensor {quote(name)} overlaps another")
        if begin > position:
            raise CheckpointError(
                f"{file}: tensor {quote(name)} follows bytes that belong to no tensor"
            )
        position = end
    if position != data_bytes:
        raise CheckpointError(f"{file}: {data_bytes - position} bytes after the last tensor")
