"""Writes real pictures and videos for the tests: small, by Pillow and PyAV, in memory.

Each frame of a video carries its own number as a barcode of black and white blocks, which survives
lossy codecs, so that a test can read back which frame it was given.
"""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from fractions import Fraction
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from multimodal_embedding_serving.media.sampling import Frame, MissingFrame

Rgb = NDArray[np.uint8]

BLOCK = 16
BITS = 16
WIDTH, HEIGHT = BLOCK * 8, BLOCK * 4
"""A frame: four rows of eight blocks; the number's sixteen bits, then the same bits inverted."""

IMAGE_KINDS = (
    "jpeg jpeg_grey jpeg_cmyk jpeg_progressive png png_grey png_16 png_palette png_palette_alpha "
    "png_la png_rgba png_bilevel tiff tiff_16 tiff_16_big tiff_float tiff_int webp webp_lossless "
    "gif gif_animated webp_animated bmp dib ico ppm pgm pgm_16 tga pcx sgi dds qoi avif jpeg2000"
).split()

VIDEO_KINDS = ("mp4", "mkv", "webm", "avi", "mov", "fragmented", "ts", "flv")


def photo(width: int = 64, height: int = 48, seed: int = 0) -> Image.Image:
    """A smooth colour picture with no two quarters alike (lossy codecs keep it recognisable)."""
    x = np.linspace(0, 1, width)[None, :]
    y = np.linspace(0, 1, height)[:, None]
    turn = 2 * np.pi * (seed % 7) / 7
    waves = [
        0.5 + 0.5 * np.cos(3 * x + 2 * y + turn),
        0.5 + 0.5 * np.sin(4 * y - x + turn),
        (x + y + 0 * turn) / 2,
    ]
    return Image.fromarray(np.rint(np.dstack(waves) * 255).astype(np.uint8))


def write_image(kind: str, image: Image.Image | None = None, **options: Any) -> bytes:
    """The picture (default: `photo()`) as a file of one of IMAGE_KINDS."""
    image = photo() if image is None else image
    out = io.BytesIO()
    grey = image.convert("L")
    deep = (np.asarray(grey).astype(np.uint16) << 8) | 0x7F
    alpha = Image.linear_gradient("L").resize(image.size)
    form = kind.split("_")[0]
    form = {"ppm": "PPM", "pgm": "PPM", "jpeg2000": "JPEG2000"}.get(form, form.upper())
    match kind:
        case "jpeg_grey" | "png_grey" | "pgm":
            image = grey
        case "jpeg_cmyk":
            image = image.convert("CMYK")
        case "jpeg_progressive":
            options = {"progressive": True, **options}
        case "png_16" | "tiff_16":
            image = Image.fromarray(deep)
        case "tiff_16_big":
            image = Image.frombytes("I;16B", image.size, deep.astype(">u2").tobytes())
        case "pgm_16":
            image = Image.fromarray(deep.astype(np.int32))
        case "tiff_float":
            image = Image.fromarray(np.asarray(grey).astype(np.float32) / 255 - 0.5)
        case "tiff_int":
            image = Image.fromarray(np.asarray(grey).astype(np.int32) * 1000 - 70_000)
        case "png_palette" | "gif":
            image = image.quantize(64)
        case "png_palette_alpha":
            image, options = image.quantize(64), {"transparency": bytes(range(64)), **options}
        case "png_la":
            image = Image.merge("LA", (grey, alpha))
        case "png_rgba":
            image = image.copy()
            image.putalpha(alpha)
        case "png_bilevel":
            image = image.convert("1")
        case "ico":
            options = {"sizes": [image.size], **options}
        case "webp_lossless":
            options = {"lossless": True, **options}
        case "gif_animated" | "webp_animated":
            rest = [photo(*image.size, seed=seed) for seed in (2, 4)]
            options = {"save_all": True, "append_images": rest, "duration": 40, **options}
    image.save(out, form, **options)
    return out.getvalue()


