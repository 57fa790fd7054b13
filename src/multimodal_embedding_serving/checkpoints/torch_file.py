"""torch's zip pickles (.pt, .bin) -> named tensors, memory-mapped, without torch.

An archive holds one folder with `data.pkl`, a pickle whose tensors point at storages, and the
storages as uncompressed entries `data/<key>`, which are mapped straight out of the file. Nothing of
the pickle is run: it may rebuild tensors, and a name of anything else is refused by that name.
Source: https://docs.pytorch.org/docs/stable/notes/serialization.html
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from multimodal_embedding_serving.checkpoints.pickle_reader import BadPickle, Known, interpret
from multimodal_embedding_serving.checkpoints.weights import (
    STORAGE,
    DType,
    StoredTensor,
    Weights,
    byte_count,
    map_file,
    quote,
    view,
)
from multimodal_embedding_serving.checkpoints.zip_reader import Archive
from multimodal_embedding_serving.errors import CheckpointError

STORAGE_NAMES: Mapping[str, DType] = {
    "DoubleStorage": "F64",
    "FloatStorage": "F32",
    "HalfStorage": "F16",
    "BFloat16Storage": "BF16",
    "LongStorage": "I64",
    "IntStorage": "I32",
    "ShortStorage": "I16",
    "CharStorage": "I8",
    "ByteStorage": "U8",
    "BoolStorage": "BOOL",
}
_TORCH_STORAGE = "torch."


@dataclass(frozen=True, slots=True)
class Storage:
    """A run of `count` elements in the entry data/<key>."""

    dtype: DType
    key: str
    count: int


@dataclass(frozen=True, slots=True)
class Strided:
    """A tensor as the pickle describes it; offset and strides in elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read_pickle(path: Path) -> Weights:
    """Map a torch zip pickle; the dict under `state_dict`, where there is one, is the checkpoint.

    Raises CheckpointError naming the file and the tensor, or the name that the pickle may not use.
    """
    buffer = map_file(path)
    archive = Archive(path, buffer)
    try:
        root = interpret(archive.pickle(), NAMES, _load_storage)
    except BadPickle as error:
        raise CheckpointError(f"{path.name}: {error}") from None
    if isinstance(root, dict) and isinstance(root.get("state_dict"), dict):
        root = root["state_dict"]
    if not isinstance(root, dict):
        raise CheckpointError(f"{path.name}: the pickle is not a dict of tensors")
    tensors = {
        name: _map_tensor(name, value, archive, buffer)
        for name, value in root.items()
        if isinstance(name, str) and isinstance(value, Strided)
    }
    if not tensors:
        raise CheckpointError(f"{path.name}: the pickle contains no tensors")
    return Weights(tensors, file=path.name)


def _map_tensor(name: str, tensor: Strided, archive: Archive, buffer: mmap.mmap) -> StoredTensor:
    where = f"{archive.file}: tensor {quote(name)}"
    storage = tensor.storage
    itemsize = STORAGE[storage.dtype].itemsize
    byte_count(storage.dtype, tensor.shape, where)
    start, size = archive.find_data(storage.key, where)
    if storage.count * itemsize > size:
        raise CheckpointError(f"{where} is truncated: {size} bytes hold its storage")
    count = math.prod(tensor.shape)
    last = sum(
        (size - 1) * stride for size, stride in zip(tensor.shape, tensor.strides, strict=True)
    )
    # Elements may not be repeated by a zero stride: a few bytes could claim to be gigabytes.
    if count and (tensor.offset + last >= storage.count or count > storage.count):
        raise CheckpointError(f"{where} reaches outside its storage")
    strides = tuple(stride * itemsize for stride in tensor.strides)
    offset = start + tensor.offset * itemsize
    data = view(buffer, storage.dtype, tensor.shape, offset, strides if count else None)
    return StoredTensor(name, storage.dtype, tensor.shape, data, archive.file)


# What the pickle may name.


def _load_storage(identity: object) -> Storage:
    match identity:
        case ("storage", Known(name=name), str(key), _, int(count)):
            dtype = STORAGE_NAMES.get(name.removeprefix(_TORCH_STORAGE))
            if dtype is not None and 0 <= count < 1 << 62:
                return Storage(dtype, key, count)
    raise BadPickle("the pickle loads an object that is not a storage")


def _rebuild_tensor(arguments: tuple[Any, ...]) -> Strided:
    match arguments:
        case (Storage() as storage, int(offset), tuple(shape), tuple(strides), _, _, *more):
            sizes = (offset, *shape, *strides)
            sane = all(type(size) is int and 0 <= size < 1 << 62 for size in sizes)
            # A seventh argument marks conjugated or negated views, which weights never are.
            if sane and len(shape) == len(strides) and not any(more):
                return Strided(storage, offset, shape, strides)
    raise BadPickle("the pickle rebuilds a tensor from invalid arguments")


def _rebuild_parameter(arguments: tuple[Any, ...]) -> Strided:
    if arguments and isinstance(arguments[0], Strided):
        return arguments[0]
    raise BadPickle("the pickle rebuilds a parameter from an object that is not a tensor")


def _rebuild_dict(arguments: tuple[Any, ...]) -> dict[Any, Any]:
    if arguments:
        raise BadPickle("the pickle builds an OrderedDict from arguments")
    return {}


def _rebuild_size(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    match arguments:
        case (tuple(sizes),):
            return sizes
    raise BadPickle("the pickle builds a torch.Size from an object that is not a tuple")


NAMES: Mapping[str, Known] = {
    known.name: known
    for known in (
        Known("collections.OrderedDict", _rebuild_dict),
        Known("torch._utils._rebuild_tensor_v2", _rebuild_tensor),
        Known("torch._utils._rebuild_parameter", _rebuild_parameter),
        Known("torch.Size", _rebuild_size),
        *(Known(_TORCH_STORAGE + name) for name in STORAGE_NAMES),
    )
}
