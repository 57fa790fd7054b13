"""What command-line arguments, folders and lists mean."""

from __future__ import annotations

import io
import json
import os
import re
from contextlib import chdir
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multimodal_embedding_serving.bulk import listing as module
from multimodal_embedding_serving.bulk.items import Failure, Item, printable
from multimodal_embedding_serving.bulk.listing import Listing
from multimodal_embedding_serving.errors import NotFound
from tests.bulk.fakes import fill

Entry = tuple[str, str, str]


def entries(*arguments: str | Path, **options: Any) -> list[Entry]:
    """(kind, or error code; key's last part; source's last part) of what is listed."""
    listing = Listing(tuple(map(str, arguments)), **options)
    return [
        (each.error.code, Path(each.key).name, "")
        if isinstance(each, Failure)
        else (each.kind, each.key.rpartition("/")[2], str(each.source).rpartition("/")[2])
        for each in listing
    ]


def files(*names: str) -> list[Entry]:
    kinds = {"jpg": "image", "mp4": "video", "txt": "text"}
    return [(kinds[name.rpartition(".")[2]], name, name) for name in names]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    names = ["b.jpg", "a.mp4", "z/y/c.jpg", "z/d.txt", ".hidden.jpg", ".git/e.jpg", "f.pdf"]
    fill(tmp_path, names)
    return tmp_path


def test_a_folder_is_its_media_in_order_without_what_is_hidden(folder: Path) -> None:
    assert entries(folder) == files("a.mp4", "b.jpg", "d.txt", "c.jpg")
    assert entries(folder, kinds=("image",)) == files("b.jpg", "c.jpg")


