"""Videos whose frames carry their number: the numbers read back prove the sampling."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from multimodal_embedding_serving.errors import InvalidInput, NotFound, TooLarge
from multimodal_embedding_serving.media.container import Source, recognize
from multimodal_embedding_serving.media.survey import survey
from multimodal_embedding_serving.media.video import (
    Frame,
    Segment,
    VideoLimits,
    choose,
    read_frames,
)
from tests.media_files import HEIGHT, WIDTH, barcode, read_barcode, write_video

LIMITS = VideoLimits(max_bytes=1 << 26, max_seconds=3600, max_frames=4096)
UNEVEN = [number * 40 + (number % 3) * 11 for number in range(60)]
JUMPY = [number * 120 + (0 if number % 2 else 40) for number in range(60)]
OPEN_GROUPS = {
    "preset": "veryfast",
    "x264-params": "open-gop=1:keyint=13:min-keyint=13:bframes=3:scenecut=0",
}
INTRA_REFRESH = {
    "preset": "veryfast",
    "x264-params": "intra-refresh=1:keyint=13:bframes=0:scenecut=0",
}
OPEN_HEVC = {
    "preset": "ultrafast",
    "x265-params": "log-level=none:open-gop=1:keyint=13:min-keyint=13:bframes=3",
}

VIDEOS: dict[str, Callable[[], bytes]] = {
    "mp4": lambda: write_video("mp4", 60),
    "mkv": lambda: write_video("mkv", 60),
    "webm_vp9": lambda: write_video("webm", 60),
    "webm_vp8": lambda: write_video("webm", 60, codec="libvpx"),
    "avi": lambda: write_video("avi", 60),
    "avi_h264": lambda: write_video("avi", 60, codec="libx264"),
    "mov": lambda: write_video("mov", 60),
    "fragmented_mp4": lambda: write_video("fragmented", 60),
    "transport_stream": lambda: write_video("ts", 60),
    "program_stream": lambda: write_video("mpeg", 60, codec="mpeg2video", codec_options={}),
    "flv": lambda: write_video("flv", 60),
    "mp4_with_sound": lambda: write_video("mp4", 60, audio=True),
    "variable_mp4": lambda: write_video("mp4", 60, times=UNEVEN),
    "variable_mkv": lambda: write_video("mkv", 60, times=UNEVEN),
    "variable_avi": lambda: write_video("avi", 60, times=JUMPY),
    "no_b_frames": lambda: write_video("mp4", 60, codec_options={"preset": "ultrafast", "bf": "0"}),
    "open_groups_mp4": lambda: write_video("mp4", 60, codec_options=OPEN_GROUPS),
    "open_groups_mkv": lambda: write_video("mkv", 60, codec_options=OPEN_GROUPS),
    "open_groups_ts": lambda: write_video("ts", 60, codec_options=OPEN_GROUPS),
    "intra_refresh": lambda: write_video("mkv", 60, codec_options=INTRA_REFRESH),
    "hevc": lambda: write_video("mp4", 60, codec="libx265"),
    "hevc_open": lambda: write_video("mp4", 60, codec="libx265", codec_options=OPEN_HEVC),
    "one_group": lambda: write_video("mp4", 60, group=1000),
    "key_frames_only": lambda: write_video("mkv", 60, group=1, b_frames=0),
}
SEGMENTS = (
    Segment(num_frames=0),
    Segment(num_frames=7),
    Segment(frame_indexes=(0, 11, 12, 13, 37, 38, 59)),
    Segment(frame_indexes=(59,)),
    Segment(frame_indexes=(25, 26, 50)),
    Segment(extraction_fps=1.5, start_offset=0.3),
    Segment(num_frames=3, start_offset=0.5, clip_duration=0.9),
)


def read(*args: Any, **options: Any) -> list[Frame]:
    """All sampled frames; none may be missing."""
    frames = []
    for frame in read_frames(*args, **options):
        assert isinstance(frame, Frame)
        frames.append(frame)
    return frames


def numbers(data: bytes | Path, segment: Segment, *, threads: int = 0) -> list[int]:
    """The sampled frames' numbers, proved by their barcodes."""
    frames = read(data, segment, LIMITS, threads=threads)
    indexes = [frame.index for frame in frames]
    assert [read_barcode(frame.rgb) for frame in frames] == indexes
    return indexes


