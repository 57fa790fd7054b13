"""How long a listing is, found out while its items are embedded already."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import replace
from typing import Self

from multimodal_embedding_serving.bulk.listing import Listed, Listing


class Count:
    """Counts a listing on a thread of its own; one that reads stdin can't be read twice."""

    def __init__(self, listing: Listing) -> None:
        self.total: int | None = None
        """None until the end is reached."""
        self._ended = threading.Event()
        self._listed: Iterable[Listed] = replace(listing, mark=lambda path, stat: "")
        self._thread = threading.Thread(target=self._count, name="counting", daemon=True)
        self._possible = "-" not in listing.arguments

    def __enter__(self) -> Self:
        if self._possible:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._possible:
            self._thread.join()

    def _count(self) -> None:
        count = 0
        for _ in self._listed:
            count += 1
            if self._ended.is_set():
                return
        self.total = count