def test_a_large_folder_is_ordered_by_chunks(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_SORTED", 1)
    assert sorted(entries(folder)) == sorted(files("a.mp4", "b.jpg", "d.txt", "c.jpg"))


def test_links_to_files_are_followed_and_links_to_folders_are_not(folder: Path) -> None:
    (folder / "z" / "loop").symlink_to(folder)
    (folder / "z" / "e.jpg").symlink_to(folder / "b.jpg")
    (folder / "z" / "gone.jpg").symlink_to(folder / "nothing")
    assert entries(folder / "z") == files("d.txt", "e.jpg", "c.jpg")


def test_globs_match_here_too(folder: Path) -> None:
    assert entries(folder / "*.jpg") == files("b.jpg")
    assert entries(folder / "**" / "*.jpg") == files("b.jpg", "c.jpg")


def test_words_are_files_urls_or_texts(folder: Path) -> None:
    assert entries(folder / "b.jpg") == files("b.jpg")
    words = ("a cat", "a cat. And a dog!", "", "x" * 5000)
    assert entries(*words) == [("text", word, word) for word in words]
    assert entries("https://example.com/a.mp4?x=1", "https://example.com/b") == [
        ("video", "a.mp4?x=1", "a.mp4?x=1"),
        ("image", "b", "b"),
    ]


def test_what_looks_like_a_file_and_is_none_is_no_text(folder: Path) -> None:
    assert entries("cat.jpg", folder / "nothing.mp4", "photos/") == [
        ("not_found", "cat.jpg", ""),
        ("not_found", "nothing.mp4", ""),
        ("not_found", "photos", ""),
    ]
    assert entries(texts=("cat.jpg",)) == [("text", "cat.jpg", "cat.jpg")]
    assert entries("a photo of cat.jpg") == [("text",) + ("a photo of cat.jpg",) * 2]
    assert entries(folder / "f.pdf") == [("invalid_input", "f.pdf", "")]


MISTYPED = ("photoz/", "./photoz", "/data/photoz", "~/photoz", "..", "*.xyz", "a?", "x[1]", "a/b")


@pytest.mark.parametrize("argument", MISTYPED)
def test_a_mistyped_path_or_glob_is_no_text(argument: str, tmp_path: Path) -> None:
    with chdir(tmp_path):
        if argument != "..":  # which is there
            ((code, _, _),) = entries(argument)
            assert code == "not_found"
            with pytest.raises(NotFound, match=re.escape(f"{argument}: no ")):
                Listing((argument,)).check()
        assert entries(texts=(argument,)) == [
            ("text", argument.rpartition("/")[2], argument.rpartition("/")[2])
        ]


def test_where_texts_are_not_bare_every_argument_must_exist(folder: Path) -> None:
    listed = Listing(("photoz",), texts=("a cat",), bare_texts=False)
    failure, text = listed
    assert isinstance(failure, Failure)
    assert failure.error.message == "no such file or folder (to embed it as text, use --text)"
    assert text.key == "a cat"
    with pytest.raises(NotFound, match=r"^photoz: no such file or folder \(to embed it as text"):
        listed.check()
    there = (
        str(folder),
        str(folder / "*.jpg"),
        str(folder / "b.jpg"),
        "https://example.com/a",
        "-",
    )
    Listing(there, bare_texts=False, stdin=io.StringIO()).check()
    (line,) = Listing(("-",), bare_texts=False, stdin=io.StringIO("a cat"))
    assert isinstance(line, Failure)
    assert 'write {"text": …} on the line' in line.error.message
    lines = io.StringIO('a cat\n{"text": "a dog"}\n')
    assert entries("-", stdin=lines, bare_texts=False) == [
        ("not_found", "a cat", ""),
        ("text", "-:2", "a dog"),
    ]


def test_a_missing_file_of_a_list_is_named(folder: Path) -> None:
    (folder / "list.csv").write_text("image\nnothing.jpg\n")
    (failure,) = Listing((str(folder / "list.csv"),))
    assert isinstance(failure, Failure)
    assert failure.key == f"{folder}/list.csv:2"
    assert failure.error.message == f"no such file: {folder}/nothing.jpg"


def test_lines_of_json_name_texts_and_files_beside_the_list(folder: Path) -> None:
    lines: list[Any] = [
        "just a text",
        {"text": "a cat"},
        {"text": "a dog", "id": 7},
        {"image": "b.jpg"},
        {"path": "a.mp4", "id": "film"},
        {"image": "https://example.com/x"},
        {"text": "a", "image": "b.jpg"},
        {"text": None},
        {"image": "nothing.jpg"},
        [1],
    ]
    path = folder / "list.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in lines) + "\n\nno json\n")
    assert entries(path) == [
        ("text", "list.jsonl:1", "just a text"),
        ("text", "list.jsonl:2", "a cat"),
        ("text", "7", "a dog"),
        ("image", "b.jpg", "b.jpg"),
        ("video", "film", "a.mp4"),
        ("image", "x", "x"),
        ("invalid_input", "list.jsonl:7", ""),
        ("invalid_input", "list.jsonl:8", ""),
        ("not_found", "list.jsonl:9", ""),
        ("invalid_input", "list.jsonl:10", ""),
        ("invalid_input", "list.jsonl:12", ""),
    ]


def test_a_table_has_a_column_for_what_it_lists(folder: Path) -> None:
    path = folder / "list.csv"
    path.write_text('\ufeffid,text,image\n1,"a ""quoted"" cat,\nin two lines",\n,,b.jpg\n3,,\n')
    assert entries(path) == [
        ("text", "1", 'a "quoted" cat,\nin two lines'),
        ("image", "b.jpg", "b.jpg"),
        ("invalid_input", "list.csv:5", ""),
    ]


def test_standard_input_holds_words_or_objects(folder: Path) -> None:
    lines = f'a cat\n\n{folder}/b.jpg\n{{"text": "a dog"}}\r\n{{broken\n'
    assert entries("-", stdin=io.StringIO(lines)) == [
        ("text", "a cat", "a cat"),
        ("image", "b.jpg", "b.jpg"),
        ("text", "-:4", "a dog"),
        ("invalid_input", "-:5", ""),
    ]
    assert entries("-") == [("text", "-", "-")]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_is_named(folder: Path) -> None:
    (folder / "z").chmod(0)
    assert ("forbidden", "z", "") in entries(folder)
    (folder / "z").chmod(0o755)


def test_a_name_that_is_no_utf8_is_listed_and_can_be_printed(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.jpg")
    (tmp_path / name).touch()
    (item,) = Listing((str(tmp_path),))
    assert isinstance(item, Item)
    assert Path(item.key).exists()
    assert printable(item.key).endswith("/caf\\udce9.jpg")


def test_the_mark_tells_whether_a_file_has_changed(folder: Path) -> None:
    def mark() -> str:
        (item,) = Listing((str(folder / "b.jpg"),))
        assert isinstance(item, Item)
        return item.mark

    before = mark()
    assert mark() == before
    os.utime(folder / "b.jpg", (1, 1))
    assert mark() != before


# Without / and ~: a word must not list this machine's disk.
WORD = st.text(st.characters(blacklist_characters="/~.\\", blacklist_categories=()), max_size=20)


@settings(max_examples=30)
@given(st.lists(WORD, max_size=5), st.binary(max_size=200))
def test_no_words_and_no_list_end_a_listing(words: list[str], content: bytes) -> None:
    with TemporaryDirectory() as place, chdir(place):
        for name in ("fuzz.jsonl", "fuzz.csv"):
            Path(name).write_bytes(content)
        for each in Listing((*words, "fuzz.jsonl", "fuzz.csv")):
            assert isinstance(printable(each.key).encode(), bytes)