def write_oriented(
    image: Image.Image, orientation: int, form: str = "JPEG", **options: Any
) -> bytes:
    """The picture as it stands, tagged with an EXIF orientation (1 to 8)."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    out = io.BytesIO()
    image.save(out, form, exif=exif, **options)
    return out.getvalue()


def tiff(
    pixels: bytes,
    width: int,
    height: int,
    tags: Mapping[int, int | tuple[int, ...]],
    order: str = "<",
) -> bytes:
    """An uncompressed TIFF of one strip, by the specification."""
    all_tags: dict[int, int | tuple[int, ...]] = {
        256: width,
        257: height,
        259: 1,
        273: 8,
        278: height,
        279: len(pixels),
    }
    all_tags |= tags
    extra = b"".join(
        struct.pack(f"{order}{len(value)}H", *value)
        for _, value in sorted(all_tags.items())
        if isinstance(value, tuple) and len(value) > 2
    )
    head = b"II*\0" if order == "<" else b"MM\0*"
    out = head + struct.pack(order + "I", 8 + len(pixels) + len(extra)) + pixels
    place = len(out)
    out += extra + struct.pack(order + "H", len(all_tags))
    for tag, value in sorted(all_tags.items()):
        if not isinstance(value, tuple):
            out += struct.pack(order + "HHII", tag, 4, 1, value)
        elif len(value) > 2:
            out += struct.pack(order + "HHII", tag, 3, len(value), place)
            place += 2 * len(value)
        else:
            out += struct.pack(f"{order}HHI{len(value)}H", tag, 3, len(value), *value).ljust(
                12, b"\0"
            )
    return out + bytes(4)


def barcode(number: int, width: int = WIDTH, height: int = HEIGHT) -> Rgb:
    """uint8 [height, width, 3] that says `number` (below 65536) in its top left corner."""
    bits = [(number >> bit) & 1 for bit in range(BITS)]
    cells = np.array(bits + [1 - bit for bit in bits], dtype=np.uint8).reshape(4, 8)
    code = np.kron(cells, np.ones((BLOCK, BLOCK), dtype=np.uint8)) * 220 + 16
    frame = np.full((height, width, 3), 128, dtype=np.uint8)
    frame[:HEIGHT, :WIDTH] = code[..., None]
    return frame


def decoded(sampled: Frame | MissingFrame) -> Frame:
    """A sampled frame that must have pixels."""
    assert isinstance(sampled, Frame), sampled
    return sampled


def read_barcode(rgb: Rgb) -> int:
    """The number that `barcode` wrote; raises AssertionError where the picture holds none."""
    code = rgb[:HEIGHT, :WIDTH].mean(axis=2).reshape(4, BLOCK, 8, BLOCK).mean(axis=(1, 3)) > 128
    bits = code.reshape(2, BITS)
    assert (bits[0] != bits[1]).all(), "this picture holds no barcode"
    return int((bits[0] * (1 << np.arange(BITS))).sum())


def write_video(
    container: str = "mp4",
    frames: int = 50,
    rate: int | Fraction = 25,
    *,
    codec: str | None = None,
    size: tuple[int, int] = (WIDTH, HEIGHT),
    group: int = 12,
    b_frames: int = 2,
    rotation: int = 0,
    mirrored: bool = False,
    times: Sequence[int] | None = None,
    codec_options: dict[str, str] | None = None,
    options: dict[str, str] | None = None,
    audio: bool = False,
    pixel_format: str = "yuv420p",
    pixel_aspect: Fraction | None = None,
) -> bytes:
    """A video whose frame i shows `barcode(i)`.

    `container` is one of VIDEO_KINDS or an FFmpeg muxer's name; `group` the distance of key frames;
    `times` the presentation time of each frame in milliseconds, for a variable rate; `rotation` the
    clockwise turn that a player applies, before it mirrors left and right.
    """
    form = {"mkv": "matroska", "ts": "mpegts", "fragmented": "mp4"}.get(container, container)
    if container == "fragmented":
        options = {"movflags": "frag_keyframe+empty_moov+default_base_moof", **(options or {})}
    codec = codec or {"webm": "libvpx-vp9", "avi": "mpeg4"}.get(container, "libx264")
    out = io.BytesIO()
    with scheduling_kept(), av.open(out, "w", format=form, options=options or {}) as target:
        stream = target.add_stream(codec, rate=rate, options=codec_options or _quick(codec))
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = *size, pixel_format
        if pixel_aspect is not None:
            stream.sample_aspect_ratio = pixel_aspect
        stream.gop_size = group
        stream.max_b_frames = b_frames if codec in ("libx264", "libx265", "mpeg2video") else 0
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        if rotation or mirrored:
            stream.set_display_rotation(-rotation, hflip=mirrored)
        sound = target.add_stream("aac", rate=16000) if audio else None
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(barcode(number, *size), format="rgb24")
            frame.pts = number if times is None else times[number]
            frame.time_base = 1 / Fraction(rate) if times is None else Fraction(1, 1000)
            target.mux(stream.encode(frame))
        target.mux(stream.encode(None))
        if sound is not None:
            assert isinstance(sound, av.AudioStream)
            silence = av.AudioFrame.from_ndarray(
                np.zeros((1, 16000), dtype=np.float32), format="fltp", layout="mono"
            )
            silence.sample_rate, silence.pts = 16000, 0
            target.mux(sound.encode(silence))
            target.mux(sound.encode(None))
    return out.getvalue()


@contextmanager
def scheduling_kept() -> Iterator[None]:
    """Undo what SVT-AV1 does where root encodes: it puts the calling thread at SCHED_FIFO 99.

    Every process that the tests start later would inherit that, and nothing else would run.
    """
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        os.sched_setscheduler(0, policy, parameters)


def _quick(codec: str) -> dict[str, str]:
    return {
        "libx264": {"preset": "ultrafast", "crf": "18", "sc_threshold": "0"},
        "libx265": {"preset": "ultrafast", "x265-params": "log-level=none"},
        "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8"},
        "libvpx": {"deadline": "realtime", "cpu-used": "8"},
        "mpeg4": {"qscale": "3"},
    }.get(codec, {})
