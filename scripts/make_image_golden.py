"""Writes the images in tests/golden that only other people's encoders can write.

    pip install tifffile imagecodecs pillow-heif
    python -m scripts.make_image_golden

tests/golden/tiff.zip: gray TIFFs of every type of number, byte order and photometric
interpretation, by tifffile, and the numbers themselves. tests/golden/heic: by libheif and x265.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.media_files import photo

# Not installed by `make`, so their types are not known here.
pillow_heif: Any = import_module("pillow_heif")
tifffile: Any = import_module("tifffile")

GOLDEN = Path(__file__).parent.parent / "tests" / "golden"
DTYPES = "u1 i1 u2 i2 f2 u4 i4 f4 u8 i8 f8".split()
LAYOUTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "lzw": {"compression": "lzw"},
    "tiles": {"compression": "zlib", "predictor": True, "tile": (16, 32)},
    "packbits": {"compression": "packbits", "rowsperstrip": 5},
    "bigtiff": {"bigtiff": True, "compression": "zlib"},
}
"""`predictor` True: 3 for floats, 2 for integers."""


def numbers(dtype: str) -> Any:
    """[18, 37] of the type, over most of its range: no two quarters are alike."""
    y, x = np.mgrid[0:18, 0:37]
    wave = (np.sin(x / 9) + np.cos(y / 7)) / 4 + 0.5
    wave = np.rint(wave * 64) / 64  # compresses well
    kind, bits = np.dtype(dtype).kind, np.dtype(dtype).itemsize * 8
    if kind == "f":
        return (wave * 6 - 2).astype(dtype)
    scale = 2.0**bits * 0.9
    return ((wave - 0.5 * (kind == "i")) * scale).astype(dtype)


def tiffs() -> Iterator[tuple[str, bytes]]:
    for dtype in DTYPES:
        values = numbers(dtype)
        out = io.BytesIO()
        np.save(out, values)
        yield f"{dtype}.npy", out.getvalue()
        for layout, options in LAYOUTS.items():
            for order in ("little", "big") if layout != "bigtiff" else ("little",):
                for photometric in ("miniswhite", "minisblack")[: 2 if layout == "plain" else 1]:
                    out = io.BytesIO()
                    options = {**options, "byteorder": "<" if order == "little" else ">"}
                    if dtype in ("u8", "i8"):
                        options.pop("predictor", None)  # tifffile has none for them
                    tifffile.imwrite(out, values, photometric=photometric, **options)
                    yield f"{dtype}_{layout}_{order}_{photometric}.tif", out.getvalue()


def heics() -> Iterator[tuple[str, bytes]]:
    image = photo(96, 64)
    yield "plain", heic(image)
    yield "odd", heic(photo(97, 63))
    yield "gray", heic(image.convert("L"))
    for orientation in range(2, 9):
        turned = image.copy()
        turned.getexif()[0x0112] = orientation
        yield f"turned_{orientation}", heic(turned)
    transparent = image.copy()
    transparent.putalpha(Image.linear_gradient("L").resize(image.size))
    yield "alpha", heic(transparent)
    others = [image, photo(96, 64, 4)]
    yield "several", heic(photo(96, 64, 2), save_all=True, append_images=others, primary_index=1)
    deep = (np.asarray(image).astype(np.uint16) * 257).tobytes()
    for bits in (10, 12):
        pillow_heif.options.SAVE_HDR_TO_12_BIT = bits == 12
        out = io.BytesIO()
        pillow_heif.encode("RGB;16", image.size, deep, out, quality=80)
        yield f"bits_{bits}", out.getvalue()


def heic(image: Image.Image, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, "HEIF", quality=80, **options)
    return out.getvalue()


def main() -> None:
    with zipfile.ZipFile(GOLDEN / "tiff.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in tiffs():
            archive.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)
    pillow_heif.register_heif_opener()
    (GOLDEN / "heic").mkdir(exist_ok=True)
    for name, data in heics():
        (GOLDEN / "heic" / f"{name}.heic").write_bytes(data)


if __name__ == "__main__":
    main()
