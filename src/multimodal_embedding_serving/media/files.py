"""Files that requests and this process name: resolved, then opened once.

A path can be swapped for a link between the check and the opening. A client's path is therefore
opened without following any link: what was checked has none left.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path, PosixPath

from multimodal_embedding_serving.errors import Forbidden, InvalidInput, NotFound

FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
"""A pipe would block."""


class VettedPath(PosixPath):
    """A client's path after the check: absolute, inside a media root, and without links."""


def media_path(path: str, roots: Sequence[Path]) -> VettedPath:
    """Resolve a client's path to a regular file under the media roots.

    A relative path starts at the first root; an absolute one must be inside a root after links are
    resolved.

    Raises Forbidden outside the roots (whether the file exists or not), NotFound inside them if
    there is no such file.
    """
    if not path or "\0" in path:
        raise InvalidInput("a path must not be empty or contain a NUL character")
    if not roots:
        raise Forbidden("reading files is disabled (EMBEDDING_MEDIA_ROOTS is empty)")
    try:
        file = (roots[0] / path).resolve()
        inside = any(file.is_relative_to(root.resolve()) for root in roots)
    except (OSError, RuntimeError, UnicodeError):  # a loop of links, a name too long
        raise NotFound("no such file under EMBEDDING_MEDIA_ROOTS") from None
    if not inside:
        raise Forbidden("the path is outside EMBEDDING_MEDIA_ROOTS")
    try:
        mode = file.stat().st_mode
    except (OSError, UnicodeError):
        raise NotFound("no such file under EMBEDDING_MEDIA_ROOTS") from None
    if not stat.S_ISREG(mode):
        raise NotFound("the path is not a regular file")
    return VettedPath(file)


def open_file(path: Path) -> int:
    """Open a regular file for reading -> its descriptor, which the caller closes.

    A VettedPath is opened without following any link. Raises OSError, NotFound if the path is not a
    regular file.
    """
    file = _open_without_links(path) if isinstance(path, VettedPath) else os.open(path, FLAGS)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise NotFound("the path is not a regular file")
    return file


def _open_without_links(path: Path) -> int:
    root, *folders, name = path.parts
    place = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for folder in folders:
            flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            inner = os.open(folder, flags, dir_fd=place)
            os.close(place)
            place = inner
        return os.open(name, FLAGS | os.O_NOFOLLOW, dir_fd=place)
    finally:
        os.close(place)
