"""Flip bits in the files that the service keeps, one at a time, and use them.

    python -m tests.safety.flips MODEL WORK COUNT SEED

runs as a process of its own, so that an abort is seen. Each line on standard output is one flip as
JSON: first that it is about to happen, then how it ended. MODEL is a folder: a bundle, or a
checkpoint from which a damaged bundle can be converted again.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from multimodal_embedding_serving.backends.tuning import tune
from multimodal_embedding_serving.bulk.search import search
from multimodal_embedding_serving.conversion.parity import opening_bound
from multimodal_embedding_serving.conversion.store import load_bundle
from multimodal_embedding_serving.engine import Engine
from multimodal_embedding_serving.errors import EmbeddingError
from multimodal_embedding_serving.settings import Settings
from multimodal_embedding_serving.types import Vectors
from tests.bulk.fakes import FakeModel, fill

TEXTS = ["a cat", "the quick brown fox jumps over the lazy dog", "stock market 2024", "Zürich"]
LOCK = "lock"
"""How the names of files without contents end."""
TUNING_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Flip:
    """One flipped bit and what came of it."""

    file: str
    place: int
    bit: int
    outcome: str
    """served, rejected, or RAW: an exception that is none of the service's own."""
    cosine: float | None = None
    """The least one to the right vectors."""
    bound: float | None = None
    message: str = ""
    log: str = ""


class Kept(logging.Handler):
    """The log of one opening."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []
        self.tracebacks = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())
        self.tracebacks += bool(record.exc_info)


def embed(settings: Settings) -> tuple[Vectors, float]:
    """Vectors of texts and images, and the bound of the form that served them."""
    rng = np.random.default_rng(1)
    images = [rng.integers(0, 256, (64, 64, 3), dtype=np.uint8) for _ in range(3)]
    with Engine.open(settings=settings) as engine:
        vectors = np.concatenate([engine.embed(texts=TEXTS), engine.embed(images=images)])
        manifest, info = load_bundle(settings).manifest, engine.info
        bounds = (
            opening_bound(manifest, each, info.inference, info.parity or {})
            for each in info.modalities
        )
        return vectors, min(bounds)


def find(folder: Path, index: Path) -> list[tuple[str, float]]:
    result = asyncio.run(search("b.png", folder, FakeModel(), index, top=10))
    return [(Path(match.path).name, round(match.similarity, 4)) for match in result.matches]


def kept_files(*folders: Path) -> list[Path]:
    """Every file of the service below the folders that has contents."""
    return [
        path
        for folder in folders
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.stat().st_size and not path.name.endswith(LOCK)
    ]


def flip(path: Path, place: int, bit: int) -> bytes:
    """Flip one bit and keep the file's times, as a failing disk does -> the whole file before."""
    stat, data = path.stat(), path.read_bytes()
    changed = bytearray(data)
    changed[place] ^= 1 << bit
    path.write_bytes(changed)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    return data


def run(model: Path, work: Path, count: int, seed: int) -> Iterator[Flip | dict[str, Any]]:
    """Flip `count` bits, one after the other, each of them undone afterwards."""
    models, index, media = work / "models", work / "index", work / "media"
    settings = Settings(model=str(model), models_dir=models, media_roots=())
    fill(media, ["a.jpg", "b.png", "c/d.jpg"])
    embed(settings)
    tune(load_bundle(settings), settings, seconds=TUNING_SECONDS)
    vectors, _ = embed(settings)
    found = find(media, index)
    rng = random.Random(seed)
    bundles = [model] if (model / "manifest.json").is_file() else []
    for _ in range(count):
        path = rng.choice(kept_files(models, index, *bundles))
        place, bit = rng.randrange(path.stat().st_size), rng.randrange(8)
        yield {"about": str(path), "place": place, "bit": bit}
        before = flip(path, place, bit)
        damaged = path.read_bytes()
        log = Kept()
        logging.getLogger().addHandler(log)
        try:
            searched = path.is_relative_to(index)
            result = _use(settings, vectors, None if not searched else (media, index, found))
        finally:
            logging.getLogger().removeHandler(log)
        if log.tracebacks:
            result |= {"outcome": "RAW", "message": "a traceback in the log"}
        yield Flip(path.name, place, bit, log="; ".join(log.lines)[:300], **result)
        if path.is_file() and path.read_bytes() == damaged:  # nothing has replaced it
            path.write_bytes(before)


def _use(
    settings: Settings, right: Vectors, index: tuple[Path, Path, Sequence[Any]] | None
) -> dict[str, Any]:
    try:
        if index is not None:
            media, folder, found = index
            same = find(media, folder) == found
            return {"outcome": "served", "cosine": float(same), "bound": 1.0}
        vectors, bound = embed(settings)
        norms = np.linalg.norm(vectors, axis=1) * np.linalg.norm(right, axis=1)
        cosine = float(((vectors * right).sum(1) / norms).min())
        return {"outcome": "served", "cosine": round(cosine, 6), "bound": bound}
    except EmbeddingError as error:
        return {"outcome": "rejected", "message": error.message}
    except Exception as error:  # noqa: BLE001 - what the test is for
        return {"outcome": "RAW", "message": f"{type(error).__name__}: {error}"[:300]}


def main() -> None:
    model, work, count, seed = sys.argv[1:]
    for each in run(Path(model), Path(work), int(count), int(seed)):
        line = each if isinstance(each, dict) else asdict(each)
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
