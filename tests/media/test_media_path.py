"""Which files a caller's path may name."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from multimodal_embedding_serving.errors import Forbidden, InvalidInput, NotFound
from multimodal_embedding_serving.media.files import media_path, open_file


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


def read(path: Path) -> bytes:
    with os.fdopen(open_file(path), "rb") as file:
        return file.read()


def test_a_file_swapped_for_a_link_after_the_check_is_not_opened(tmp_path: Path) -> None:
    checked = media_path("sub/video.mp4", roots(tmp_path))
    assert read(checked) == b"x"
    checked.unlink()
    checked.symlink_to(tmp_path / "outside" / "sub" / "video.mp4")
    with pytest.raises(OSError, match="symbolic links"):
        open_file(checked)
    assert read(Path(checked)) == b"x", "a path of this process may be a link"


def test_a_folder_swapped_for_a_link_after_the_check_is_not_entered(tmp_path: Path) -> None:
    checked = media_path("sub/video.mp4", roots(tmp_path))
    checked.parent.rename(tmp_path / "first" / "moved")
    (tmp_path / "first" / "sub").symlink_to(tmp_path / "outside" / "sub")
    with pytest.raises(OSError, match="Not a directory"):
        open_file(checked)


def test_a_path_that_is_swapped_all_the_time_is_never_read_outside(tmp_path: Path) -> None:
    """Before, 203 of 621 tries read what lies outside."""
    allowed = roots(tmp_path)
    inside, outside = tmp_path / "first" / "sub" / "video.mp4", tmp_path / "outside" / "secret"
    outside.write_bytes(b"secret")
    stop = threading.Event()

    def swap() -> None:
        spare = inside.with_name("spare")
        while not stop.is_set():
            spare.symlink_to(outside)
            spare.replace(inside)
            spare.write_bytes(b"x")
            spare.replace(inside)

    swapping = threading.Thread(target=swap)
    swapping.start()
    read_inside = 0
    try:
        for _ in range(2000):
            with contextlib.suppress(Forbidden, NotFound, OSError):
                assert read(media_path("sub/video.mp4", allowed)) in (b"x", b"")
                read_inside += 1
    finally:
        stop.set()
        swapping.join()
    assert read_inside > 0


def list_descriptors() -> list[str]:
    return [each.name for each in Path("/proc/self/fd").iterdir()]


def test_no_descriptor_stays_open(tmp_path: Path) -> None:
    checked = media_path("sub/video.mp4", roots(tmp_path))
    before = list_descriptors()
    read(checked)
    for path in (checked.parent, checked / "below", checked.with_name("missing")):
        with pytest.raises((OSError, NotFound)):
            open_file(type(checked)(path))
    assert list_descriptors() == before


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
