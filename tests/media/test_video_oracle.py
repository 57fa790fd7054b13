"""The frames of every container and codec that PyAV can write, against FFmpeg's own decoding."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from fractions import Fraction
from functools import cache

import av
import numpy as np
import pytest

from multimodal_embedding_serving.media.video import (
    Frame,
    Segment,
    VideoLimits,
    read_frames,
)
from tests.media.oracle import decode_in_order
from tests.media_files import write_video

LIMITS = VideoLimits(max_bytes=1 << 26, max_seconds=3600, max_frames=4096)
ALL = Segment(num_frames=0)
FRAMES = 44
OPEN = "open-gop=1:keyint=12:min-keyint=12:bframes=3:b-adapt=0:scenecut=0"
OPTIONS: dict[str, dict[str, str]] = {
    "libx264": {"preset": "ultrafast", "x264-params": OPEN},
    "libx265": {"preset": "ultrafast", "x265-params": OPEN + ":log-level=none"},
    "mpeg2video": {"g": "12", "bf": "2", "sc_threshold": "1000000000", "qscale": "2"},
    "mpeg4": {"g": "12", "bf": "2", "qscale": "3"},
}
"""Open groups and B frames, where the codec has them."""
PAIRS = {
    "mp4": ("libx264", "libx265", "mpeg4", "mpeg2video", "libsvtav1", "libvpx-vp9", "mjpeg"),
    "mov": ("libx264", "libx265", "mpeg4", "prores", "mjpeg", "qtrle"),
    "matroska": ("libx264", "libx265", "mpeg4", "mpeg2video", "mpeg1video", "libvpx", "ffv1"),
    "webm": ("libvpx", "libvpx-vp9", "libsvtav1"),
    "mpegts": ("libx264", "libx265", "mpeg2video", "mpeg1video", "mpeg4"),
    "mpeg": ("mpeg2video", "mpeg1video", "libx264"),
    "avi": ("mpeg4", "libx264", "msmpeg4", "mjpeg", "mpeg2video", "huffyuv", "ffv1"),
    "asf": ("wmv1", "wmv2", "libx264", "mpeg4"),
    "flv": ("libx264", "flv"),
    "ogg": ("libvpx",),
}
OPEN_CODECS = ("libx264", "libx265", "mpeg2video")


@cache
def video(form: str, codec: str) -> bytes:
    pixels = {
        "mjpeg": "yuvj420p",
        "prores": "yuv422p10le",
        "qtrle": "rgb24",
        "huffyuv": "yuv422p",
    }.get(codec, "yuv420p")
    return write_video(
        form, FRAMES, codec=codec, codec_options=OPTIONS.get(codec), pixel_format=pixels
    )


def all_frames(data: bytes, segment: Segment = ALL) -> list[Frame]:
    frames = []
    for frame in read_frames(data, segment, LIMITS, threads=2):
        assert isinstance(frame, Frame), frame
        frames.append(frame)
    return frames


def check(data: bytes) -> list[Frame]:
    """All frames are FFmpeg's, times ascend, and each number means one image."""
    frames, expected = all_frames(data), decode_in_order(data)
    assert len(frames) == len(expected)
    assert [frame.index for frame in frames] == list(range(len(expected)))
    for frame, pixels in zip(frames, expected, strict=True):
        assert np.array_equal(frame.rgb, pixels), frame.index
    times = [frame.timestamp for frame in frames]
    assert times == sorted(times)
    assert times[0] == 0
    check_alone(data, frames)
    return frames


