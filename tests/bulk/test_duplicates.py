"""Near-duplicates in a folder, and in the files that `mmes embed` writes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from multimodal_embedding_serving.bulk import duplicates
from multimodal_embedding_serving.bulk.duplicates import NamedVectors, find_groups, read_vectors
from multimodal_embedding_serving.cli import app
from multimodal_embedding_serving.errors import InvalidInput, NotFound
from tests.bulk.fakes import embed, fill, vector
from tests.cli.running import mmes, mmes_in

TOLERANCE = 1e-5


@given(st.integers(0, 40), st.integers(0, 2**32 - 1), st.sampled_from([-1, 0.3, 0.9, 1.0]))
def test_groups_are_those_of_the_rule_whatever_the_blocks(
    count: int, seed: int, minimum: float
) -> None:
    rng = np.random.default_rng(seed)
    centers = rng.standard_normal((5, 3))
    rows = centers[rng.integers(0, 5, count)] + 0.2 * rng.standard_normal((count, 3))
    rows[: count // 3] = np.round(rows[: count // 3])  # some are equal
    rows += 1e-3
    vectors = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(duplicates, "BLOCK_ROWS", 7)
        found = find_groups(vectors, minimum)
    owner = {row: group[0][0] for group in found for row, _ in group}
    exact = vectors.astype(np.float64) @ vectors.T.astype(np.float64)
    firsts: list[int] = []
    for row in range(count):
        nearest = max((exact[row, first] for first in firsts), default=-2.0)
        first = owner.get(row, row)
        if first == row:
            assert nearest < minimum + TOLERANCE  # or it would have joined
            firsts.append(row)
        else:
            assert first in firsts
            assert exact[row, first] == pytest.approx(nearest, abs=TOLERANCE)
            assert nearest >= minimum - TOLERANCE
    for group in found:
        assert group[0][1] == 1.0
        assert len(group) > 1
        assert [row for row, _ in group] == sorted(row for row, _ in group)
        for row, similarity in group:
            assert similarity == pytest.approx(exact[row, group[0][0]], abs=TOLERANCE)


def test_the_rows_of_a_video_are_one_vector() -> None:
    rows = np.eye(3, dtype=np.float16)
    named = NamedVectors.of_rows(["a.mp4", "b.jpg", "a.mp4"], rows)
    assert named.paths == ["a.mp4", "b.jpg"]
    half = 0.5**0.5
    assert np.allclose(named.vectors, [[half, 0, half], [0, 1, 0]])


@pytest.mark.parametrize("name", ["v.npy", "v.jsonl", "v.parquet"])
def test_every_format_of_vectors_is_read(tmp_path: Path, name: str) -> None:
    fill(tmp_path / "media", ["a.jpg", "b.png"])
    (tmp_path / "media" / "copy.jpg").write_bytes((tmp_path / "media" / "a.jpg").read_bytes())
    embed(tmp_path / "media", tmp_path / name)
    named = read_vectors(tmp_path / name)
    (group,) = named.groups(0.99)
    assert [Path(each.path).name for each in group] == ["a.jpg", "copy.jpg"]
    places = {Path(path).name: place for place, path in enumerate(named.paths)}
    assert np.allclose(named.vectors[places["b.png"]], vector(b"b.png"), atol=1e-6)


def test_what_is_no_vector_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="gone: no such file or folder"):
        read_vectors(tmp_path / "gone")
    files = {
        "a.txt": b"",
        "b.jsonl": b'{"path": "a"}\n',
        "c.jsonl": b"no json\n",
        "d.npy": b"no matrix",
        "e.parquet": b"no table",
    }
    (tmp_path / "d.rows.jsonl").touch()
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    for name in files:
        with pytest.raises(InvalidInput, match=name):
            read_vectors(tmp_path / name)
    (tmp_path / "d.rows.jsonl").unlink()
    with pytest.raises(NotFound, match=r"d.rows.jsonl, which was written beside it, is missing"):
        read_vectors(tmp_path / "d.npy")


def test_a_folder_is_indexed_and_compared(samples: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("cat.jpg", "coffee.jpg"):
        shutil.copy(samples / name, folder)
    shutil.copy(samples / "cat.jpg", folder / "same.jpg")
    search = {"EMBEDDING_SEARCH_DIR": str(tmp_path / "index")}
    done = mmes_in(folder, "duplicates", "--json", **search)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["compared"] == 3
    (group,) = answer["groups"]
    assert [Path(each["path"]).name for each in group] == ["cat.jpg", "same.jpg"]
    lines = mmes_in(folder, "duplicates", **search).stdout.splitlines()
    assert lines == ["cat.jpg", " 1.000  same.jpg"]


def test_nothing_similar_is_said_and_not_an_error(tmp_path: Path) -> None:
    lines = [{"path": f"{n}.jpg", "vector": row} for n, row in enumerate(np.eye(2).tolist())]
    file = tmp_path / "v.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = mmes("duplicates", str(file))
    assert (done.returncode, done.stdout) == (0, "")
    assert "no near-duplicates, similarity 0.95 or more (--min); compared 2 files" in done.stderr


def test_an_option_without_effect_on_a_file_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "v.jsonl").write_text("")
    runner = CliRunner(env={"COLUMNS": "200"})
    done = runner.invoke(app, ["duplicates", str(tmp_path / "v.jsonl"), "--frames", "3"])
    assert done.exit_code == 2
    assert "--frames has no effect on a vector file" in done.stderr
