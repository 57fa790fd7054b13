"""Named tensors of a checkpoint, as views of the memory-mapped files that hold them."""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from multimodal_embedding_serving.errors import CheckpointError

DType = Literal["F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U8", "BOOL"]
DTYPES: frozenset[str] = frozenset(get_args(DType))

STORAGE: Mapping[str, np.dtype[Any]] = MappingProxyType(
    {
        "F64": np.dtype("<f8"),
        "F32": np.dtype("<f4"),
        "F16": np.dtype("<f2"),
        "BF16": np.dtype("<u2"),  # numpy has no bfloat16: its bits
        "I64": np.dtype("<i8"),
        "I32": np.dtype("<i4"),
        "I16": np.dtype("<i2"),
        "I8": np.dtype("i1"),
        "U8": np.dtype("u1"),
        "BOOL": np.dtype("?"),
    }
)
"""How each dtype lies in memory. Both file formats are little endian."""

MAX_DIMENSIONS = 16
MAX_BYTES = 1 << 62
SHOWN = 120
"""Characters of a name from a file that an error repeats: a hostile name may hold megabytes."""


class MissingTensor(CheckpointError, KeyError):
    """A tensor that the checkpoint lacks; also a KeyError, as a Mapping promises."""


def quote(name: object) -> str:
    """A name out of a file, made fit for a message: escaped and cut."""
    shown = ascii(name)
    return shown if len(shown) <= SHOWN else shown[:SHOWN] + "…"


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One tensor as its file stores it.

    `data` is a read-only view of the mapped file in the tensor's shape (BF16 as uint16). It need be
    neither contiguous (torch keeps strides) nor aligned (a safetensors header may have any length).
    """

    name: str
    dtype: DType
    shape: tuple[int, ...]
    data: NDArray[Any]
    file: str = ""
    """Base name of the file that holds it."""

    def float32(self) -> NDArray[np.float32]:
        """The values as float32: the view itself for F32, a private copy for all else."""
        if self.dtype == "BF16":
            wide = self.data.astype(np.uint32)
            wide <<= 16
            return wide.view(np.float32)
        return self.data.astype(np.float32, copy=False)


class Weights(Mapping[str, StoredTensor]):
    """The tensors of one checkpoint by name. A missing one is an error naming file and tensor."""

    def __init__(
        self,
        tensors: Mapping[str, StoredTensor],
        *,
        file: str,
        prefix: str = "",
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        self.file = file
        """Base name of the file, or of the index of its shards."""
        self.metadata: Mapping[str, str] = dict(metadata or {})
        """What a safetensors file says of itself under `__metadata__`."""
        self._tensors = dict(tensors)
        self._prefix = prefix

    def __getitem__(self, name: str) -> StoredTensor:
        try:
            return self._tensors[name]
        except KeyError:
            missing = quote(self._prefix + name)
            raise MissingTensor(f"{self.file}: tensor {missing} is missing") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __repr__(self) -> str:
        return f"Weights({self.file!r}, {len(self)} tensors)"

    def tensor(self, name: str, shape: Sequence[int | None] | None = None) -> StoredTensor:
        """The tensor `name`, checked to have `shape` (None in it: any size).

        Raises CheckpointError naming the file, the tensor and both shapes.
        """
        tensor = self[name]
        if shape is None or (
            len(tensor.shape) == len(shape)
            and all(want in (None, have) for want, have in zip(shape, tensor.shape, strict=True))
        ):
            return tensor
        expected = "x".join("any" if size is None else str(size) for size in shape) or "scalar"
        actual = "x".join(map(str, tensor.shape)) or "scalar"
        file = tensor.file or self.file
        full = quote(self._prefix + name)
        raise CheckpointError(f"{file}: tensor {full} has shape {actual}, expected {expected}")

    def sub(self, prefix: str) -> Weights:
        """The tensors whose names start with `prefix`, under what follows it."""
        cut = {
            name.removeprefix(prefix): tensor
            for name, tensor in self._tensors.items()
            if name.startswith(prefix)
        }
        return Weights(cut, file=self.file, prefix=self._prefix + prefix, metadata=self.metadata)


LFS_POINTER = b"version https://git-lfs"


def map_file(path: Path) -> mmap.mmap:
    """The whole file, mapped read-only. Raises CheckpointError naming it."""
    try:
        with path.open("rb") as file:
            if file.read(len(LFS_POINTER)) == LFS_POINTER:
                raise CheckpointError(
                    f"{path.name}: a Git LFS pointer, not the weights; run `git lfs pull` in the "
                    "repository, or download it with huggingface_hub"
                )
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        reason = error.strerror or "input/output error"
        raise CheckpointError(f"{path.name}: can't be read ({reason})") from None
    except ValueError:
        raise CheckpointError(f"{path.name}: the file is empty") from None


def byte_count(dtype: DType, shape: Sequence[int], where: str) -> int:
    """Bytes of a dense tensor. `where` starts the error: file and tensor."""
    if len(shape) > MAX_DIMENSIONS:
        raise CheckpointError(f"{where} has {len(shape)} dimensions, allowed: {MAX_DIMENSIONS}")
    if any(type(size) is not int or size < 0 for size in shape):
        raise CheckpointError(f"{where} has a shape that is not a list of sizes")
    # A zero must not hide absurd neighbours: numpy multiplies them before it meets the zero.
    if math.prod(max(size, 1) for size in shape) * STORAGE[dtype].itemsize > MAX_BYTES:
        raise CheckpointError(f"{where} has an invalid shape")
    return math.prod(shape) * STORAGE[dtype].itemsize


def view(
    buffer: mmap.mmap,
    dtype: DType,
    shape: tuple[int, ...],
    offset: int,
    strides: tuple[int, ...] | None = None,
) -> NDArray[Any]:
    """A view of checked bounds: offset and strides in bytes. The view keeps the mapping alive."""
    if 0 in shape:
        return np.empty(shape, STORAGE[dtype])
    return np.ndarray(shape, STORAGE[dtype], buffer=buffer, offset=offset, strides=strides)
