"""A job that dies at any step resumes there: nothing is lost or written twice."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multimodal_embedding_serving.bulk.ledger import Ledger
from multimodal_embedding_serving.bulk.output import FileOutput
from tests.bulk.fakes import BAD, FakeModel, Row, embed, errors, fill, rows, vector

NAMES = ["a.jpg", "b.mp4", "c.png", "d.txt", "e.jpg", "f.mp4", "g.jpg"]
FRAGILE = [name for name in NAMES if not name.endswith(".txt")]
FORMATS = ["vectors.parquet", "vectors.jsonl", "vectors.npy"]
STEPS = [
    (Ledger, "publish"),
    (Ledger, "merged"),
    (Ledger, "note"),
    (Ledger, "remove"),
    (Ledger, "forget_failures"),
    (FileOutput, "write"),
    (FileOutput, "_replace"),
    (Path, "replace"),
    (Path, "unlink"),
]
"""The functions that change anything on the disk."""


class Killed(BaseException):
    """The end of the process: nothing runs after it."""


@contextmanager
def killed_at(moment: int) -> Iterator[None]:
    """Before or after the step of this number; later steps never happen."""
    passed = 0

    def mortal(step: Callable[..., Any]) -> Callable[..., Any]:
        def take(*arguments: Any, **options: Any) -> Any:
            nonlocal passed
            for ahead in (True, False):
                passed += 1
                if passed > moment:
                    raise Killed
                if ahead:
                    result = step(*arguments, **options)
            return result

        return take

    patches = [patch.object(where, name, mortal(getattr(where, name))) for where, name in STEPS]
    for each in patches:
        each.start()
    try:
        yield
    finally:
        for each in patches:
            each.stop()


@pytest.mark.parametrize(
    "name",
    ["vectors.npy", *(pytest.param(each, marks=pytest.mark.slow) for each in FORMATS[:2])],
)
def test_a_job_may_end_at_any_step(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "media"
    fill(folder, NAMES[:4])
    (folder / "c.png").write_bytes(BAD)
    embed(folder, tmp_path / "whole.jsonl")
    whole = rows(tmp_path / "whole.jsonl")
    moment, ended = 0, False
    while not ended:
        place = tmp_path / str(moment)
        place.mkdir()
        try:
            with killed_at(moment):
                embed(folder, place / name)
            ended = True
        except Killed:
            model = FakeModel()
            embed(folder, place / name, model)
            assert len(model.requests) == len(set(model.requests))
        assert rows(place / name) == whole, moment
        assert set(errors(place / name)) == {"c.png"}
        moment += 1
    assert moment > 20


# (what, of which file, its content or when the run ends)
Step = tuple[str, str, int]
STEP = st.one_of(
    st.tuples(st.just("write"), st.sampled_from(NAMES), st.integers(0, 3)),
    st.tuples(st.just("spoil"), st.sampled_from(FRAGILE), st.just(0)),
    st.tuples(st.just("remove"), st.sampled_from(NAMES), st.just(0)),
    st.tuples(st.sampled_from(["run", "run and drop"]), st.just(""), st.integers(0, 40)),
)


@settings(max_examples=8)
@given(st.lists(STEP, max_size=6), st.just("vectors.npy"))
def test_whatever_happens_between_runs_the_next_one_is_right(steps: list[Step], name: str) -> None:
    hold(steps, name)


@pytest.mark.slow
@settings(max_examples=200)
@given(st.lists(STEP, max_size=12), st.sampled_from(FORMATS))
def test_whatever_happens_the_next_run_is_right_in_every_format(
    steps: list[Step], name: str
) -> None:
    hold(steps, name)


def hold(steps: list[Step], name: str) -> None:
    """Files appear, change, turn invalid and disappear, and runs are killed; then one finishes."""
    with TemporaryDirectory() as place:
        folder, out = Path(place) / "media", Path(place) / name
        folder.mkdir()
        for time, (what, which, number) in enumerate(steps, 1):
            path = folder / which
            if what.startswith("run"):
                dropping = "drop" if what.endswith("drop") else "keep"
                try:
                    with killed_at(number):
                        embed(folder, out, removed=dropping)
                except Killed:
                    continue
            elif what == "remove":
                path.unlink(missing_ok=True)
            else:
                path.write_bytes(BAD if what == "spoil" else bytes([number] * 3))
                os.utime(path, (time, time))
        model = FakeModel()
        embed(folder, out, model, removed="drop")
        assert len(model.requests) == len(set(model.requests))
        actual = rows(out)
        assert sorted(actual, key=str) == sorted(expected(folder), key=str)
        bad = {each.name for each in folder.iterdir() if each.read_bytes() == BAD}
        assert set(errors(out)) == bad
        again = FakeModel()
        embed(folder, out, again, removed="drop")
        assert not again.requests
        assert rows(out) == actual


def expected(folder: Path) -> list[Row]:
    """The rows of a folder's files as they are now, from the model's own rule."""
    entries: list[Row] = []
    for path in folder.iterdir():
        content = path.read_bytes()
        if content == BAD:
            continue
        if path.suffix == ".mp4":
            for n in range(len(content) % 4 + 1):
                numbers = tuple(map(float, vector(content + bytes([n]))))
                entries.append((path.name, "video", 10 * n, 0.5 * n, numbers))
        else:
            kind = "text" if path.suffix == ".txt" else "image"
            entries.append((path.name, kind, None, None, tuple(map(float, vector(content)))))
    return entries
