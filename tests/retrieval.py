"""Text-to-image retrieval on scikit-image's photos: the measure of the embedded model."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from multimodal_embedding_serving.types import Vectors

PHOTOS = Path(__file__).parent / "golden" / "photos"


@dataclass(frozen=True, slots=True)
class Query:
    text: str
    photo: str
    """Stem of the file that the text describes."""


@dataclass(frozen=True, slots=True)
class Score:
    recall_1: float
    """Per cent of the queries whose photo comes first."""
    recall_3: float
    reciprocal_rank: float


def read_queries() -> list[Query]:
    with (PHOTOS / "queries.tsv").open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t")
        return [Query(row["query"], Path(row["photo"]).stem) for row in rows]


def list_photos() -> list[Path]:
    """The 18 photos, in the order of their names."""
    return sorted(PHOTOS.glob("*.jpg"))


def rank(texts: Vectors, images: Vectors) -> list[int]:
    """The place of each query's photo among all, 1 for the first.

    `texts` in the order of `read_queries`, `images` in that of `list_photos`.
    """
    queries = read_queries()
    stems = [path.stem for path in list_photos()]
    right = np.array([stems.index(query.photo) for query in queries])
    scores = texts @ images.T
    own = scores[np.arange(len(queries)), right]
    return [int(place) for place in 1 + (scores > own[:, None]).sum(1)]


def score(ranks: list[int]) -> Score:
    places = np.array(ranks)
    return Score(
        round(float((places <= 1).mean() * 100), 1),
        round(float((places <= 3).mean() * 100), 1),
        round(float((1 / places).mean()), 3),
    )