def check_alone(data: bytes, row: list[Frame]) -> None:
    for place in {0, 1, len(row) // 2, len(row) - 8, len(row) - 1}:
        expected = row[max(0, place)]
        (alone,) = all_frames(data, Segment(frame_indexes=(expected.index,)))
        assert (alone.index, alone.timestamp) == (expected.index, expected.timestamp)
        assert np.array_equal(alone.rgb, expected.rgb)


def cut(data: bytes, form: str, key: int) -> bytes:
    """A copy from the key frame with this number on, without encoding."""
    out, seen = io.BytesIO(), -1
    with av.open(io.BytesIO(data), "r") as source, av.open(out, "w", format=form) as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            seen += bool(packet.size) and packet.is_keyframe
            if packet.size and seen >= key:
                packet.stream = stream
                target.mux(packet)
    return out.getvalue()


@pytest.mark.parametrize(
    ("form", "codec"), [(form, codec) for form, codecs in PAIRS.items() for codec in codecs]
)
def test_every_container_and_codec_gives_the_frames_of_ffmpeg(form: str, codec: str) -> None:
    assert len(check(video(form, codec))) == FRAMES


@pytest.mark.parametrize("form", ["mpegts", "matroska", "mp4"])
@pytest.mark.parametrize("codec", OPEN_CODECS)
def test_a_video_cut_in_an_open_group_begins_with_the_first_frame_that_decodes(
    codec: str, form: str
) -> None:
    frames = check(cut(video("mpegts", codec), form, 1))
    assert len(frames) == FRAMES - 12
    assert frames[-1].timestamp == pytest.approx((len(frames) - 1) / 25, abs=0.002)


@pytest.mark.parametrize("offset", [0, 2, 5000])
@pytest.mark.parametrize("codec", [*OPEN_CODECS, "mpeg4"])
def test_joined_transport_streams_go_on(codec: str, offset: int) -> None:
    second = write_video(
        "mpegts",
        20,
        codec=codec,
        codec_options=OPTIONS[codec],
        options={"output_ts_offset": str(offset)},
    )
    frames = check(video("mpegts", codec) + second)
    assert len(frames) == FRAMES + 20
    expected = 2.52 if offset == 2 else (FRAMES + 19) / 25
    assert offset == 2 or frames[-1].timestamp == pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize("codec", OPEN_CODECS)
def test_streams_joined_inside_open_groups_give_the_frames_that_ffmpeg_shows(codec: str) -> None:
    whole = video("mpegts", codec)
    data = whole + cut(whole, "mpegts", 1)
    shown = [each for each in read_frames(data, ALL, LIMITS) if isinstance(each, Frame)]
    expected = decode_in_order(data)
    assert len(shown) == len(expected)
    for frame, pixels in zip(shown, expected, strict=True):
        assert np.array_equal(frame.rgb, pixels)
    check_alone(data, shown)
    times = [frame.timestamp for frame in shown]
    assert times == sorted(times)


def resized(data: bytes, size: int) -> bytes:
    """A transport stream in packets of 192 or 204 bytes."""
    packets = (data[start : start + 188] for start in range(0, len(data), 188))
    if size == 192:
        return b"".join(bytes(4) + packet for packet in packets)
    return b"".join(packet + bytes(16) for packet in packets)


@pytest.mark.parametrize("start", [0, 1, 100])
@pytest.mark.parametrize("size", [188, 192, 204])
def test_a_transport_stream_may_have_any_packets_and_begin_inside_one(
    size: int, start: int
) -> None:
    data = video("mpegts", "mpeg2video")
    data = data if size == 188 else resized(data, size)
    if start:  # the tables are lost with the first packets, and repeated
        data = data[start:]
    assert len(check(data)) > 0


def packed(frames: int) -> bytes:
    """MPEG-4 in AVI as DivX wrote it: a B frame shares a packet with the frame before it."""
    options = {"g": "12", "bf": "1", "qscale": "3", "b_strategy": "0"}
    source = write_video("avi", frames, codec="mpeg4", b_frames=1, codec_options=options)
    out, mark = io.BytesIO(), b"\0\0\1\xb2DivX503b1393p\0"
    with av.open(io.BytesIO(source), "r") as given, av.open(out, "w", format="avi") as target:
        stream = target.add_stream_from_template(given.streams.video[0])
        packets = [packet for packet in given.demux(video=0) if packet.size]
        bodies = list(_pack([bytes(packet) for packet in packets]))
        for number, body in enumerate(bodies):
            vop = body.index(b"\0\0\1\xb6")
            packet = av.Packet(body[:vop] + mark + body[vop:] if number == 0 else body)
            packet.pts = packet.dts = number
            packet.time_base, packet.stream = stream.time_base or Fraction(1, 25), stream
            packet.is_keyframe = packets[number].is_keyframe
            target.mux(packet)
    return out.getvalue()


def _pack(bodies: list[bytes]) -> Iterator[bytes]:
    kinds = [body[body.index(b"\0\0\1\xb6") + 4] >> 6 for body in bodies]
    place = 0
    while place < len(bodies):
        if place + 1 < len(bodies) and kinds[place + 1] == 2:
            yield bodies[place] + bodies[place + 1]
            yield b"\0\0\1\xb6\x50\x01\x7f"  # no frame is coded
            place += 2
        else:
            yield bodies[place]
            place += 1


def test_packed_b_frames_are_unpacked() -> None:
    frames = check(packed(41))
    assert len(frames) >= 40


def test_writing_av1_leaves_the_tests_at_an_ordinary_priority() -> None:
    before = os.sched_getscheduler(0)
    write_video("mp4", 3, codec="libsvtav1")
    assert os.sched_getscheduler(0) == before
