"""Near-duplicates: groups of files whose vectors are almost the same.

The vectors are those of a folder's search index, or a file that `mmes embed` wrote. A video counts
as the mean of its frames.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multimodal_embedding_serving.bulk.formats import Jsonl, Npy, Parquet, files_at
from multimodal_embedding_serving.bulk.schema import pyarrow
from multimodal_embedding_serving.errors import InvalidInput, NotFound
from multimodal_embedding_serving.types import Vectors

BLOCK_ROWS = 1024
"""Compared at a time: 4 MB of cosines."""
ROUNDING = 1e-6
"""Of a cosine in float32: equal vectors must count as equal."""
SUFFIXES = tuple(each.suffixes[0] for each in (Parquet, Npy, Jsonl))


@dataclass(frozen=True, slots=True)
class Similar:
    """A file, and its cosine with the first file of its group."""

    path: str
    similarity: float


@dataclass(frozen=True, slots=True)
class NamedVectors:
    """One unit vector for each path."""

    paths: Sequence[str]
    vectors: Vectors

    @classmethod
    def of_rows(cls, paths: Iterable[str], rows: NDArray[Any]) -> NamedVectors:
        """Rows of frames, files or texts: rows of one path become their renormalized mean."""
        places: dict[str, int] = {}
        owners = [places.setdefault(path, len(places)) for path in paths]
        if len(owners) != len(rows):
            raise InvalidInput(f"there are {len(rows):,} vectors for {len(owners):,} paths")
        sums = np.zeros((len(places), rows.shape[1] if rows.ndim == 2 else 0), np.float32)
        np.add.at(sums, owners, rows)
        norms = np.linalg.norm(sums, axis=1, keepdims=True)
        return cls(list(places), np.divide(sums, norms, where=norms > 0, out=sums))

    def groups(self, minimum: float) -> list[list[Similar]]:
        """Groups of two or more; see `find_groups`."""
        return [
            [Similar(self.paths[row], similarity) for row, similarity in group]
            for group in find_groups(self.vectors, minimum)
        ]


def read_vectors(path: Path) -> NamedVectors:
    """The vectors of a file that `mmes embed` wrote.

    Raises NotFound, InvalidInput, MissingExtra.
    """
    if not path.is_file():
        raise NotFound(f"{path}: no such file or folder")
    suffix = path.suffix.lower()
    try:
        if suffix == Npy.suffixes[0]:
            _, lines = files_at(path.with_suffix(""), Npy.suffixes)
            with lines.open("rb") as file:
                paths = [str(json.loads(line)["path"]) for line in file]
            return NamedVectors.of_rows(paths, np.load(path, mmap_mode="r"))
        if suffix == Jsonl.suffixes[0]:
            with path.open("rb") as file:
                facts = [json.loads(line) for line in file]
            rows = np.array([each["vector"] for each in facts], np.float32)
            return NamedVectors.of_rows([str(each["path"]) for each in facts], rows)
        if suffix == Parquet.suffixes[0]:
            return _read_parquet(path)
    except FileNotFoundError as error:
        name = Path(error.filename).name
        raise NotFound(f"{path}: {name}, which was written beside it, is missing") from None
    except (KeyError, ValueError, TypeError) as error:
        reason = f"{type(error).__name__}: {error}"[:200]
        raise InvalidInput(f"{path}: not a file that `mmes embed` wrote ({reason})") from None
    raise InvalidInput(f"{path}: a vector file ends with {', '.join(SUFFIXES)}")


def _read_parquet(path: Path) -> NamedVectors:
    arrow = pyarrow()
    try:
        table = import_module("pyarrow.parquet").read_table(path, columns=["path", "vector"])
    except arrow.ArrowInvalid as error:
        raise ValueError(error) from None
    chunks = [chunk.flatten().to_numpy() for chunk in table["vector"].chunks]
    rows = np.concatenate([np.empty(0, np.float32), *chunks]).reshape(len(table), -1)
    return NamedVectors.of_rows(table["path"].to_pylist(), rows)


def find_groups(vectors: Vectors, minimum: float) -> list[list[tuple[int, float]]]:
    """Groups of rows, each with its cosine with the first of its group, which is at least
    `minimum`; the first has 1. Both are in order of row.

    A row joins the most similar of the rows before it that began a group, or begins one itself.
    So no chain of small differences joins what differs. Exact, in O(rows * groups).
    """
    threshold = minimum - ROUNDING
    groups: dict[int, list[tuple[int, float]]] = {}
    for start in range(0, len(vectors), BLOCK_ROWS):
        block = vectors[start : start + BLOCK_ROWS]
        nearest, cosines = _nearest(block, vectors, list(groups))
        within = block @ block.T
        local: list[int] = []  # the rows of the block that begin a group
        for place in range(len(block)):
            first, cosine = int(nearest[place]), float(cosines[place])
            if local:
                among = within[place, local]
                best = int(among.argmax())
                if among[best] > cosine:
                    first, cosine = start + local[best], float(among[best])
            if cosine >= threshold:
                groups[first].append((start + place, min(cosine, 1.0)))
            else:
                groups[start + place] = [(start + place, 1.0)]
                local.append(place)
    return [group for group in groups.values() if len(group) > 1]


def _nearest(
    block: Vectors, vectors: Vectors, firsts: list[int]
) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """For each row of a block the most similar of the rows `firsts`, and their cosine."""
    nearest = np.full(len(block), -1, np.intp)
    best = np.full(len(block), -np.inf, np.float32)
    for start in range(0, len(firsts), BLOCK_ROWS):
        some = np.array(firsts[start : start + BLOCK_ROWS])
        cosines = block @ vectors[some].T
        places = cosines.argmax(axis=1)
        values = np.take_along_axis(cosines, places[:, None], axis=1)[:, 0]
        better = values > best
        nearest[better], best[better] = some[places[better]], values[better]
    return nearest, best
