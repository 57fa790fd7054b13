"""Folders and tables to pyarrow tables, with an engine in this process and with a server."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import multimodal_embedding_serving as mmes
from multimodal_embedding_serving import embed_folder, embed_table
from multimodal_embedding_serving.errors import InvalidInput, MissingExtra, NotFound
from tests.serving import Running

pa = pytest.importorskip("pyarrow")


@pytest.fixture(scope="module")
def engine() -> Iterator[mmes.Engine]:
    with mmes.Engine.open("Builtin/mini") as engine:
        yield engine


@pytest.fixture(params=["engine", "client"])
def embedder(
    request: pytest.FixtureRequest, engine: mmes.Engine, server: Running
) -> Iterator[mmes.Engine | mmes.Client]:
    if request.param == "engine":
        yield engine
    else:
        with mmes.Client(server.url) as client:
            yield client


@pytest.fixture
def folder(tmp_path: Path, samples: Path) -> Path:
    """A photo, a text, a video, a broken photo, and a file of another kind."""
    shutil.copy(samples / "cat.jpg", tmp_path / "cat.jpg")
    (tmp_path / "below").mkdir()
    shutil.copy(samples / "film.mp4", tmp_path / "below" / "film.mp4")
    (tmp_path / "note.txt").write_text("a cat")
    (tmp_path / "broken.png").write_bytes(b"no pixels")
    (tmp_path / "data.bin").write_bytes(b"anything")
    return tmp_path


def matrix(table: Any) -> Any:
    return np.stack(table["vector"].to_numpy(zero_copy_only=False))


def test_a_folder_becomes_a_table_with_its_errors_apart(
    embedder: mmes.Engine | mmes.Client, folder: Path, engine: mmes.Engine
) -> None:
    vectors, errors = embed_folder(embedder, folder, segment={"num_frames": 2})
    film, cat, note = folder / "below" / "film.mp4", folder / "cat.jpg", folder / "note.txt"
    assert vectors["path"].to_pylist() == [str(film), str(film), str(cat), str(note)]
    assert vectors["kind"].to_pylist() == ["video", "video", "image", "text"]
    assert vectors["frame"].to_pylist() == [0, 36, None, None]
    assert set(vectors["fingerprint"].to_pylist()) == {engine.info.fingerprint}
    expected = np.concatenate(
        [
            engine.embed(video=film, segment={"num_frames": 2}),
            engine.embed(images=cat),
            engine.embed(texts=["a cat"]),
        ]
    )
    assert np.allclose(matrix(vectors), expected, atol=1e-5)
    assert errors["path"].to_pylist() == [str(folder / "broken.png")]
    assert errors["code"].to_pylist() == ["unrecognised_media"]
    assert "not a supported image format" in errors["message"][0].as_py()


def test_the_kinds_of_a_folder_can_be_chosen(engine: mmes.Engine, folder: Path) -> None:
    vectors, errors = embed_folder(engine, str(folder), kinds=["text"])
    assert (vectors["kind"].to_pylist(), len(errors)) == (["text"], 0)
    empty = folder / "empty"
    empty.mkdir()
    vectors, errors = embed_folder(engine, empty)
    assert (len(vectors), len(errors)) == (0, 0)
    assert vectors.schema.field("vector").type.list_size == 384


def test_the_rows_of_a_table_are_found_again_by_number(
    embedder: mmes.Engine | mmes.Client, samples: Path, engine: mmes.Engine
) -> None:
    cat = (samples / "cat.jpg").read_bytes()
    rows: list[dict[str, Any]] = [
        {"text": "a cat", "image": None},
        {"text": None, "image": {"bytes": cat, "path": None}},
        {"text": None, "image": None},
        {"text": None, "image": {"bytes": b"no pixels", "path": None}},
        {"text": "a dog", "image": None},
    ]
    vectors, errors = embed_table(embedder, pa.Table.from_pylist(rows))
    assert vectors["row"].to_pylist() == [0, 1, 4]
    assert vectors["path"].to_pylist() == ["0", "1", "4"]
    assert errors["row"].to_pylist() == [2, 3]
    assert errors["code"].to_pylist() == ["invalid_input", "unrecognised_media"]
    expected = engine.embed(texts=["a cat", "a dog"])
    assert np.allclose(matrix(vectors)[[0, 2]], expected, atol=1e-5)


def test_a_table_may_be_a_dict_a_batch_or_a_file(
    engine: mmes.Engine, tmp_path: Path, samples: Path
) -> None:
    shutil.copy(samples / "cat.jpg", tmp_path / "cat.jpg")
    columns = {"caption": ["a cat", "a dog"], "key": ["x", "y"]}
    vectors, _ = embed_table(engine, columns, text="caption", id="key")
    assert vectors["path"].to_pylist() == ["x", "y"]
    batch = pa.RecordBatch.from_pydict(columns)
    assert embed_table(engine, batch, text="caption").vectors["row"].to_pylist() == [0, 1]
    file = tmp_path / "list.parquet"
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pa.table({"image": ["cat.jpg", "gone.jpg"]}), file)
    vectors, errors = embed_table(engine, file)
    assert vectors["path"].to_pylist() == [str(tmp_path / "cat.jpg")]
    assert (errors["row"].to_pylist(), errors["code"].to_pylist()) == ([1], ["not_found"])


class Frame:
    """What data frames of pandas and polars have: Arrow's C interface."""

    def __init__(self, table: Any) -> None:
        self.table = table

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        return self.table.__arrow_c_stream__(requested_schema)


