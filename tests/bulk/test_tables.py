"""Parquet files as lists of items."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from multimodal_embedding_serving.bulk.items import Failure, Item
from multimodal_embedding_serving.bulk.listing import Listing, ListingEntry
from multimodal_embedding_serving.bulk.tables import Range, count_rows, table_rows
from tests.bulk.fakes import embed, errors, rows


def table(path: Path, columns: dict[str, list[Any]], group: int = 1000) -> Path:
    pq.write_table(pa.table(columns), path, row_group_size=group)
    return path


def listed(path: Path) -> list[ListingEntry]:
    return list(Listing((str(path),)))


def test_a_table_names_texts_files_urls_and_holds_pictures(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"a")
    columns: dict[str, list[Any]] = {
        "text": ["a cat", None, None, None, None],
        "image": [None, None, b"\xff\xd8", None, None],
        "path": [None, "a.jpg", None, "http://h.example/b.mp4", None],
        "id": [None, None, "mine", None, None],
        "vector": [[0.0]] * 5,
    }
    path = table(tmp_path / "list.parquet", columns)
    cat, file, picture, url, nothing = listed(path)
    assert isinstance(cat, Item)
    assert (cat.key, cat.kind, cat.source) == (f"{path}:0", "text", "a cat")
    assert isinstance(file, Item)
    assert (file.key, file.kind) == (str(tmp_path / "a.jpg"), "image")
    assert isinstance(picture, Item)
    assert (picture.key, picture.kind, picture.source) == ("mine", "image", b"\xff\xd8")
    assert isinstance(url, Item)
    assert (url.kind, url.source) == ("video", "http://h.example/b.mp4")
    assert isinstance(nothing, Failure)
    assert (nothing.key, nothing.error.code) == (f"{path}:4", "invalid_input")


def test_pictures_may_be_kept_as_hugging_face_keeps_them(tmp_path: Path) -> None:
    (tmp_path / "b.png").write_bytes(b"b")
    kept = [{"bytes": b"\x89PNG", "path": None}, {"bytes": None, "path": "b.png"}]
    first, second = listed(table(tmp_path / "list.parquet", {"image": kept}))
    assert isinstance(first, Item)
    assert first.source == b"\x89PNG"
    assert isinstance(second, Item)
    assert second.source == tmp_path / "b.png"


def test_what_is_no_parquet_is_one_failure(tmp_path: Path) -> None:
    path = tmp_path / "list.parquet"
    path.write_bytes(b"PAR1 and no more")
    (only,) = listed(path)
    assert isinstance(only, Failure)
    assert only.error.message.startswith("list.parquet can't be read as Parquet")


def test_a_table_is_embedded_as_files_are(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"same")
    columns = {"image": ["a.jpg", b"same".decode()], "id": ["file", "gone"]}
    held = table(tmp_path / "held.parquet", {"image": [b"same", b"bad"], "id": ["bytes", "bad"]})
    embed(table(tmp_path / "named.parquet", columns), tmp_path / "named.jsonl")
    embed(held, tmp_path / "held.jsonl")
    (one,), (other,) = rows(tmp_path / "named.jsonl"), rows(tmp_path / "held.jsonl")
    assert one[4] == other[4]
    assert errors(tmp_path / "named.jsonl") == {"named.parquet:1": "not_found"}
    assert errors(tmp_path / "held.jsonl") == {"bad": "invalid_input"}


@given(total=st.integers(0, 40), group=st.integers(1, 15), first=st.integers(0, 45), data=st.data())
def test_a_range_is_exactly_its_rows(
    tmp_path_factory: pytest.TempPathFactory,
    total: int,
    group: int,
    first: int,
    data: st.DataObject,
) -> None:
    path = tmp_path_factory.mktemp("tables") / "list.parquet"
    texts = pa.array([str(number) for number in range(total)], pa.string())
    pq.write_table(pa.table({"text": texts}), path, row_group_size=group)
    count = data.draw(st.none() | st.integers(0, 45))
    expected = list(range(total))[first : None if count is None else first + count]
    found = list(table_rows(Range(path, first, count)))
    assert [number for number, _ in found] == expected
    assert [entry["text"] for _, entry in found] == [str(number) for number in expected]
    assert count_rows(path) == total
