"""Jobs that earlier versions started resume; those of a newer version are left alone."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest

from multimodal_embedding_serving.bulk.ledger import Ledger
from multimodal_embedding_serving.bulk.parts import (
    MAX_VALUE_LENGTH,
    check_same_job,
    differences,
    part_number,
    part_stem,
)
from multimodal_embedding_serving.errors import InvalidInput
from tests.bulk.fakes import FakeModel, embed, fill, rows, vector

NAMES = ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]
LEDGER = """
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID;
CREATE TABLE done (
    key BLOB PRIMARY KEY, mark TEXT, file INTEGER, part INTEGER, first INTEGER, rows INTEGER,
    code TEXT, message TEXT
) WITHOUT ROWID;
INSERT INTO facts VALUES ('dimension', '8'), ('dtype', 'f32'), ('fingerprint', 'f1'),
    ('format', '1'), ('model', 'Fake/one'), ('part', '1'), ('recipe', '');
"""
"""As format 1 (commit a1035f3) left it when a job was killed after its first part."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    fill(tmp_path / "media", NAMES)
    return tmp_path / "media"


def begin(folder: Path, out: Path) -> None:
    """The first two files are done, by the program of commit a1035f3."""
    state = out.with_name(out.name + ".state")
    state.mkdir()
    with sqlite3.connect(state / "ledger.sqlite") as database:
        database.executescript(LEDGER)
        lines = b""
        for place, path in enumerate(sorted(folder.iterdir())[:2]):
            mark = f"{path.stat().st_size}:{path.stat().st_mtime_ns}"
            done = (bytes(path), mark, 1, 1, place, 1, None, None)
            database.execute("INSERT INTO done VALUES (?, ?, ?, ?, ?, ?, ?, ?)", done)
            row = {
                "path": str(path),
                "kind": "image",
                "frame": None,
                "timestamp": None,
                "model": "Fake/one",
                "fingerprint": "f1",
                "vector": vector(path.read_bytes()).tolist(),
            }
            lines += json.dumps(row).encode() + b"\n"
    (state / "part-000001.jsonl").write_bytes(lines)


def test_a_job_of_the_previous_version_resumes(folder: Path, tmp_path: Path) -> None:
    begin(folder, tmp_path / "vectors.jsonl")
    model = FakeModel()
    tally = embed(folder, tmp_path / "vectors.jsonl", model)
    assert sorted(model.requests) == NAMES[2:]
    assert (tally.embedded, tally.unchanged) == (2, 2)
    embed(folder, tmp_path / "whole.jsonl")
    assert rows(tmp_path / "vectors.jsonl") == rows(tmp_path / "whole.jsonl")


def test_a_job_of_the_previous_version_is_not_mixed_with_another_model(
    folder: Path, tmp_path: Path
) -> None:
    begin(folder, tmp_path / "vectors.jsonl")
    with pytest.raises(InvalidInput, match=r"fingerprint f1, not f2; use --fresh .*`mmes compare`"):
        embed(folder, tmp_path / "vectors.jsonl", FakeModel(fingerprint="f2"))


@pytest.mark.parametrize("with_rows", [True, False])
def test_a_job_of_a_newer_version_is_left_alone(
    folder: Path, tmp_path: Path, with_rows: bool
) -> None:
    out = tmp_path / "vectors.jsonl"
    begin(folder, out)
    with Ledger(tmp_path / "vectors.jsonl.state" / "ledger.sqlite") as ledger:
        ledger.note({"format": "2"})
        if not with_rows:
            ledger.lose_output(every=True)
    with pytest.raises(InvalidInput, match=r"made by a newer version \(format 2"):
        embed(folder, out)
    assert not out.exists()
    assert embed(folder, out, fresh=True).embedded == 4


def test_a_message_names_what_differs_and_is_never_long() -> None:
    recorded = {"dtype": "f32", "recipe": "", "arguments": ["x" * 80] * 9, "shards": 3}
    requested = {"dtype": "f16", "recipe": "4 frames", "arguments": ["y"], "later": 1}
    message = differences(recorded, requested)
    assert message.startswith("dtype f32, not f16, recipe none, not 4 frames, arguments ['xxx")
    assert message.endswith("…, not ['y']")
    assert len(message) < MAX_VALUE_LENGTH + 100
    check_same_job("vectors.npy", recorded, {"dtype": "f32", "later": 1})


def test_a_part_is_known_by_its_name(tmp_path: Path) -> None:
    assert part_stem(tmp_path, 7).name == "part-000007"
    assert part_number("part-1234567.parquet", ".parquet") == 1234567
    for name in ("part-7.parquet", "part-000007.npy", "_000007.parquet", "part-000007"):
        assert part_number(name, ".parquet") is None