def test_a_data_frame_is_a_table(engine: mmes.Engine) -> None:
    frame = Frame(pa.table({"text": ["a", None, "b"]}))
    vectors, errors = embed_table(engine, frame)
    assert (vectors["row"].to_pylist(), errors["row"].to_pylist()) == ([0, 2], [1])


async def test_tables_are_made_where_an_event_loop_runs(
    embedder: mmes.Engine | mmes.Client,
) -> None:
    """As in a notebook."""
    assert len(embed_table(embedder, {"text": ["a", "b"]}).vectors) == 2


@pytest.mark.parametrize(
    ("table", "names", "message"),
    [
        ({"title": ["a"]}, {}, "no column text, image, video or path; name one of its columns"),
        ({"text": ["a"]}, {"text": "txt"}, "text='txt': the table has no such column; did you"),
        ([["a"]], {}, "table must be a pyarrow.Table, a data frame, a dict of columns or"),
        ({"text": 5}, {}, "table can't be read as Arrow: "),
        ({"text": ["a"]}, {"segment": {"frames": 2}}, "segment has no key 'frames'"),
    ],
)
def test_a_wrong_table_is_rejected_by_name(
    table: Any, names: dict[str, Any], message: str, engine: mmes.Engine
) -> None:
    with pytest.raises(InvalidInput) as caught:
        embed_table(engine, table, **names)
    assert message in str(caught.value)


def test_a_wrong_folder_is_rejected_by_name(engine: mmes.Engine, folder: Path) -> None:
    with pytest.raises(NotFound, match="gone: no such folder"):
        embed_folder(engine, folder / "gone")
    with pytest.raises(InvalidInput, match=r"cat\.jpg: is a file"):
        embed_folder(engine, folder / "cat.jpg")
    kinds: Any = ["photo"]
    with pytest.raises(InvalidInput, match="kinds has no 'photo'"):
        embed_folder(engine, folder, kinds=kinds)
    with pytest.raises(NotFound, match=r"gone\.parquet: no such file"):
        embed_table(engine, folder / "gone.parquet")
    other: Any = mmes.AsyncClient()
    with pytest.raises(TypeError, match="must be an Engine or a Client, not AsyncClient"):
        embed_folder(other, folder)


def test_without_pyarrow_the_extra_is_named(
    engine: mmes.Engine, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtra, match="embed_folder needs the extra 'bulk'"):
        embed_folder(engine, folder)
    with pytest.raises(MissingExtra, match="embed_table needs the extra 'bulk'"):
        embed_table(engine, {"text": ["a"]})
