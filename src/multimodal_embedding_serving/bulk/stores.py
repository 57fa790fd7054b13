"""Vector stores as outputs: LanceDB in a folder, Qdrant in a folder or on a server.

Every row's id follows from its path and frame, so a part that is written twice, because the job was
killed in between, replaces itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from multimodal_embedding_serving.bulk.items import printable
from multimodal_embedding_serving.bulk.ledger import Ledger
from multimodal_embedding_serving.bulk.output import STATE, write_errors
from multimodal_embedding_serving.bulk.schema import (
    Layout,
    Rows,
    arrow_schema,
    arrow_table,
    pyarrow,
)
from multimodal_embedding_serving.client.protocol import WEB
from multimodal_embedding_serving.errors import InvalidInput, MissingExtra, RemoteFailed

MAX_POINTS = 256
"""In one request to Qdrant."""


class Store(Protocol):
    """A table of rows in an external database. All methods raise RemoteFailed."""

    def open(self, layout: Layout, *, fresh: bool) -> None:
        """Create the table if it does not exist; `fresh`: replace it.

        Raises InvalidInput if the table has other vectors.
        """
        ...

    def upsert(self, rows: Rows) -> None: ...

    def delete(self, paths: Sequence[str]) -> None: ...

    def count(self) -> int: ...

    def close(self) -> None: ...


class StoreOutput:
    """Rows in a store; the ledger is beside its folder, or in the working folder for a server."""

    def __init__(self, store: Store, place: str, table: str) -> None:
        self._store = store
        self._name = table if place.startswith(WEB) else place.rstrip("/")
        self.state = Path(self._name + STATE)
        self.errors_file = Path(self._name + ".errors.jsonl")

    def open(self, ledger: Ledger, layout: Layout, *, fresh: bool) -> None:
        self._store.open(layout, fresh=fresh)
        if not self._store.count():
            ledger.lose_output(every=True)

    def write(self, part: int, rows: Rows, keys: Sequence[str]) -> None:
        if keys:
            self.remove(keys)
        if rows:
            self._store.upsert(rows)

    def remove(self, keys: Sequence[str]) -> None:
        self._store.delete([printable(key) for key in keys])

    def finish(self, ledger: Ledger) -> None:
        write_errors(self.errors_file, ledger.errors())

    def close(self) -> None:
        self._store.close()


def open_store(kind: str, place: str, table: str) -> StoreOutput:
    """`kind` is lancedb or qdrant. Raises MissingExtra, InvalidInput."""
    store: Store = LanceTable(place, table) if kind == "lancedb" else Collection(place, table)
    return StoreOutput(store, place, table)


class LanceTable:
    """A table of a LanceDB database."""

    def __init__(self, place: str, name: str) -> None:
        if not re.fullmatch(r"[\w.-]+", name):
            raise InvalidInput(f"--table {name!r}: only letters, digits, _, - and . are allowed")
        with _installed("LanceDB", "lancedb"):
            self._database = import_module("lancedb").connect(place)
        self._name = name

    def open(self, layout: Layout, *, fresh: bool) -> None:
        arrow, self._layout = pyarrow(), layout
        schema = arrow_schema(layout).insert(0, arrow.field("id", arrow.string(), nullable=False))
        table = None if fresh else self._find()
        if table is not None and list(table.schema) != list(schema):
            raise InvalidInput(
                f"the table {self._name} has other columns; use --fresh to replace it"
            )
        if table is None:
            mode = "overwrite" if fresh else "create"
            with _failures_of("LanceDB", RuntimeError, ValueError):
                table = self._database.create_table(self._name, schema=schema, mode=mode)
        self._table = table

    def _find(self) -> Any:
        """The table, or None. The library can't check for one of many tables in another way."""
        try:
            return self._database.open_table(self._name)
        except (RuntimeError, ValueError, FileNotFoundError):
            return None

    def upsert(self, rows: Rows) -> None:
        arrow, table = pyarrow(), arrow_table(rows, self._layout)
        with_ids = table.add_column(0, "id", arrow.array(rows.ids(), arrow.string()))
        with _failures_of("LanceDB", RuntimeError, ValueError):
            merge = self._table.merge_insert("id").when_matched_update_all()
            merge.when_not_matched_insert_all().execute(with_ids)

    def delete(self, paths: Sequence[str]) -> None:
        names = ", ".join("'" + path.replace("'", "''") + "'" for path in paths)
        with _failures_of("LanceDB", RuntimeError, ValueError):
            self._table.delete(f"path IN ({names})")

    def count(self) -> int:
        with _failures_of("LanceDB", RuntimeError, ValueError):
            return int(self._table.count_rows())

    def close(self) -> None:
        """Do nothing: no file is open between calls."""


class Collection:
    """A collection of Qdrant: of a server, or of this process in a folder."""

    def __init__(self, place: str, name: str) -> None:
        with _installed("Qdrant", "qdrant"):
            library = import_module("qdrant_client")
            self._models: Any = library.models
            failures = import_module("qdrant_client.http.exceptions")
        self._failures = (failures.ApiException, RuntimeError, ValueError)
        with _failures_of("Qdrant", *self._failures):
            where = {"url": place} if place.startswith(WEB) else {"path": place}
            self._client = library.QdrantClient(**where)
        self._name = name

    def open(self, layout: Layout, *, fresh: bool) -> None:
        models, self._layout = self._models, layout
        kinds = {"f32": models.Datatype.FLOAT32, "f16": models.Datatype.FLOAT16}
        with _failures_of("Qdrant", *self._failures):
            if fresh:
                self._client.delete_collection(self._name)
            if not self._client.collection_exists(self._name):
                vectors = models.VectorParams(
                    size=layout.dimension,
                    distance=models.Distance.COSINE,
                    datatype=kinds[layout.dtype],
                )
                self._client.create_collection(self._name, vectors_config=vectors)
            vectors = self._client.get_collection(self._name).config.params.vectors
        if getattr(vectors, "size", None) != layout.dimension:
            raise InvalidInput(
                f"the collection {self._name} has vectors of another dimension; "
                "use --fresh to replace it"
            )

    def upsert(self, rows: Rows) -> None:
        ids, facts = rows.ids(), list(rows.facts(self._layout))
        matrix = rows.matrix(self._layout).astype("float32")
        with _failures_of("Qdrant", *self._failures):
            for start in range(0, len(ids), MAX_POINTS):
                part = slice(start, start + MAX_POINTS)
                points = self._models.Batch(
                    ids=ids[part], vectors=matrix[part].tolist(), payloads=facts[part]
                )
                self._client.upsert(self._name, points=points, wait=True)

    def delete(self, paths: Sequence[str]) -> None:
        models = self._models
        match = models.FieldCondition(key="path", match=models.MatchAny(any=list(paths)))
        which = models.FilterSelector(filter=models.Filter(must=[match]))
        with _failures_of("Qdrant", *self._failures):
            self._client.delete(self._name, points_selector=which, wait=True)

    def count(self) -> int:
        with _failures_of("Qdrant", *self._failures):
            return int(self._client.count(self._name).count)

    def close(self) -> None:
        self._client.close()


@contextmanager
def _installed(name: str, extra: str) -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError:
        raise MissingExtra(name, extra) from None


@contextmanager
def _failures_of(name: str, *kinds: type[Exception]) -> Iterator[None]:
    """Raise a library's own errors as RemoteFailed."""
    try:
        yield
    except kinds as error:
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise RemoteFailed(f"{name}: {line}") from error
