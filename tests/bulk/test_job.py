"""A bulk job over a folder: what it writes, what it repeats, what it rejects."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet
import pytest

from multimodal_embedding_serving.bulk.items import mark_by_content
from multimodal_embedding_serving.bulk.job import Tally, run
from multimodal_embedding_serving.bulk.ledger import OutputDamaged
from multimodal_embedding_serving.bulk.listing import Listing, ListingEntry
from multimodal_embedding_serving.bulk.output import FileOutput, lock
from multimodal_embedding_serving.errors import (
    GraphFailed,
    InvalidInput,
    ModelMismatch,
    NotReady,
)
from tests.bulk.fakes import BAD, SMALL, FakeModel, damage, embed, errors, fill, rows
from tests.fakes import PATIENCE

NAMES = ["a.jpg", "b.mp4", "c.png", "d.txt", "e/f.jpg", "e/g.jpg", "h.webp", "i.jpg"]
FORMATS = ["vectors.parquet", "vectors.npy", "vectors.jsonl"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    fill(tmp_path / "media", NAMES)
    return tmp_path / "media"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "vectors.parquet"


def names(out: Path) -> list[str]:
    return list(dict.fromkeys(row[0] for row in rows(out)))


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_holds_the_same_rows(folder: Path, tmp_path: Path, name: str) -> None:
    tally = embed(folder, tmp_path / name)
    assert (tally.embedded, tally.failed, tally.unchanged) == (8, 0, 0)
    embed(folder, tmp_path / "other.jsonl", part_rows=1000)
    actual = rows(tmp_path / name)
    assert actual == rows(tmp_path / "other.jsonl")
    assert tally.vectors == tally.rows == len(actual) > 8
    assert names(tmp_path / name) == [Path(each).name for each in NAMES]
    video = [row for row in actual if row[0] == "b.mp4"]
    assert [row[1:4] for row in video] == [("video", 10 * n, 0.5 * n) for n in range(len(video))]
    assert all(row[2] is None for row in actual if row[1] != "video")
    assert not errors(tmp_path / name)


def test_parquet_has_the_schema_of_the_documentation(folder: Path, out: Path) -> None:
    embed(folder, out, dtype="f16")
    schema = pyarrow.parquet.read_schema(out)
    assert [(field.name, str(field.type).partition("<")[0]) for field in schema] == [
        ("path", "string"),
        ("kind", "string"),
        ("frame", "int64"),
        ("timestamp", "double"),
        ("vector", "fixed_size_list"),
        ("model", "string"),
        ("fingerprint", "string"),
    ]
    vector = schema.field("vector").type
    assert (str(vector.value_type), vector.list_size) == ("halffloat", 8)
    table = pyarrow.parquet.read_table(out)
    assert set(table["model"].to_pylist()) == {"Fake/one"}
    assert set(table["fingerprint"].to_pylist()) == {"f1"}


def test_a_second_run_embeds_only_what_is_new_or_changed(folder: Path, out: Path) -> None:
    embed(folder, out)
    before = {row[0]: row for row in rows(out)}
    fill(folder, ["e/g.jpg"], content="another ")
    fill(folder, ["new.jpg"])
    model = FakeModel()
    tally = embed(folder, out, model)
    assert sorted(model.requests) == ["g.jpg", "new.jpg"]
    assert (tally.embedded, tally.unchanged) == (2, 7)
    after = {row[0]: row for row in rows(out)}
    assert set(after) == {*before, "new.jpg"}
    assert {name for name in before if before[name] != after[name]} == {"g.jpg"}
    assert len(rows(out)) == tally.rows


def test_a_run_with_nothing_to_do_leaves_the_file_alone(folder: Path, out: Path) -> None:
    embed(folder, out)
    before = out.stat()
    model = FakeModel()
    assert embed(folder, out, model).unchanged == 8
    assert not model.requests
    assert out.stat().st_mtime_ns == before.st_mtime_ns
    assert out.stat().st_ino == before.st_ino


def test_content_decides_where_that_is_asked_for(folder: Path, out: Path) -> None:
    embed(folder, out, mark=mark_by_content)
    for path in folder.glob("*.*"):
        os.utime(path, (1, 1))
    model = FakeModel()
    embed(folder, out, model, mark=mark_by_content)
    assert not model.requests
    stat = (folder / "a.jpg").stat()
    (folder / "a.jpg").write_bytes(b"A.jpg")
    os.utime(folder / "a.jpg", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    embed(folder, out, model, mark=mark_by_content)
    assert model.requests == ["a.jpg"]


def test_bad_files_have_a_file_of_their_own(folder: Path, out: Path) -> None:
    (folder / "c.png").write_bytes(BAD)
    (folder / "i.jpg").write_bytes(BAD)
    tally = embed(folder, out)
    assert errors(out) == {"c.png": "invalid_input", "i.jpg": "invalid_input"}
    assert (
        '"message": "the image can\'t be decoded"' in out.with_suffix(".errors.jsonl").read_text()
    )
    assert (tally.embedded, tally.failed) == (6, 2)
    assert set(names(out)) == {"a.jpg", "b.mp4", "d.txt", "f.jpg", "g.jpg", "h.webp"}


def test_a_bad_file_is_tried_again_when_it_changes_or_is_asked_for(folder: Path, out: Path) -> None:
    (folder / "c.png").write_bytes(BAD)
    embed(folder, out)
    model = FakeModel()
    tally = embed(folder, out, model)
    assert not model.requests
    assert (tally.failed, tally.errors) == (0, 1)
    embed(folder, out, model, retry=True)
    assert model.requests == ["c.png"]
    fill(folder, ["c.png"])
    embed(folder, out)
    assert "c.png" in names(out)
    assert not out.with_suffix(".errors.jsonl").exists()


def test_a_file_that_turns_bad_loses_its_rows(folder: Path, out: Path) -> None:
    embed(folder, out)
    (folder / "b.mp4").write_bytes(BAD)
    embed(folder, out)
    assert "b.mp4" not in names(out)
    assert set(errors(out)) == {"b.mp4"}


def test_the_services_own_failure_is_tried_again_by_the_next_run(folder: Path, out: Path) -> None:
    embed(folder, out, FakeModel(raises={"a.jpg": GraphFailed("the model failed on this item")}))
    assert errors(out) == {"a.jpg": "graph_failed"}
    model = FakeModel()
    embed(folder, out, model)
    assert model.requests == ["a.jpg"]
    assert not errors(out)


def test_what_the_model_does_not_embed_is_an_error_of_its_item(folder: Path, out: Path) -> None:
    embed(folder, out, FakeModel(kinds=("text",)))
    assert names(out) == ["d.txt"]
    assert set(errors(out).values()) == {"modality_not_supported"}


def test_rows_of_removed_files_are_kept_or_dropped_as_asked(folder: Path, out: Path) -> None:
    embed(folder, out)
    (folder / "b.mp4").unlink()
    assert embed(folder, out).removed == 0
    assert "b.mp4" in names(out)
    assert embed(folder, out, removed="drop").removed == 1
    assert set(names(out)) == {Path(name).name for name in NAMES} - {"b.mp4"}


def test_other_folders_may_be_added_to_the_same_file(folder: Path, out: Path) -> None:
    embed(folder, out)
    fill(folder.parent / "more", ["z.jpg"])
    embed(folder.parent / "more", out, removed="drop")
    assert names(out) == [*(Path(name).name for name in NAMES), "z.jpg"]


def test_an_end_of_the_service_keeps_what_was_embedded(
    folder: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("multimodal_embedding_serving.bulk.stream.RETRY_DELAYS", ())
    dying = FakeModel(raises={"f.jpg": NotReady("the model is closed")}, parallel=1)
    with pytest.raises(NotReady):
        embed(folder, out, dying)
    assert not out.exists()
    model = FakeModel()
    embed(folder, out, model)
    assert "a.jpg" not in model.requests
    assert "f.jpg" in model.requests
    assert names(out) == [Path(name).name for name in NAMES]


def test_the_wrong_model_ends_the_job_at_once(folder: Path, out: Path) -> None:
    model = FakeModel(raises={"a.jpg": ModelMismatch("another model")}, parallel=1)
    with pytest.raises(ModelMismatch):
        embed(folder, out, model)
    assert len(model.requests) < 4


@pytest.mark.parametrize(
    ("model", "options", "what"),
    [
        (FakeModel(fingerprint="f2"), {}, "fingerprint f1, not f2"),
        (FakeModel(), {"dtype": "f16"}, "dtype f32, not f16"),
        (FakeModel(), {"recipe": "4 frames"}, "recipe none, not 4 frames"),
    ],
)
def test_vectors_of_another_making_are_not_mixed_in(
    folder: Path, out: Path, model: FakeModel, options: dict[str, str], what: str
) -> None:
    embed(folder, out)
    before = out.read_bytes()
    with pytest.raises(InvalidInput, match=what):
        embed(folder, out, model, **options)
    assert out.read_bytes() == before
    embed(folder, out, model, fresh=True, **options)
    assert names(out) == [Path(name).name for name in NAMES]


def test_a_strangers_file_is_not_overwritten(folder: Path, out: Path) -> None:
    out.write_bytes(b"somebody's")
    with pytest.raises(InvalidInput, match="was not written by this job; use --fresh"):
        embed(folder, out)
    assert out.read_bytes() == b"somebody's"
    embed(folder, out, fresh=True)
    assert len(names(out)) == len(NAMES)
    out.write_bytes(b"somebody's again")
    with pytest.raises(InvalidInput, match="was changed by something else"):
        embed(folder, out)


def test_a_file_that_was_taken_away_is_made_again(folder: Path, out: Path) -> None:
    embed(folder, out)
    before = rows(out)
    out.unlink()
    embed(folder, out)
    assert rows(out) == before


def test_a_second_job_on_the_same_output_is_refused(folder: Path, out: Path) -> None:
    with (
        lock(FileOutput(out).state),
        pytest.raises(InvalidInput, match="another job is writing to"),
    ):
        embed(folder, out)


def test_the_total_is_known_once_the_listing_has_ended(folder: Path, out: Path) -> None:
    items = list(Listing((str(folder),)))
    embedded = threading.Event()
    totals: list[int | None] = []

    def listing() -> Iterator[ListingEntry]:
        yield items[0]
        assert embedded.wait(PATIENCE)
        yield from items  # the first one again: it is counted once

    def watch(tally: Tally, total: int | None) -> None:
        totals.append(total)
        embedded.set()

    asyncio.run(run(listing(), FakeModel(), FileOutput(out), SMALL, watch=watch))
    assert totals[0] is None
    assert totals[-1] == len(items) == len(NAMES)


def test_an_empty_folder_gives_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "media").mkdir()
    for name in FORMATS:
        embed(tmp_path / "media", tmp_path / name)
        assert rows(tmp_path / name) == []


def test_a_name_without_a_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"must end with \.parquet, \.npy or \.jsonl"):
        FileOutput(tmp_path / "vectors.csv")


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("what", ["output", "ledger"])
def test_a_damaged_file_of_a_job_is_rejected(
    folder: Path, tmp_path: Path, name: str, what: str
) -> None:
    out = tmp_path / "out" / name
    out.parent.mkdir()
    embed(folder, out)
    damage(out.parent, name if what == "output" else ".sqlite")
    for _ in range(2):
        with pytest.raises(OutputDamaged, match="is damaged; use --fresh to start over"):
            embed(folder, out)
    assert embed(folder, out, fresh=True).embedded == 8
    assert embed(folder, out).unchanged == 8


@pytest.mark.parametrize("name", FORMATS)
def test_a_damaged_part_is_not_merged(folder: Path, tmp_path: Path, name: str) -> None:
    out = tmp_path / "out" / name
    out.parent.mkdir()
    with pytest.raises(NotReady):
        embed(folder, out, FakeModel(raises={"i.jpg": NotReady("gone")}))
    damage(out.parent, "part-000001" + Path(name).suffix)
    with pytest.raises(OutputDamaged, match=r"a part of .* is damaged; use --fresh"):
        embed(folder, out)
    assert embed(folder, out, fresh=True).embedded == 8


def test_a_ledger_of_a_killed_job_is_checked_by_sqlite(folder: Path, out: Path) -> None:
    embed(folder, out)
    state = out.with_name(out.name + ".state")
    (state / "ledger.json").unlink()
    assert embed(folder, out).unchanged == 8
    (state / "ledger.json").unlink()
    (state / "ledger.sqlite").write_bytes(
        b"no database at all, but long enough to be looked at" * 99
    )
    with pytest.raises(OutputDamaged, match=r"the ledger of vectors\.parquet is damaged"):
        embed(folder, out)
