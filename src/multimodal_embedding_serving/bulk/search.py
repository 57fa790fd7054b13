"""Search a folder's files by text or image: an index of vectors, updated first, and an exact scan.

The index of a folder, a model and a choice of frames is the output of a bulk job in the search
folder. A second search embeds only new and changed files, and the description.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multimodal_embedding_serving.bulk.items import Kind, absolute
from multimodal_embedding_serving.bulk.job import Options, Tally, Watch, run
from multimodal_embedding_serving.bulk.ledger import OutputDamaged
from multimodal_embedding_serving.bulk.listing import Listing
from multimodal_embedding_serving.bulk.models import Model
from multimodal_embedding_serving.bulk.output import FileOutput
from multimodal_embedding_serving.errors import InvalidInput, ModalityNotSupported
from multimodal_embedding_serving.types import Vector

log = logging.getLogger(__name__)

ORIGIN = "origin.json"
"""Beside the vectors: what they are of. Earlier versions did not write it."""
MAX_BLOCK_ROWS = 1 << 16
"""Compared at a time: 128 MB at 512 dimensions."""


@dataclass(frozen=True, slots=True)
class ImageQuery:
    """An image to search by: a file, or a URL."""

    source: Path | str


@dataclass(frozen=True, slots=True)
class Match:
    """A file, and for a video its most similar frame."""

    path: str
    kind: Kind
    similarity: float
    """Cosine with the query."""
    frame: int | None
    timestamp: float | None

    def facts(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class SearchResult:
    matches: Sequence[Match]
    """Most similar first, each file once."""
    tally: Tally
    """What the update of the index did."""
    best: float | None
    """The similarity of the most similar file, whatever the minimum; None if there is no file."""


class Index:
    """The vectors of one folder."""

    def __init__(
        self, folder: Path, search_dir: Path, model: Model, recipe: str, query_kind: Kind = "text"
    ) -> None:
        """Raises InvalidInput if `folder` is not one, ModalityNotSupported for a model that does
        not embed queries of this kind."""
        check_folder(folder)
        identity = model.identity
        if query_kind not in identity.kinds:
            raise ModalityNotSupported(
                f"the model {identity.model} does not embed {query_kind}: it can't search by it"
            )
        visual: tuple[Kind, ...] = ("image", "video")
        self._kinds: Collection[Kind] = (
            visual if "image" in identity.kinds else ("text",)
        )  # any text is more similar to a text than images are
        self._folder, self._model, self._recipe = folder, model, recipe
        what = [absolute(folder), identity.model, identity.fingerprint, recipe]
        name = hashlib.sha256(json.dumps(what).encode()).hexdigest()[:20]
        self.file = search_dir / f"{folder.resolve().name}-{name}" / "vectors.npy"
        self._origin = {"folder": absolute(folder), "model": identity.model}

    async def renew(self, watch: Watch = lambda tally, total: None) -> Tally:
        """Embed new and changed files, drop removed ones; all of them if the index is damaged.

        Raises as `bulk.job.run`.
        """
        try:
            return await self._renew(watch)
        except OutputDamaged as error:
            log.warning("the index of %s is not as it was left (%s); building it again",
                        self._folder.name, error.message.partition(";")[0])  # fmt: skip
            return await self._renew(watch, fresh=True)

    async def _renew(self, watch: Watch, *, fresh: bool = False) -> Tally:
        listing = Listing((str(self._folder),), kinds=self._kinds)
        self.file.parent.mkdir(parents=True, exist_ok=True)
        (self.file.parent / ORIGIN).write_text(json.dumps(self._origin))
        options = Options(dtype="f16", removed="drop", recipe=self._recipe)
        output = FileOutput(self.file)
        return await run(listing, self._model, output, options, fresh=fresh, wait=True, watch=watch)

    def best(self, query: Vector, top: int) -> list[Match]:
        """The most similar files, at most `top`."""
        matrix = np.load(self.file, mmap_mode="r")
        cosines = np.concatenate(
            [np.empty(0, np.float32)]
            + [
                matrix[start : start + MAX_BLOCK_ROWS].astype(np.float32) @ query
                for start in range(0, len(matrix), MAX_BLOCK_ROWS)
            ]
        )
        order = np.argsort(-cosines, kind="stable")
        count = 4 * top
        while True:
            matches = self._matches(order[:count], cosines)
            if len(matches) >= top or count >= len(order):
                return matches[:top]
            count *= 8  # the rows are frames of few videos

    def _matches(self, rows: NDArray[np.intp], cosines: NDArray[np.float32]) -> list[Match]:
        """The files of these rows, in order, each with its first row."""
        facts = dict(self._facts(rows))
        matches: dict[str, Match] = {}
        for row in rows.tolist():
            fact = facts[row]
            place = (fact["frame"], fact["timestamp"])
            match = Match(fact["path"], fact["kind"], float(cosines[row]), *place)
            matches.setdefault(match.path, match)
        return list(matches.values())

    def _facts(self, rows: NDArray[np.intp]) -> Iterator[tuple[int, Mapping[str, Any]]]:
        """Row -> what it is, from the lines beside the matrix."""
        with self.file.with_suffix(".rows.jsonl").open("rb") as lines:
            place = 0
            for row in np.sort(rows).tolist():
                line = next(islice(lines, row - place, None))
                yield row, json.loads(line)
                place = row + 1


@dataclass(frozen=True, slots=True)
class StoredIndex:
    """An index in the search folder."""

    place: Path
    folder: str | None
    """The folder that was searched; None if an earlier version wrote the index."""
    model: str | None
    bytes: int


def list_indexes(search_dir: Path) -> Iterator[StoredIndex]:
    """Every index in a search folder, in order of name."""
    for vectors in sorted(search_dir.glob("*/vectors.npy")):
        place = vectors.parent
        try:
            origin = json.loads((place / ORIGIN).read_text())
        except (OSError, ValueError):
            origin = {}
        size = sum(path.stat().st_size for path in place.rglob("*") if path.is_file())
        yield StoredIndex(place, origin.get("folder"), origin.get("model"), size)


def check_folder(folder: Path) -> None:
    """Raises InvalidInput."""
    if not folder.is_dir():
        raise InvalidInput(f"{folder}: not a folder")


async def search(
    query: str | ImageQuery,
    folder: Path,
    model: Model,
    search_dir: Path,
    *,
    top: int,
    minimum: float = -1,
    recipe: str = "",
    watch: Watch = lambda tally, total: None,
) -> SearchResult:
    """The files of a folder that are most similar to a description or an image, after updating the
    index: at most `top`, with a cosine of at least `minimum`.

    Raises as `Index` and `bulk.job.run`; EmbeddingError for an image that can't be embedded.
    """
    kind: Kind = "image" if isinstance(query, ImageQuery) else "text"
    index = Index(folder, search_dir, model, recipe, kind)
    # The query first: a wrong image must not cost the time to index the folder.
    if isinstance(query, ImageQuery):
        vector = await model.image(query.source)
    else:
        vector = await model.query(query)
    tally = await index.renew(watch)
    best = index.best(vector, top)
    matches = [match for match in best if match.similarity >= minimum]
    return SearchResult(matches, tally, best[0].similarity if best else None)
