"""Create the samples that ship with the package and the photos of the retrieval test.

    .venv/bin/python -m scripts.build_samples

Run from the repository's root. The source is scikit-image's wheel, pinned by its hash. If you
change a list here, update the licenses next to the images (LICENSES.md in both folders).
"""

from __future__ import annotations

import io
import subprocess
import sys
import tempfile
import zipfile
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

ROOT = Path(__file__).parent.parent
SAMPLES = ROOT / "src" / "multimodal_embedding_serving" / "builtin" / "samples"
PHOTOS = ROOT / "tests" / "golden" / "photos"

WHEEL = (
    "scikit-image==0.26.0",
    "74aa5518ccea28121f57a95374581d3b979839adc25bb03f289b1bc9b99c58af",
    ("--platform=manylinux_2_28_x86_64", "--python-version=3.11", "--only-binary=:all:"),
)

TESTED = (
    "astronaut.png brick.png camera.png chelsea.png clock_motion.png coffee.png coins.png "
    "grass.png gravel.png horse.png hubble_deep_field.jpg ihc.png moon.png motorcycle_left.png "
    "page.png retina.jpg rocket.jpg text.png"
).split()
TESTED_SIDE = 512
SHIPPED = {
    "astronaut": "astronaut.png",
    "cat": "chelsea.png",
    "clock": "clock_motion.png",
    "coffee": "coffee.png",
    "coins": "coins.png",
    "rocket": "rocket.jpg",
}
"""Only images in the public domain or without known restrictions."""
SHIPPED_SIDE = 448

VIDEO, VIDEO_SIZE, FRAME_RATE = ("coffee.png", "chelsea.png", "rocket.jpg"), (320, 240), 12
SHOT_FRAMES = 2 * FRAME_RATE
"""Frames per photo in the video: two seconds."""


def unpack(folder: Path) -> dict[str, Image.Image]:
    """Download the wheel and open its images as RGB."""
    pin, digest, options = WHEEL
    (folder / "pins.txt").write_text(f"{pin} --hash=sha256:{digest}\n")
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
    subprocess.run([*pip, *options, "-r", folder / "pins.txt", "-d", folder], check=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        files = {name: archive.read(f"skimage/data/{name}") for name in TESTED}
    return {name: Image.open(io.BytesIO(data)).convert("RGB") for name, data in files.items()}


def save(image: Image.Image, path: Path, side: int, quality: int) -> None:
    image = image.copy()
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    image.save(path, "JPEG", quality=quality, optimize=True)


def write_video(images: list[Image.Image], path: Path) -> None:
    """A slow zoom into each photo, one after the other, as H.264."""
    with av.open(str(path), "w", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=FRAME_RATE)
        stream.width, stream.height = VIDEO_SIZE
        stream.pix_fmt, stream.time_base = "yuv420p", Fraction(1, FRAME_RATE)
        stream.options = {"crf": "26", "preset": "slow", "threads": "1"}
        for image in images:
            for step in range(SHOT_FRAMES):
                frame = av.VideoFrame.from_ndarray(zoom(image, step / SHOT_FRAMES), format="rgb24")
                container.mux(stream.encode(frame))
        container.mux(stream.encode())


def zoom(image: Image.Image, share: float) -> np.ndarray:
    """The center of a photo at the video's aspect ratio: all of it at `share` 0, 4/5 at 1."""
    wide, high = VIDEO_SIZE
    scale = min(image.width / wide, image.height / high) * (1 - 0.2 * share)
    across, down = wide * scale / 2, high * scale / 2
    x, y = image.width / 2, image.height / 2
    box = (x - across, y - down, x + across, y + down)
    return np.asarray(image.resize(VIDEO_SIZE, Image.Resampling.BICUBIC, box))


def main() -> None:
    SAMPLES.mkdir(parents=True, exist_ok=True)
    PHOTOS.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        images = unpack(Path(folder))
    for name, image in images.items():
        save(image, PHOTOS / f"{Path(name).stem}.jpg", TESTED_SIDE, 88)
    for stem, name in SHIPPED.items():
        save(images[name], SAMPLES / f"{stem}.jpg", SHIPPED_SIDE, 88)
    write_video([images[name] for name in VIDEO], SAMPLES / "film.mp4")


if __name__ == "__main__":
    main()
