"""The inputs for every system: sentences of known length, images, videos.

Images are mosaics of the shipped photos at about their own size, so that a large one has as much
detail as a large photo; videos pan over such mosaics. Everything is drawn from a fixed seed, and no
two items are equal, because this service computes equal items in flight only once.
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
IMAGES_PER_SIZE = 80
"""More than the 64 that are in flight at most."""
TEXTS = 2048
WORDS = """
a the of in on with and near under above by red green blue small large old new bright dark quiet
cat dog horse bird boat train car bicycle house street bridge river mountain forest beach field
garden table cup coffee book lamp window door child woman man crowd market station church tower
rocket astronaut coins clock sky cloud snow rain light shadow morning evening photo painting
sitting standing running sleeping flying waiting looking holding seen from far away behind
""".split()


@dataclass(frozen=True)
class Video:
    """A generated video, and which of its frames to sample."""

    name: str
    size: tuple[int, int]
    seconds: int
    segment: dict[str, float]

    @property
    def path(self) -> Path:
        return INPUTS / f"{self.seconds}s-{self.size[0]}x{self.size[1]}.mp4"


VIDEOS = (
    Video("60 s of 720p, 64 frames", (1280, 720), 60, {"num_frames": 64}),
    Video("60 s of 1080p, 1 frame per second", (1920, 1080), 60, {"extraction_fps": 1}),
)
FRAME_RATE = 30


def sentences(tokenizer: Path, tokens: int, count: int = TEXTS) -> list[str]:
    """Different texts of exactly `tokens` tokens, including start and end."""
    vocabulary = Tokenizer.from_file(str(tokenizer))
    vocabulary.no_truncation()
    vocabulary.no_padding()
    rng = random.Random(tokens)
    words = [each for each in WORDS if len(vocabulary.encode(each).ids) == 3]
    texts = sorted({" ".join(rng.choices(words, k=tokens - 2)) for _ in range(count + count // 8)})
    rng.shuffle(texts)
    if len(vocabulary.encode(texts[0]).ids) != tokens:
        raise ValueError("this tokenizer merges words")
    return texts[:count]


def byte_texts(tokens: int, count: int) -> list[str]:
    """Different ASCII texts for a tokenizer that makes a token of each byte and appends one."""
    rng = random.Random(tokens)
    long = [" ".join(rng.choices(WORDS, k=tokens)) for _ in range(count)]
    return [text[: tokens - 1] for text in long]


def image_files(size: tuple[int, int], count: int = IMAGES_PER_SIZE) -> list[Path]:
    """JPEG files of quality 90; missing ones are created."""
    folder = INPUTS / f"{size[0]}x{size[1]}"
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number:03d}.jpg" for number in range(count)]
    missing = [path for path in paths if not path.is_file()]
    if missing:
        print(f"creating {len(missing)} images of {folder.name}", flush=True)
        with ThreadPoolExecutor(2) as threads:
            list(threads.map(partial(_write_image, size=size), missing))
    return paths


def _write_image(path: Path, size: tuple[int, int]) -> None:
    partial_path = path.with_suffix(".partial")
    mosaic(size, int(path.stem)).save(partial_path, "JPEG", quality=90)
    partial_path.rename(path)


def mosaic(size: tuple[int, int], seed: int) -> Image.Image:
    """Photos side by side, each cropped, mirrored and scaled (0.8 to 1.6) at random."""
    rng = random.Random(f"{size} {seed}")
    photos = [Image.open(path).convert("RGB") for path in sorted(SAMPLES.glob("*.jpg"))]
    image, top = Image.new("RGB", size), 0
    while top < size[1]:
        height, left = round(280 * rng.uniform(0.8, 1.6)), 0
        while left < size[0]:
            tile = _tile(rng.choice(photos), height, rng)
            image.paste(tile, (left, top))
            left += tile.width
        top += height
    return image


def _tile(photo: Image.Image, height: int, rng: random.Random) -> Image.Image:
    left, upper = rng.randrange(photo.width // 8), rng.randrange(photo.height // 8)
    crop = photo.crop((left, upper, photo.width, photo.height))
    if rng.random() < 0.5:
        crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    size = (max(1, round(crop.width * height / crop.height)), height)
    return crop.resize(size, Image.Resampling.BICUBIC)


def make_videos(videos: Sequence[Video] = VIDEOS) -> None:
    """Create the missing videos: H.264 with a key frame every 250 frames."""
    INPUTS.mkdir(parents=True, exist_ok=True)
    for video in videos:
        if not video.path.is_file():
            print(f"creating the video: {video.name}", flush=True)
            partial_path = video.path.with_suffix(".partial.mp4")
            _write_video(video, partial_path)
            partial_path.rename(video.path)


def _write_video(video: Video, path: Path) -> None:
    width, height = video.size
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FRAME_RATE)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"preset": "veryfast", "crf": "23"}
        stream.time_base = Fraction(1, FRAME_RATE)
        for pixels in _pan(video):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _pan(video: Video) -> Iterator[np.ndarray[tuple[int, ...], np.dtype[np.uint8]]]:
    """A new scene every five seconds, each a slow pan across a wider mosaic."""
    width, height = video.size
    scene = 5 * FRAME_RATE
    for number in range(video.seconds * FRAME_RATE):
        if number % scene == 0:
            wide = np.asarray(mosaic((width + scene * 2, height + scene), number))
        step = number % scene
        yield np.ascontiguousarray(wide[step : step + height, 2 * step : 2 * step + width])
