"""What a player shows: the default track, the pixels' aspect, rotation, unusual color matrices."""

from __future__ import annotations

import io
from fractions import Fraction

import av
import numpy as np
import pytest
from av.stream import Disposition
from PIL import Image

from multimodal_embedding_serving.media.video import Frame, Segment, VideoLimits, read_frames
from multimodal_embedding_serving.transforms.image import ImageTransform
from tests.media_files import barcode, photo, read_barcode, write_video

LIMITS = VideoLimits(max_bytes=1 << 26, max_seconds=3600, max_frames=4096)
SIZE = (160, 128)


def frames_of(data: bytes, segment: Segment | None = None) -> list[Frame]:
    frames = read_frames(data, segment or Segment(num_frames=0), LIMITS)
    return [frame for frame in frames if isinstance(frame, Frame)]


@pytest.mark.parametrize(
    ("aspect", "size"),
    [
        ("4/3", (213, 128)),
        ("8/9", (142, 128)),
        ("1", None),
        ("8", (1280, 128)),
        ("17/2", None),
        ("1/9", None),
    ],
)
@pytest.mark.parametrize("form", ["mp4", "mkv", "ts", "avi"])
def test_pixels_that_are_not_square_are_shown_at_their_display_size(
    form: str, aspect: str, size: tuple[int, int] | None
) -> None:
    codec = "libx264"
    if form == "avi":
        codec = "mpeg4"
    options = {"qscale": "3"} if form == "avi" else None
    data = write_video(
        form, 3, codec=codec, size=SIZE, pixel_aspect=Fraction(aspect), codec_options=options
    )
    for frame in frames_of(data):
        assert frame.rgb.shape == (128, 160, 3)
        assert frame.size == size
    for frame in frames_of(data, Segment(num_frames=0, pixel_aspect="stored")):
        assert frame.size is None


def test_rotation_applies_to_the_display_size() -> None:
    data = write_video("mp4", 3, size=SIZE, pixel_aspect=Fraction(4, 3), rotation=90)
    for frame in frames_of(data):
        assert frame.rgb.shape == (160, 128, 3)
        assert frame.size == (128, 213)


@pytest.mark.parametrize("resize", ["squash", "short_side", "square_crop"])
@pytest.mark.parametrize("aspect", [Fraction(4, 3), Fraction(8, 9), Fraction(3, 8), Fraction(6)])
def test_one_resampling_gives_what_two_give(resize: str, aspect: Fraction) -> None:
    stored = photo(320, 240)
    shown = (round(320 * aspect), 240)
    transform = ImageTransform(64, resize, "bicubic", 1)  # type: ignore[arg-type]
    once = transform(stored, shown).astype(float)
    twice = transform(stored.resize(shown, Image.Resampling.BICUBIC)).astype(float)
    assert np.abs(once - twice).mean() < 1.5
    assert np.array_equal(transform(stored, stored.size), transform(stored))


@pytest.mark.parametrize("matrix", range(18))
def test_every_color_matrix_can_be_read(matrix: int) -> None:
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as target:
        options = {"preset": "ultrafast", "crf": "4"}
        stream = target.add_stream("libx264", rate=5, options=options)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = 128, 64, "yuv420p"
        stream.codec_context.colorspace = matrix
        for number in range(3):
            frame = av.VideoFrame.from_ndarray(barcode(number), format="rgb24")
            target.mux(stream.encode(frame.reformat(format="yuv420p")))
        target.mux(stream.encode(None))
    assert [read_barcode(frame.rgb) for frame in frames_of(out.getvalue())] == [0, 1, 2]


@pytest.mark.parametrize("first", ["libx264", "mjpeg"])
@pytest.mark.parametrize("form", ["mp4", "matroska"])
def test_the_default_track_is_the_video(form: str, first: str) -> None:
    out = io.BytesIO()
    with av.open(out, "w", format=form) as target:
        tracks = []
        for codec, start, disposition in ((first, 100, 0), ("libx264", 0, Disposition.default)):
            stream = target.add_stream(codec, rate=5)
            assert isinstance(stream, av.VideoStream)
            pixels = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            stream.width, stream.height, stream.pix_fmt = 128, 64, pixels
            stream.disposition = Disposition(disposition)
            tracks.append((stream, start))
        for stream, start in tracks:
            for number in range(start, start + 6):
                frame = av.VideoFrame.from_ndarray(barcode(number), format="rgb24")
                frame.pts, frame.time_base = number - start, Fraction(1, 5)
                target.mux(stream.encode(frame))
            target.mux(stream.encode(None))
    assert [read_barcode(frame.rgb) for frame in frames_of(out.getvalue())] == list(range(6))
