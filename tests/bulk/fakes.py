"""A model that embeds what it reads, a folder to embed, and the rows of an output."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet

from multimodal_embedding_serving.bulk.items import ITEM_KINDS, Kind, Source
from multimodal_embedding_serving.bulk.job import Options, Tally, run
from multimodal_embedding_serving.bulk.listing import Listing
from multimodal_embedding_serving.bulk.models import Identity, VideoResult
from multimodal_embedding_serving.bulk.output import FileOutput, Output
from multimodal_embedding_serving.errors import EmbeddingError, InvalidInput
from multimodal_embedding_serving.inputs.items import FrameInfo
from multimodal_embedding_serving.types import Vector, Vectors
from tests.fakes import vector_of

BAD = b"bad"
"""A file of these bytes can't be embedded."""
SMALL = Options(part_rows=3)


def vector(content: bytes) -> Vector:
    return vector_of(np.frombuffer(content or b"\0", np.uint8))


@dataclass
class FakeModel:
    """Vectors follow from the bytes alone; `raises` is raised for files of those names."""

    kinds: tuple[Kind, ...] = ITEM_KINDS
    fingerprint: str = "f1"
    parallel: int = 8
    raises: dict[str, EmbeddingError] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    """Names of the files, and texts, that it was asked to embed."""
    closed: bool = False

    @property
    def identity(self) -> Identity:
        return Identity("Fake/one", self.fingerprint, 8, self.kinds)

    async def texts(self, texts: Sequence[str]) -> Vectors:
        self.requests += texts
        await asyncio.sleep(0)
        if any(text in self.raises for text in texts):
            raise next(self.raises[text] for text in texts if text in self.raises)
        return np.stack([vector(text.encode("utf-8", "surrogatepass")) for text in texts])

    async def query(self, text: str) -> Vector:
        return vector(text.encode())

    async def image(self, source: Source) -> Vector:
        return vector(await self._read(source))

    async def video(self, source: Source) -> VideoResult:
        content = await self._read(source)
        frames = [FrameInfo(10 * n, 0.5 * n) for n in range(len(content) % 4 + 1)]
        rows = [vector(content + bytes([n])) for n in range(len(frames))]
        return VideoResult(np.stack(rows), frames)

    async def _read(self, source: Source) -> bytes:
        if isinstance(source, bytes):
            return self._content(source)
        name = Path(source).name
        self.requests.append(name)
        await asyncio.sleep(0.0001 * (len(name) % 3))  # some overtake others
        if name in self.raises:
            raise self.raises[name]
        return self._content(await asyncio.to_thread(Path(source).read_bytes))

    def _content(self, content: bytes) -> bytes:
        if content == BAD:
            raise InvalidInput("the image can't be decoded", index=0)
        return content

    async def aclose(self) -> None:
        self.closed = True


def fill(folder: Path, names: Sequence[str], content: str = "") -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(f"{content}{name}".encode())


def embed(
    folder: Path, out: Path | Output, model: FakeModel | None = None, **options: Any
) -> Tally:
    """One run over a folder."""
    fresh = options.pop("fresh", False)
    mark = {"mark": options.pop("mark")} if "mark" in options else {}
    job_options = Options(**{"part_rows": 3, **options})
    output = FileOutput(out) if isinstance(out, Path) else out
    listing = Listing((str(folder),), **mark)
    return asyncio.run(run(listing, model or FakeModel(), output, job_options, fresh=fresh))


Row = tuple[str, str, int | None, float | None, tuple[float, ...]]


def rows(out: Path) -> list[Row]:
    """(name, kind, frame, timestamp, vector) of an output, in its order."""
    if out.suffix == ".parquet":
        entries = pyarrow.parquet.read_table(out).to_pylist()
    elif out.suffix == ".jsonl":
        entries = [json.loads(line) for line in out.read_text().splitlines()]
    else:
        facts = out.with_suffix(".rows.jsonl").read_text().splitlines()
        matrix = np.load(out)
        assert len(facts) == len(matrix)
        entries = [
            {**json.loads(line), "vector": vector.tolist()}
            for line, vector in zip(facts, matrix, strict=True)
        ]
    return [
        (
            Path(row["path"]).name,
            row["kind"],
            row["frame"],
            row["timestamp"],
            tuple(float(np.float32(number)) for number in row["vector"]),
        )
        for row in entries
    ]


def errors(out: Path) -> dict[str, str]:
    """name -> code of what could not be embedded."""
    path = out.with_suffix(".errors.jsonl")
    if not path.exists():
        return {}
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return {Path(each["path"]).name: each["code"] for each in lines}


def damage(folder: Path, suffix: str) -> Path:
    """Flip a bit in the middle of the one file whose name ends so, and keep its times."""
    (path,) = (each for each in folder.rglob("*") if each.name.endswith(suffix))
    stat, data = path.stat(), bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    return path