@pytest.mark.parametrize("name", VIDEOS)
def test_frames_are_right_to_the_number(name: str) -> None:
    data = VIDEOS[name]()
    video = survey(Source(data, max_side=8192), 3600)
    assert video.total == 60
    for segment in SEGMENTS:
        assert numbers(data, segment) == choose(segment, 60, video.rate), segment


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_frames_are_right_with_any_number_of_threads(threads: int) -> None:
    data = VIDEOS["open_groups_mkv"]()
    for segment in SEGMENTS:
        expected = choose(segment, 60, 25.0)
        assert numbers(data, segment, threads=threads) == expected


@pytest.mark.parametrize("name", ["mp4", "mkv", "webm_vp9", "mov", "fragmented_mp4", "avi"])
def test_the_declared_rate_counts_and_times_are_seconds_from_the_first_frame(name: str) -> None:
    data = VIDEOS[name]()
    assert survey(Source(data, max_side=8192), 3600).rate == 25.0
    frames = read(data, Segment(extraction_fps=5), LIMITS)
    assert [frame.index for frame in frames] == list(range(0, 60, 5))
    assert [frame.timestamp for frame in frames] == pytest.approx([n / 25 for n in range(0, 60, 5)])


@pytest.mark.parametrize("name", ["variable_mp4", "variable_mkv"])
def test_a_variable_rate_keeps_its_true_times(name: str) -> None:
    data = VIDEOS[name]()
    with av.open(io.BytesIO(data), "r") as container:
        packets = [packet for packet in container.demux(video=0) if packet.pts is not None]
        times = sorted(float((packet.pts or 0) * packet.time_base) for packet in packets)
    frames = read(data, Segment(num_frames=0), LIMITS)
    assert [frame.timestamp for frame in frames] == pytest.approx([t - times[0] for t in times])
    assert times[1] - times[0] == pytest.approx(0.051, abs=0.001)


def test_a_declared_rate_that_the_times_belie_is_measured() -> None:
    video = survey(Source(VIDEOS["variable_avi"](), max_side=8192), 3600)
    with av.open(io.BytesIO(VIDEOS["variable_avi"]())) as container:
        assert container.streams.video[0].average_rate == 1000
        assert container.streams.video[0].frames > 60
    assert video.rate == pytest.approx(59 / ((JUMPY[-1] - JUMPY[0]) / 1000), rel=0.01)


def test_a_lying_frame_count_is_not_believed() -> None:
    data = bytearray(VIDEOS["avi"]())
    data[48:52] = (9999).to_bytes(4, "little")  # avih: dwTotalFrames
    header = data.index(b"strh") + 8
    data[header + 32 : header + 36] = (9999).to_bytes(4, "little")  # strh: dwLength
    assert numbers(bytes(data), Segment(num_frames=6)) == [0, 10, 20, 30, 40, 50]


def with_edit(data: bytes, skip: int) -> bytes:
    """The MP4 with an edit list that hides its first `skip` units of media time."""
    place = data.index(b"elst") + 4
    assert data[place] == 0
    assert int.from_bytes(data[place + 4 : place + 8], "big") == 1
    start = int.from_bytes(data[place + 12 : place + 16], "big") + skip
    return data[: place + 12] + start.to_bytes(4, "big") + data[place + 16 :]


@pytest.mark.parametrize("hidden", [5, 12, 17])
def test_frames_that_an_edit_list_hides_are_not_counted(hidden: int) -> None:
    data = with_edit(write_video("mp4", 60), hidden * 512)
    assert survey(Source(data, max_side=8192), 3600).total == 60 - hidden
    for segment in (
        Segment(num_frames=0),
        Segment(frame_indexes=(0, 20, 30)),
        Segment(num_frames=3),
    ):
        frames = read(data, segment, LIMITS)
        shown = [read_barcode(frame.rgb) for frame in frames]
        assert shown == [frame.index + hidden for frame in frames]
    assert frames[0].timestamp == 0


def test_packets_before_the_first_key_frame_are_not_counted() -> None:
    out = io.BytesIO()
    with (
        av.open(io.BytesIO(write_video("ts", 60, b_frames=0, group=12)), "r") as source,
        av.open(out, "w", format="mpegts") as target,
    ):
        stream = target.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(source.demux(source.streams.video[0])):
            if number >= 5 and packet.size:
                packet.stream = stream
                target.mux(packet)
    frames = read(out.getvalue(), Segment(num_frames=0), LIMITS)
    assert [read_barcode(frame.rgb) for frame in frames] == list(range(12, 60))
    assert [frame.index for frame in frames] == list(range(48))


