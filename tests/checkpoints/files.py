"""Writers of checkpoint files, honest and hostile, that need neither torch nor safetensors."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Arrays = Mapping[str, NDArray[Any]]
"""Tensors by name; uint16 is written as BF16, for numpy has none."""

NAMES = {
    "float64": ("F64", "DoubleStorage"),
    "float32": ("F32", "FloatStorage"),
    "float16": ("F16", "HalfStorage"),
    "uint16": ("BF16", "BFloat16Storage"),
    "int64": ("I64", "LongStorage"),
    "int32": ("I32", "IntStorage"),
    "int16": ("I16", "ShortStorage"),
    "int8": ("I8", "CharStorage"),
    "uint8": ("U8", "ByteStorage"),
    "bool": ("BOOL", "BoolStorage"),
}


def join_safetensors(header: object, data: bytes = b"", *, length: int | None = None) -> bytes:
    """A file around any header: JSON of an object, or bytes as they are."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    size = len(text) if length is None else length
    return size.to_bytes(8, "little") + text + data


def write_safetensors(path: Path, arrays: Arrays, metadata: dict[str, str] | None = None) -> Path:
    """As the library writes it: spaces fill the header, so that tensors lie at multiples of 8."""
    header: dict[str, object] = {} if metadata is None else {"__metadata__": metadata}
    end = 0
    for name, array in arrays.items():
        header[name] = {
            "dtype": NAMES[array.dtype.name][0],
            "shape": list(array.shape),
            "data_offsets": [end, end + array.nbytes],
        }
        end += array.nbytes
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(join_safetensors(text + b" " * (-len(text) % 8)))
        for array in arrays.values():
            file.write(np.ascontiguousarray(array).data)
    return path


@dataclass(frozen=True)
class Name:
    """A global that the pickle mentions, whether or not it exists here."""

    module: str
    name: str

    def __call__(self) -> None:
        """Callable, as pickle demands of what it calls."""


@dataclass(frozen=True)
class Call:
    """A call that the pickle asks for."""

    function: object
    arguments: tuple[Any, ...]
    state: object = None

    def __reduce__(self) -> tuple[Any, ...]:
        return (self.function, self.arguments, self.state)


@dataclass(frozen=True)
class Persistent:
    """An object that the pickle loads by a persistent id."""

    identity: object


class _Pickler(pickle._Pickler):
    """Python's own pickler, for its C twin imports each global that it writes."""

    def save(self, obj: Any, save_persistent_id: bool = True) -> None:
        if isinstance(obj, Name):
            self.write(f"c{obj.module}\n{obj.name}\n".encode())  # type: ignore[attr-defined]
        else:
            super().save(obj, save_persistent_id)  # type: ignore[misc]

    def persistent_id(self, obj: Any) -> Any:
        return obj.identity if isinstance(obj, Persistent) else None


def pickled(root: object) -> bytes:
    stream = io.BytesIO()
    _Pickler(stream, 2).dump(root)
    return stream.getvalue()


REBUILD = Name("torch._utils", "_rebuild_tensor_v2")
PARAMETER = Name("torch._utils", "_rebuild_parameter")


def storage(key: str, count: object, kind: str = "FloatStorage") -> Persistent:
    return Persistent(("storage", Name("torch", kind), key, "cpu", count))


def tensor(where: object, offset: object, shape: object, strides: object, *more: object) -> Call:
    return Call(REBUILD, (where, offset, shape, strides, False, OrderedDict(), *more))


@dataclass
class TorchFile:
    """A torch archive in the making: a pickle and its storages."""

    storages: dict[str, bytes] = field(default_factory=dict)

    def add(self, array: NDArray[Any]) -> Call:
        """A dense tensor and its storage."""
        key = str(len(self.storages))
        self.storages[key] = array.tobytes()
        strides = tuple(step // array.itemsize for step in np.ascontiguousarray(array).strides)
        where = storage(key, array.size, NAMES[array.dtype.name][1])
        return tensor(where, 0, array.shape, strides[: array.ndim])

    def write(self, path: Path, root: object, *, packed: int = zipfile.ZIP_STORED) -> Path:
        stream = root if isinstance(root, bytes) else pickled(root)
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", stream)
            archive.writestr("archive/byteorder", "little")
            for key, content in self.storages.items():
                archive.writestr(f"archive/data/{key}", content, packed)
            archive.writestr("archive/version", "3\n")
        return path


def write_pickle(
    path: Path, arrays: Arrays, around: Callable[[dict[str, Call]], object] = lambda state: state
) -> Path:
    """`around` turns the state dict into the object that is pickled."""
    file = TorchFile()
    return file.write(path, around({name: file.add(array) for name, array in arrays.items()}))
