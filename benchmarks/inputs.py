"""The inputs of every system: sentences of known length, photographs, films.

Pictures are mosaics of the shipped photos at about their own size, so that a large one has the
detail of a large one; films pan over such mosaics. Everything is drawn from a fixed seed, and no
two items are the same, for this service computes equal items in flight once.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path

import av
import numpy as np
from PIL import Image
from tokenizers import Tokenizer

from benchmarks.places import CACHE, ROOT

SAMPLES = ROOT / "src" / "multimodal_embedding_serving" / "builtin" / "samples"
INPUTS = CACHE / "inputs"
SIZES = ((640, 480), (1920, 1080), (4000, 3000))
PICTURES = 80
"""Of each size: more than the 64 that are in flight at most."""
TEXTS = 2048
WORDS = """
a the of in on with and near under above by red green blue small large old new bright dark quiet
cat dog horse bird boat train car bicycle house street bridge river mountain forest beach field
garden table cup coffee book lamp window door child woman man crowd market station church tower
rocket astronaut coins clock sky cloud snow rain light shadow morning evening photo painting
sitting standing running sleeping flying waiting looking holding seen from far away behind
""".split()


@dataclass(frozen=True)
class Film:
    """Seconds, size and the sampling that is asked for."""

    name: str
    size: tuple[int, int]
    seconds: int
    segment: dict[str, float]

    @property
    def path(self) -> Path:
        return INPUTS / f"{self.seconds}s-{self.size[0]}x{self.size[1]}.mp4"


FILMS = (
    Film("60 s of 720p, 64 frames", (1280, 720), 60, {"num_frames": 64}),
    Film("60 s of 1080p, 1 frame per second", (1920, 1080), 60, {"extraction_fps": 1}),
)
FRAMES_A_SECOND = 30


def sentences(tokenizer: Path, tokens: int, count: int = TEXTS) -> list[str]:
    """Different texts of exactly so many tokens, start and end counted."""
    known = Tokenizer.from_file(str(tokenizer))
    known.no_truncation()
    known.no_padding()
    rng = random.Random(tokens)
    words = [each for each in WORDS if len(known.encode(each).ids) == 3]
    texts = sorted({" ".join(rng.choices(words, k=tokens - 2)) for _ in range(count + count // 8)})
    rng.shuffle(texts)
    if len(known.encode(texts[0]).ids) != tokens:
        raise ValueError("this tokenizer joins words")
    return texts[:count]


def byte_texts(tokens: int, count: int) -> list[str]:
    """Different ASCII texts for a tokenizer of bytes that appends one token."""
    rng = random.Random(tokens)
    long = [" ".join(rng.choices(WORDS, k=tokens)) for _ in range(count)]
    return [text[: tokens - 1] for text in long]


def pictures(size: tuple[int, int], count: int = PICTURES) -> list[Path]:
    """JPEG files of quality 90, made where they aren't there yet."""
    folder = INPUTS / f"{size[0]}x{size[1]}"
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number:03d}.jpg" for number in range(count)]
    missing = [path for path in paths if not path.is_file()]
    if missing:
        print(f"making {len(missing)} pictures of {folder.name}", flush=True)
        with ThreadPoolExecutor(2) as threads:
            list(threads.map(partial(_write_picture, size=size), missing))
    return paths


def _write_picture(path: Path, size: tuple[int, int]) -> None:
    partial_file = path.with_suffix(".partial")
    mosaic(size, int(path.stem)).save(partial_file, "JPEG", quality=90)
    partial_file.rename(path)


def mosaic(size: tuple[int, int], seed: int) -> Image.Image:
    """Photos side by side, each cut, mirrored and scaled (0.8 to 1.6) in its own way."""
    rng = random.Random(f"{size} {seed}")
    photos = [Image.open(path).convert("RGB") for path in sorted(SAMPLES.glob("*.jpg"))]
    whole, top = Image.new("RGB", size), 0
    while top < size[1]:
        height, left = round(280 * rng.uniform(0.8, 1.6)), 0
        while left < size[0]:
            tile = _tile(rng.choice(photos), height, rng)
            whole.paste(tile, (left, top))
            left += tile.width
        top += height
    return whole


def _tile(photo: Image.Image, height: int, rng: random.Random) -> Image.Image:
    left, upper = rng.randrange(photo.width // 8), rng.randrange(photo.height // 8)
    cut = photo.crop((left, upper, photo.width, photo.height))
    if rng.random() < 0.5:
        cut = cut.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    size = (max(1, round(cut.width * height / cut.height)), height)
    return cut.resize(size, Image.Resampling.BICUBIC)


def films(chosen: Sequence[Film] = FILMS) -> None:
    """H.264 with a key frame every 250 frames, made where they aren't there yet."""
    INPUTS.mkdir(parents=True, exist_ok=True)
    for film in chosen:
        if not film.path.is_file():
            print(f"making the film: {film.name}", flush=True)
            half_done = film.path.with_suffix(".partial.mp4")
            _write_film(film, half_done)
            half_done.rename(film.path)


def _write_film(film: Film, path: Path) -> None:
    width, height = film.size
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FRAMES_A_SECOND)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"preset": "veryfast", "crf": "23"}
        stream.time_base = Fraction(1, FRAMES_A_SECOND)
        for pixels in _pan(film):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _pan(film: Film) -> Iterator[np.ndarray[tuple[int, ...], np.dtype[np.uint8]]]:
    """A new scene every five seconds, and in each a slow way across a wider mosaic."""
    width, height = film.size
    scene = 5 * FRAMES_A_SECOND
    for number in range(film.seconds * FRAMES_A_SECOND):
        if number % scene == 0:
            wide = np.asarray(mosaic((width + scene * 2, height + scene), number))
        step = number % scene
        yield np.ascontiguousarray(wide[step : step + height, 2 * step : 2 * step + width])