def test_a_hidden_vp8_frame_is_not_counted() -> None:
    out = io.BytesIO()
    with (
        av.open(io.BytesIO(write_video("webm", 30, codec="libvpx")), "r") as source,
        av.open(out, "w", format="webm") as target,
    ):
        stream = target.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(source.demux(source.streams.video[0])):
            if packet.size:
                body = bytearray(bytes(packet))
                body[0] &= 0xEF if number in (7, 15) else 0xFF  # show_frame off
                copy = av.Packet(bytes(body))
                copy.pts, copy.dts, copy.time_base = packet.pts, packet.dts, packet.time_base
                copy.is_keyframe, copy.stream = packet.is_keyframe, stream
                target.mux(copy)
    frames = read(out.getvalue(), Segment(num_frames=0), LIMITS)
    expected = [number for number in range(30) if number not in (7, 15)]
    assert [read_barcode(frame.rgb) for frame in frames] == expected
    assert [frame.index for frame in frames] == list(range(28))


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
@pytest.mark.parametrize("container", ["mp4", "mov", "mkv"])
def test_a_rotation_is_applied(container: str, rotation: int, mirrored: bool) -> None:
    data = write_video(container, 3, rotation=rotation, mirrored=mirrored)
    for frame in read(data, Segment(num_frames=0), LIMITS):
        turned = frame.rgb[:, ::-1] if mirrored else frame.rgb
        assert turned.shape[:2] == ((HEIGHT, WIDTH) if rotation % 180 == 0 else (WIDTH, HEIGHT))
        assert read_barcode(np.rot90(turned, rotation // 90)) == frame.index


def test_colors_come_back() -> None:
    out = io.BytesIO()
    colors = [(200, 30, 30), (30, 200, 30), (30, 30, 200), (128, 128, 128)]
    with av.open(out, "w", format="mp4") as target:
        stream = target.add_stream("libx264", rate=5, options={"crf": "1", "preset": "ultrafast"})
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for color in colors:
            pixels = np.full((64, 64, 3), color, dtype=np.uint8)
            target.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        target.mux(stream.encode(None))
    for frame in read(out.getvalue(), Segment(), LIMITS):
        assert np.abs(frame.rgb.mean(axis=(0, 1)) - colors[frame.index]).max() < 4


def test_an_animated_gif_is_a_video() -> None:
    out = io.BytesIO()
    first, *rest = (Image.fromarray(barcode(number)) for number in range(20))
    first.save(out, "GIF", save_all=True, append_images=rest, duration=50)
    assert numbers(out.getvalue(), Segment(num_frames=4)) == [0, 5, 10, 15]


def test_a_path_and_its_bytes_give_the_same_frames(tmp_path: Path) -> None:
    path = tmp_path / "a movie.whatever"
    path.write_bytes(VIDEOS["mp4"]())
    assert numbers(path, Segment(num_frames=5)) == [0, 12, 24, 36, 48]
    with pytest.raises(NotFound):
        next(read_frames(tmp_path / "missing.mp4", Segment(), LIMITS))


def test_cover_art_is_not_the_video() -> None:
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as target:
        cover = target.add_stream("png", rate=1)
        assert isinstance(cover, av.VideoStream)
        cover.width, cover.height, cover.pix_fmt = 32, 32, "rgb24"
        cover.disposition = av.stream.Disposition.attached_pic
        stream = target.add_stream("libx264", rate=25, options={"preset": "ultrafast"})
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        blank = np.zeros((32, 32, 3), dtype=np.uint8)
        target.mux(cover.encode(av.VideoFrame.from_ndarray(blank, format="rgb24")))
        for number in range(10):
            target.mux(stream.encode(av.VideoFrame.from_ndarray(barcode(number), format="rgb24")))
        target.mux(stream.encode(None))
    assert numbers(out.getvalue(), Segment(num_frames=0)) == list(range(10))


def test_a_start_beyond_the_end_is_a_422_that_says_the_length() -> None:
    with pytest.raises(InvalidInput, match=r"60 frames \(2\.40 s\)"):
        next(read_frames(VIDEOS["mkv"](), Segment(start_offset=9), LIMITS))


def test_more_sampled_frames_than_allowed_are_a_413() -> None:
    tight = VideoLimits(max_bytes=1 << 26, max_seconds=3600, max_frames=10)
    with pytest.raises(TooLarge, match="selects 60 frames"):
        next(read_frames(VIDEOS["mp4"](), Segment(num_frames=0), tight))


def test_the_signature_names_the_demuxer() -> None:
    expected = {
        "mkv": "matroska",
        "webm_vp9": "matroska",
        "avi": "avi",
        "flv": "flv",
        "mp4": "mov",
        "fragmented_mp4": "mov",
        "transport_stream": "mpegts",
        "program_stream": "mpeg",
    }
    for name, demuxer in expected.items():
        assert recognize(VIDEOS[name]()[:600]) == demuxer
