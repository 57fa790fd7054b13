"""Vector stores: LanceDB and Qdrant, each in a folder. `make test-all` installs both."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest

from multimodal_embedding_serving.bulk.ledger import Ledger
from multimodal_embedding_serving.bulk.stores import StoreOutput, open_store
from multimodal_embedding_serving.errors import InvalidInput
from tests.bulk.fakes import BAD, FakeModel, embed, fill, vector

pytestmark = pytest.mark.slow

NAMES = ["a.jpg", "it's.png", "b.mp4", "c/d.jpg", "e.txt"]
Stored = dict[tuple[str, int | None], list[float]]


def lance_rows(place: Path) -> Stored:
    table = import_module("lancedb").connect(str(place)).open_table("photos")
    listed = table.to_arrow().to_pylist()
    found = {(Path(row["path"]).name, row["frame"]): row["vector"] for row in listed}
    assert len(found) == len(listed), "a row is there twice"
    return found


def qdrant_rows(place: Path) -> Stored:
    client = import_module("qdrant_client").QdrantClient(path=str(place))
    points, _ = client.scroll("photos", limit=1000, with_vectors=True)
    client.close()
    found = {(Path(p.payload["path"]).name, p.payload["frame"]): p.vector for p in points}
    assert len(found) == len(points), "a row is there twice"
    return found


@pytest.fixture(params=["lancedb", "qdrant"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def stored(kind: str, tmp_path: Path) -> Callable[[], Stored]:
    read = lance_rows if kind == "lancedb" else qdrant_rows
    return lambda: read(tmp_path / "store")


@pytest.fixture
def output(kind: str, tmp_path: Path) -> Callable[[], StoreOutput]:
    """Opens the store anew, as another process would; a job closes it."""
    return lambda: open_store(kind, str(tmp_path / "store"), "photos")


def test_a_store_holds_what_the_folder_holds(
    tmp_path: Path, output: Callable[[], StoreOutput], stored: Callable[[], Stored]
) -> None:
    folder = tmp_path / "media"
    fill(folder, NAMES)
    tally = embed(folder, output())
    again = FakeModel()
    embed(folder, output(), again)
    assert not again.requests
    found = stored()
    assert len(found) == tally.vectors
    assert found["a.jpg", None] == pytest.approx(vector(b"a.jpg").tolist(), abs=1e-6)
    films = sorted(frame or 0 for name, frame in found if name == "b.mp4")
    assert films == [10 * n for n in range(len(films))]


def test_changed_bad_and_removed_files_are_replaced(
    tmp_path: Path, output: Callable[[], StoreOutput], stored: Callable[[], Stored]
) -> None:
    folder = tmp_path / "media"
    fill(folder, NAMES)
    embed(folder, output())
    fill(folder, ["it's.png"], content="another ")
    (folder / "b.mp4").write_bytes(BAD)
    (folder / "a.jpg").unlink()
    tally = embed(folder, output(), removed="drop")
    assert (tally.removed, tally.errors) == (1, 1)
    found = stored()
    assert {name for name, _ in found} == {"it's.png", "d.jpg", "e.txt"}
    changed = vector(b"another it's.png").tolist()
    assert found["it's.png", None] == pytest.approx(changed, abs=1e-6)


def test_a_part_that_was_written_but_not_published_is_not_there_twice(
    tmp_path: Path,
    output: Callable[[], StoreOutput],
    stored: Callable[[], Stored],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Killed(BaseException):
        pass

    def die(*_: object) -> None:
        raise Killed

    folder = tmp_path / "media"
    fill(folder, NAMES)
    with monkeypatch.context() as patched:
        patched.setattr(Ledger, "publish", die)
        with pytest.raises(Killed):
            embed(folder, output())
    tally = embed(folder, output())
    assert tally.vectors == len(stored())


def test_an_emptied_store_is_filled_again(
    kind: str, tmp_path: Path, output: Callable[[], StoreOutput], stored: Callable[[], Stored]
) -> None:
    folder = tmp_path / "media"
    fill(folder, NAMES)
    embed(folder, output())
    paths = [str(path) for path in folder.rglob("*.*")]
    if kind == "lancedb":
        import_module("lancedb").connect(str(tmp_path / "store")).open_table("photos").delete(
            "true"
        )
    else:
        client = import_module("qdrant_client").QdrantClient(path=str(tmp_path / "store"))
        client.delete_collection("photos")
        client.close()
    assert embed(folder, output()).embedded == len(paths)
    assert {name for name, _ in stored()} == {Path(name).name for name in NAMES}


def test_a_table_of_other_vectors_is_refused(
    kind: str, tmp_path: Path, output: Callable[[], StoreOutput]
) -> None:
    folder = tmp_path / "media"
    fill(folder, NAMES)
    if kind == "lancedb":
        database = import_module("lancedb").connect(str(tmp_path / "store"))
        database.create_table("photos", [{"vector": [1.0, 2.0]}])
    else:
        library = import_module("qdrant_client")
        client = library.QdrantClient(path=str(tmp_path / "store"))
        size = library.models.VectorParams(size=3, distance=library.models.Distance.DOT)
        client.create_collection("photos", vectors_config=size)
        client.close()
    with pytest.raises(InvalidInput, match="other"):
        embed(folder, output())
    assert embed(folder, output(), fresh=True).embedded == len(NAMES)
