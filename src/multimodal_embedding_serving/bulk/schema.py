"""Vectors as rows: the columns that every output of bulk work has, whatever its format.

`path` (what was embedded), `kind` (text, image or video), `frame` and `timestamp` (of a video's
frame; null otherwise), `vector`, `model`, `fingerprint` (vectors of equal ones may be compared).
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from multimodal_embedding_serving.bulk.items import Kind, printable
from multimodal_embedding_serving.bulk.models import Identity
from multimodal_embedding_serving.errors import MissingExtra
from multimodal_embedding_serving.inputs.items import FrameInfo

DType = Literal["f32", "f16"]
NUMPY: dict[DType, type[np.floating[Any]]] = {"f32": np.float32, "f16": np.float16}
NAMESPACE = uuid.UUID("6c9a3d2e-6f0b-5d0e-9c53-7f2f7d6a8b10")
"""Of row ids; generated once for this project."""


@dataclass(frozen=True, slots=True)
class Layout:
    """What all rows of an output share."""

    model: str
    fingerprint: str
    """Empty if the server does not report one."""
    dimension: int
    dtype: DType = "f32"

    @classmethod
    def of(cls, identity: Identity, dtype: DType = "f32") -> Layout:
        return cls(identity.model, identity.fingerprint, identity.dimension, dtype)


@dataclass(slots=True)
class Rows:
    """Rows by column. Vectors are float32 or float16, as in the output."""

    path: list[str] = field(default_factory=list)
    kind: list[Kind] = field(default_factory=list)
    frame: list[int | None] = field(default_factory=list)
    timestamp: list[float | None] = field(default_factory=list)
    vectors: list[NDArray[np.floating[Any]]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.path)

    def add(
        self,
        key: str,
        kind: Kind,
        vectors: Iterable[NDArray[np.floating[Any]]],
        frames: Sequence[FrameInfo] | None,
        dtype: DType = "f32",
    ) -> int:
        """Add an item's vectors and return their number. `frames` describe them, if one each."""
        added = [np.asarray(vector, NUMPY[dtype]) for vector in vectors]
        places = frames if frames is not None and len(frames) == len(added) else None
        path = printable(key)
        self.path += [path] * len(added)
        self.kind += [kind] * len(added)
        self.frame += [place.index for place in places] if places else [None] * len(added)
        self.timestamp += [place.timestamp for place in places] if places else [None] * len(added)
        self.vectors += added
        return len(added)

    def matrix(self, layout: Layout) -> NDArray[np.floating[Any]]:
        """[rows, dimension] in the output's type."""
        if not self.vectors:
            return np.empty((0, layout.dimension), NUMPY[layout.dtype])
        return np.stack(self.vectors).astype(NUMPY[layout.dtype], copy=False)

    def facts(self, layout: Layout) -> Iterator[dict[str, Any]]:
        """Each row without its vector."""
        columns = zip(self.path, self.kind, self.frame, self.timestamp, strict=True)
        for path, kind, frame, timestamp in columns:
            yield {
                "path": path,
                "kind": kind,
                "frame": frame,
                "timestamp": timestamp,
                "model": layout.model,
                "fingerprint": layout.fingerprint,
            }

    def ids(self) -> list[str]:
        """A UUID for each row that is the same in every run: of its path and frame."""
        frames = zip(self.path, self.frame, strict=True)
        return [str(uuid.uuid5(NAMESPACE, f"{path}\0{frame}")) for path, frame in frames]


def pyarrow(feature: str = "Parquet") -> Any:
    """The library, loaded when it is first needed. Raises MissingExtra, which names the feature."""
    try:
        return import_module("pyarrow")
    except ModuleNotFoundError:
        raise MissingExtra(feature, "bulk") from None


def arrow_schema(layout: Layout) -> Any:
    """The pyarrow.Schema of the rows; the layout is in its metadata, too."""
    arrow = pyarrow()
    number = arrow.float32() if layout.dtype == "f32" else arrow.float16()
    return arrow.schema(
        [
            arrow.field("path", arrow.string(), nullable=False),
            arrow.field("kind", arrow.string(), nullable=False),
            arrow.field("frame", arrow.int64()),
            arrow.field("timestamp", arrow.float64()),
            arrow.field("vector", arrow.list_(number, layout.dimension), nullable=False),
            arrow.field("model", arrow.string(), nullable=False),
            arrow.field("fingerprint", arrow.string(), nullable=False),
        ],
        metadata={
            "mmes.model": layout.model,
            "mmes.fingerprint": layout.fingerprint,
            "mmes.dtype": layout.dtype,
        },
    )


def arrow_table(rows: Rows, layout: Layout) -> Any:
    """The rows as a pyarrow.Table of `arrow_schema`."""
    arrow = pyarrow()
    schema = arrow_schema(layout)
    flat = arrow.array(rows.matrix(layout).reshape(-1), schema.field("vector").type.value_type)
    columns = [
        arrow.array(rows.path, arrow.string()),
        arrow.array(rows.kind, arrow.string()),
        arrow.array(rows.frame, arrow.int64()),
        arrow.array(rows.timestamp, arrow.float64()),
        arrow.FixedSizeListArray.from_arrays(flat, layout.dimension),
        arrow.array([layout.model] * len(rows), arrow.string()),
        arrow.array([layout.fingerprint] * len(rows), arrow.string()),
    ]
    return arrow.Table.from_arrays(columns, schema=schema)
