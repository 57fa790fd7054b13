"""Which files a caller's path may name."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from multimodal_embedding_serving.errors import Forbidden, InvalidInput, NotFound
from multimodal_embedding_serving.media.fetch import media_path


def roots(folder: Path) -> Sequence[Path]:
    for name in ("first", "second", "outside"):
        (folder / name / "sub").mkdir(parents=True)
        (folder / name / "sub" / "video.mp4").write_bytes(b"x")
    return (folder / "first", folder / "second")


def test_paths_inside_the_roots_are_found(tmp_path: Path) -> None:
    first, second = roots(tmp_path)
    expected = (first / "sub" / "video.mp4").resolve()
    for path in ("sub/video.mp4", "./sub/../sub/video.mp4", str(expected)):
        assert media_path(path, (first, second)) == expected
    assert media_path(str(second / "sub/video.mp4"), (first, second)).parent.parent == second


@pytest.mark.parametrize(
    "path",
    ["/etc/passwd", "../outside/sub/video.mp4", "sub/../../outside/sub/video.mp4", "..", "/",
     "link", "../first/../second-x", "../nowhere/at/all", "/proc/self/environ", "chain"],
)  # fmt: skip
def test_paths_outside_are_a_403_whether_they_exist_or_not(tmp_path: Path, path: str) -> None:
    allowed = roots(tmp_path)
    (tmp_path / "first" / "link").symlink_to(tmp_path / "outside" / "sub" / "video.mp4")
    (tmp_path / "first" / "chain").symlink_to("link")
    with pytest.raises(Forbidden) as raised:
        media_path(path, allowed)
    assert str(tmp_path) not in str(raised.value)


def test_a_link_from_root_to_root_is_followed(tmp_path: Path) -> None:
    first, second = roots(tmp_path)
    (first / "link").symlink_to(second / "sub" / "video.mp4")
    assert media_path("link", (first, second)) == (second / "sub/video.mp4").resolve()


@pytest.mark.parametrize(
    "path", ["missing.mp4", "sub", ".", "x" * 5000, "loop", "pipe", "sub/video.mp4/x"]
)
def test_what_is_no_file_inside_the_roots_is_a_404(tmp_path: Path, path: str) -> None:
    allowed = roots(tmp_path)
    (tmp_path / "first" / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "first" / "pipe")
    with pytest.raises(NotFound):
        media_path(path, allowed)


@pytest.mark.parametrize("path", ["", "sub/video.mp4\0.jpg"])
def test_an_empty_path_or_one_with_nul_is_a_422(tmp_path: Path, path: str) -> None:
    with pytest.raises(InvalidInput):
        media_path(path, roots(tmp_path))


def test_without_roots_nothing_may_be_read() -> None:
    with pytest.raises(Forbidden):
        media_path("x", ())


def test_a_lone_surrogate_in_a_path_is_no_fault_of_the_server(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        media_path("\ud800.mp4", roots(tmp_path))
