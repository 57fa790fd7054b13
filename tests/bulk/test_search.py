"""A folder is searched by description, and embedded once."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from multimodal_embedding_serving.bulk.items import Kind
from multimodal_embedding_serving.bulk.search import ImageQuery, Match, SearchResult, search
from multimodal_embedding_serving.cli import app
from multimodal_embedding_serving.cli.reports import clock
from multimodal_embedding_serving.cli.search_page import write_page
from multimodal_embedding_serving.errors import InvalidInput, ModalityNotSupported, NotFound
from multimodal_embedding_serving.settings import Settings
from tests.bulk.fakes import BAD, FakeModel, damage, fill, vector
from tests.cli.running import mmes


def find(
    folder: Path, description: str, model: FakeModel | None = None, top: int = 3, recipe: str = ""
) -> SearchResult:
    index = folder.parent / "index"
    work = search(description, folder, model or FakeModel(), index, top=top, recipe=recipe)
    return asyncio.run(work)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    fill(tmp_path / "media", ["a.jpg", "b.png", "c/d.jpg", "e.txt"])
    (tmp_path / "media" / "film.mp4").write_bytes(b"123")
    return tmp_path / "media"


def names(result: SearchResult) -> list[str]:
    return [Path(match.path).name for match in result.matches]


def test_the_file_that_is_most_like_the_description_comes_first(folder: Path) -> None:
    result = find(folder, "b.png", top=10)
    assert names(result)[0] == "b.png"
    assert sorted(names(result)) == ["a.jpg", "b.png", "d.jpg", "film.mp4"]
    assert result.matches[0].similarity == pytest.approx(1, abs=1e-3)
    similarities = [match.similarity for match in result.matches]
    assert similarities == sorted(similarities, reverse=True)
    by_path = {match.path: match.similarity for match in result.matches}
    photo = str(folder / "c" / "d.jpg")
    exact = float(vector(b"b.png") @ vector(b"c/d.jpg"))
    assert by_path[photo] == pytest.approx(exact, abs=1e-3)


def test_an_image_is_a_query_and_a_minimum_leaves_out_what_is_less_similar(folder: Path) -> None:
    index = folder.parent / "index"

    def run(query: str | ImageQuery, minimum: float = -1) -> SearchResult:
        work = search(query, folder, FakeModel(), index, top=10, minimum=minimum)
        return asyncio.run(work)

    by_image = run(ImageQuery(folder / "b.png"))
    assert names(by_image) == names(run("b.png"))  # FakeModel embeds the bytes, whatever they are
    assert by_image.matches[0].similarity == pytest.approx(1, abs=1e-3)
    only = run(ImageQuery(folder / "b.png"), minimum=0.99)
    assert names(only) == ["b.png"]
    none = run("something else", minimum=0.999)
    assert not none.matches
    assert none.best == pytest.approx(run("something else").matches[0].similarity)


def test_a_video_is_one_match_at_its_best_frame(folder: Path) -> None:
    for frame in range(4):
        description = "123" + chr(frame)
        best = find(folder, description).matches[0]
        assert (Path(best.path).name, best.kind) == ("film.mp4", "video")
        assert (best.frame, best.timestamp) == (10 * frame, 0.5 * frame)
    assert names(find(folder, description, top=10)).count("film.mp4") == 1


def test_a_second_search_embeds_what_is_new_and_forgets_what_is_gone(folder: Path) -> None:
    model = FakeModel()
    find(folder, "a", model)
    fill(folder, ["new.jpg"])
    (folder / "a.jpg").unlink()
    model.requests.clear()
    result = find(folder, "new.jpg", model, top=10)
    assert model.requests == ["new.jpg"]
    assert names(result)[0] == "new.jpg"
    assert "a.jpg" not in names(result)
    model.requests.clear()
    find(folder, "something else", model)
    assert not model.requests


def test_few_videos_of_many_frames_do_not_hide_the_files_behind_them(tmp_path: Path) -> None:
    fill(tmp_path / "media", ["z.jpg"])
    for number in range(40):
        (tmp_path / "media" / f"{number:02}.mp4").write_bytes(b"x" * 3 + bytes([number]) * 4)
    assert len(find(tmp_path / "media", "a", top=41).matches) == 41


def test_models_and_choices_of_frames_have_an_index_each(folder: Path) -> None:
    find(folder, "a")
    other, frames = FakeModel(fingerprint="f2"), FakeModel()
    find(folder, "a", other)
    find(folder, "a", frames, recipe="2 frames")
    assert len(other.requests) == len(frames.requests) == 4


def test_a_model_of_texts_alone_finds_texts(folder: Path) -> None:
    result = find(folder, "e.txt", FakeModel(kinds=("text",)))
    assert names(result) == ["e.txt"]


def test_bad_files_are_counted_and_the_rest_is_found(folder: Path) -> None:
    (folder / "a.jpg").write_bytes(BAD)
    result = find(folder, "a", top=10)
    assert result.tally.errors == 1
    assert len(result.matches) == 3


def test_an_empty_folder_has_no_matches(tmp_path: Path) -> None:
    (tmp_path / "media").mkdir()
    assert find(tmp_path / "media", "a").matches == []


def test_what_can_not_be_searched_is_refused(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(InvalidInput, match="not a folder"):
        find(tmp_path / "nothing", "a")
    visual: tuple[Kind, ...] = ("image", "video")
    with pytest.raises(ModalityNotSupported, match="does not embed text"):
        find(folder, "a", FakeModel(kinds=visual))


def test_times_read_as_on_a_player() -> None:
    assert [clock(seconds) for seconds in (0, 7.54, 59.97, 61, 3909.2)] == [
        "0:00.0",
        "0:07.5",
        "1:00.0",
        "1:01.0",
        "1:05:09.2",
    ]


def test_the_command_finds_the_shipped_photos_and_the_moment_in_the_film(
    samples: Path, tmp_path: Path
) -> None:
    index = {"EMBEDDING_SEARCH_DIR": str(tmp_path)}
    command = ("search", "a cup of coffee", str(samples), "--top", "2", "--frames", "8")
    done = mmes(*command, **index)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first.endswith("samples/coffee.jpg")
    assert "samples/film.mp4  at 0:0" in second
    again = json.loads(mmes(*command, "--json", **index).stdout)
    assert again["index"]["embedded"] == 0
    assert again["index"]["unchanged"] == 7
    best, video = again["matches"]
    assert best["path"] == str(samples / "coffee.jpg")
    assert np.isclose(best["similarity"], float(first.split()[0]), atol=1e-3)
    assert 0 < video["timestamp"] < 6


@pytest.mark.parametrize("suffix", [".npy", ".rows.jsonl", ".sqlite", "ledger.json"])
def test_a_damaged_index_is_built_again(folder: Path, suffix: str) -> None:
    expected = find(folder, "b.png", top=10)
    path = damage(folder.parent / "index", suffix)
    again = find(folder, "b.png", top=10)
    assert again.matches == expected.matches
    rebuilt = 0 if suffix == "ledger.json" else 4  # which holds only a checksum
    assert again.tally.embedded == rebuilt, path
    assert find(folder, "b.png", top=10).tally.unchanged == 4


def test_the_command_searches_by_image_and_writes_a_page(samples: Path, tmp_path: Path) -> None:
    index = {"EMBEDDING_SEARCH_DIR": str(tmp_path / "index")}
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("cat.jpg", "coffee.jpg", "rocket.jpg"):
        (folder / name).write_bytes((samples / name).read_bytes())
    (folder / "<b>.jpg").write_bytes(b"no image")
    page = tmp_path / "page.html"
    query = str(samples / "cat.jpg")
    done = mmes("search", query, str(folder), "--min", "0.9", "--html", str(page), **index)
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    assert line == f" 1.000  {folder}/cat.jpg"
    last = done.stderr.splitlines()[-1]
    assert last.startswith("mmes: could not embed 1 input: ")
    assert last.endswith("vectors.errors.jsonl")
    text = page.read_text()
    assert text.count("<li>") == 1
    assert (folder / "cat.jpg").as_uri() in text
    (encoded,) = re.findall('src="data:image/jpeg;base64,([^"]+)"', text)
    assert max(Image.open(io.BytesIO(base64.b64decode(encoded))).size) == 320
    none = mmes("search", "zebra", str(folder), "--min", "0.99", **index)
    assert none.returncode == 1
    assert "the most similar file has 0." in none.stderr.splitlines()[-1]


@pytest.mark.parametrize("query", ["photo.jpg", "./photo", "folder/photo", "*.jpg"])
def test_a_mistyped_image_is_no_description(query: str, samples: Path, tmp_path: Path) -> None:
    done = mmes("search", query, str(samples), EMBEDDING_SEARCH_DIR=str(tmp_path))
    assert done.returncode == 1
    assert done.stderr == f"mmes: {query}: no such image (to search for it as a text, use --text)\n"
    assert not list(tmp_path.iterdir())


def test_a_page_escapes_names_and_shows_the_moment_of_a_video(
    samples: Path, tmp_path: Path
) -> None:
    gone = Match(str(tmp_path / "<b>&.jpg"), "image", 0.5, None, None)
    video = Match(str(samples / "film.mp4"), "video", 0.25, 30, 2.5)
    write_page(tmp_path / "page.html", "<script>", [gone, video], Settings())
    text = (tmp_path / "page.html").read_text()
    assert "<script>" not in text
    assert "<b>" not in text
    assert "&lt;b&gt;&amp;.jpg can no longer be shown" in text
    assert f'{(samples / "film.mp4").as_uri()}#t=2.50"' in text
    assert "at 0:02.5" in text


def test_indexes_are_listed_and_removed_by_their_folder(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    fill(other, ["z.jpg"])
    find(folder, "a")
    find(folder, "a", FakeModel(fingerprint="f2"))
    find(other, "a")
    monkeypatch.setenv("EMBEDDING_SEARCH_DIR", str(tmp_path / "index"))

    def run(*arguments: str) -> Any:
        return CliRunner().invoke(app, ["indexes", *arguments, "--json"])

    listed = json.loads(run().stdout)
    assert sorted(each["folder"] for each in listed) == [str(folder)] * 2 + [str(other)]
    assert {each["model"] for each in listed} == {"Fake/one"}
    assert all(each["bytes"] > 100 for each in listed)
    assert len(json.loads(run("remove", str(folder)).stdout)) == 2
    (left,) = json.loads(run().stdout)
    assert left["folder"] == str(other)
    assert isinstance(run("remove", str(folder)).exception, NotFound)
    run("remove", left["index"])
    assert json.loads(run().stdout) == []
    assert run("remove").exit_code == 2
