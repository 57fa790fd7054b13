"""Measure what EMBEDDING_JPEG_DECODE=fast costs, and write docs/parity.md's table of cosines.

Each JPEG is embedded twice in float32, decoded at full size and scaled down while decoding:
`python -m scripts.jpeg_table` (about three minutes).
"""

from __future__ import annotations

import io
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from multimodal_embedding_serving import Engine
from scripts.generate_docs import END
from scripts.tables import table
from tests.retrieval import list_photos
from tests.small_clip import write_clip

PAGE = Path(__file__).parent.parent / "docs" / "parity.md"
BEGIN = "<!-- measured by scripts/jpeg_table.py -->\n"
SHORT_SIDES = (1100, 2048, 3072)
PERIODS = (2, 2.5, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 16, 18, 20, 24, 28, 32)
"""Pixels of a pair of stripes."""
PAGES = {150: (1240, 1754, 20), 200: (1654, 2339, 28), 300: (2480, 3508, 42)}
"""Dots per inch of an A4 page -> its width, its height, and the size of its letters in pixels."""
SENTENCE = "The quick brown fox jumps over the lazy dog while seven wizards boxed with a zebra"


def photographs(short: int) -> Iterator[bytes]:
    for path in list_photos():
        image = Image.open(path).convert("RGB")
        scale = short / min(image.size)
        size = (round(image.width * scale), round(image.height * scale))
        yield encode(image.resize(size, Image.Resampling.LANCZOS))


def text_pages(dpi: int) -> Iterator[bytes]:
    """Five pages of black words in random order."""
    width, height, size = PAGES[dpi]
    font, words = ImageFont.load_default(size), SENTENCE.split()
    for seed in range(5):
        image, rng = Image.new("RGB", (width, height), "white"), np.random.default_rng(seed)
        draw = ImageDraw.Draw(image)
        for y in range(3 * size, height - 4 * size, size * 3 // 2):
            x = 4 * size
            while x < width - 10 * size:
                word = str(rng.choice(words)) + " "
                draw.text((x, y), word, fill="black", font=font)
                x += int(font.getlength(word))
        yield encode(image)


def stripes(side: int) -> Iterator[bytes]:
    """Black and white stripes of each period, upright and lying."""
    for period in PERIODS:
        row = (np.arange(side) // (period / 2) % 2 * 255).astype(np.uint8)
        image = Image.fromarray(np.tile(row, (side, 1)))
        yield encode(image)
        yield encode(image.transpose(Image.Transpose.TRANSPOSE))


def encode(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.convert("RGB").save(out, "JPEG", quality=90)
    return out.getvalue()


def inputs() -> Mapping[str, Iterator[bytes]]:
    lists = {f"18 photographs, short side {side}": photographs(side) for side in SHORT_SIDES}
    lists |= {f"5 pages of text, A4 at {dpi} dpi": text_pages(dpi) for dpi in PAGES}
    return lists | {
        f"40 stripe patterns of 2 to 32 pixels, {side} x {side}": stripes(side)
        for side in SHORT_SIDES
    }


def cosines(exact: Engine, fast: Engine, files: list[bytes]) -> list[float]:
    return sorted(
        float((exact.embed(images=[file]) * fast.embed(images=[file])).sum()) for file in files
    )


def rows(engines: list[Engine]) -> Iterator[list[str]]:
    """`engines` are pairs: one that decodes exactly, one fast."""
    for name, files in inputs().items():
        encoded = list(files)
        figures: list[str] = []
        for exact, fast in zip(engines[::2], engines[1::2], strict=True):
            measured = cosines(exact, fast, encoded)
            figures.append(f"{measured[0]:.6f}, {np.median(measured):.6f}")
        yield [name, *figures]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        cache = Path(folder) / "models"
        models = {
            "`Builtin/mini`": "Builtin/mini",
            "small random CLIP": str(write_clip(Path(folder) / "clip")),
        }
        head, engines = ["JPEG"], []
        for name, model in models.items():
            for decode in ("exact", "fast"):
                engine = Engine.open(model, precision="f32", jpeg_decode=decode, models_dir=cache)
                engines.append(stack.enter_context(engine))
            head.append(f"{name}, {engines[-1].info.image_size} px")
        measured = table(head, rows(engines))
    marked = re.compile(re.escape(BEGIN) + ".*?" + re.escape(END), re.DOTALL)
    text = PAGE.read_text("utf-8")
    PAGE.write_text(marked.sub(lambda _: BEGIN + measured + END, text), "utf-8")


if __name__ == "__main__":
    main()
