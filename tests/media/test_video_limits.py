"""Videos that are damaged, hostile or long, or not videos; and what a reader leaves behind."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multimodal_embedding_serving.errors import (
    EmbeddingError,
    InvalidInput,
    TooLarge,
    UnsupportedMedia,
)
from multimodal_embedding_serving.media.container import Source
from multimodal_embedding_serving.media.reader import FrameReader
from multimodal_embedding_serving.media.survey import survey
from multimodal_embedding_serving.media.video import Frame, Segment, VideoLimits, read_frames
from tests.media.oracle import decode_in_order
from tests.media_files import VIDEO_KINDS, decoded, read_barcode, write_image, write_video

LIMITS = VideoLimits(max_bytes=1 << 26, max_seconds=3600, max_frames=4096)
HTTP_PLAYLIST = (
    b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:9/x.ts\n#EXT-X-ENDLIST\n"
)
NOT_VIDEOS = {
    "text": b"this is a sentence and no video " * 40,
    "hls_file": HTTP_PLAYLIST.replace(b"http://127.0.0.1:9/x.ts", b"file:///etc/passwd"),
    "hls_http": HTTP_PLAYLIST,
    "concat": b"ffconcat version 1.0\nfile /etc/passwd\n",
    "dash": b'<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"></MPD>',
    "sdp": b"v=0\no=- 0 0 IN IP4 127.0.0.1\nm=video 9 RTP/AVP 96\n",
    "png": write_image("png"),
    "avif": write_image("avif"),
    "wav": b"RIFF\x24\0\0\0WAVEfmt " + bytes(30),
    "zeros": bytes(1000),
    "one_byte": b"\x47",
}


@pytest.mark.parametrize("name", NOT_VIDEOS)
def test_bytes_of_no_known_container_are_a_415(name: str) -> None:
    with pytest.raises(UnsupportedMedia):
        next(read_frames(NOT_VIDEOS[name], Segment(), LIMITS))


def test_a_container_without_video_is_a_422() -> None:
    for data in (b"\0\0\0\x18ftypisom" + bytes(12), b"\x1a\x45\xdf\xa3" + bytes(200), b""):
        with pytest.raises(InvalidInput):
            next(read_frames(data, Segment(), LIMITS))


@pytest.mark.parametrize("part", [0.02, 0.3, 0.6, 0.97])
@pytest.mark.parametrize("kind", VIDEO_KINDS)
def test_a_file_cut_short_gives_the_frames_that_ffmpeg_still_shows_or_a_422(
    kind: str, part: float
) -> None:
    whole = write_video(kind, 48, b_frames=0)
    data = whole[: int(len(whole) * part)]
    expected = decode_in_order(data)
    if not expected:
        with pytest.raises(InvalidInput):
            next(read_frames(data, Segment(), LIMITS))
        return
    frames = list(read_frames(data, Segment(num_frames=0), LIMITS))
    shown = [frame.rgb for frame in frames if isinstance(frame, Frame)]
    assert len(shown) == len(expected)
    assert all(np.array_equal(*pair) for pair in zip(shown, expected, strict=True))
    assert len(frames) - len(shown) <= 1, "only the last packet is damaged"


@cache
def seed_video(kind: str) -> bytes:
    return write_video(kind, 20)


@settings(max_examples=200, deadline=None)
@given(
    seed=st.sampled_from(VIDEO_KINDS).map(seed_video),
    edits=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=12),
    cut=st.one_of(st.just(1.0), st.floats(0, 1)),
)
def test_mutated_bytes_raise_nothing_but_embedding_errors(
    seed: bytes, edits: list[tuple[float, int]], cut: float
) -> None:
    data = bytearray(seed)
    for place, value in edits:
        data[int(place * (len(data) - 1))] = value
    mutated = bytes(data[: int(cut * len(data))])
    try:
        frames = sum(1 for _ in read_frames(mutated, Segment(num_frames=5), LIMITS, threads=1))
    except EmbeddingError as error:
        frames = {413: 1, 415: 1, 422: 1}.get(error.status, 0)
    assert frames > 0


def test_limits_on_bytes_seconds_and_sides_are_a_413() -> None:
    data = write_video("mp4", 50)
    wide = write_video("mp4", 2, size=(8208, 64))
    for video, limits in (
        (data, VideoLimits(max_bytes=len(data) - 1, max_seconds=60, max_frames=9999)),
        (data, VideoLimits(max_bytes=1 << 26, max_seconds=1.5, max_frames=9999)),
        (data, VideoLimits(max_bytes=1 << 26, max_seconds=60, max_frames=9999, max_side=127)),
        (wide, LIMITS),
    ):
        with pytest.raises(TooLarge):
            next(read_frames(video, Segment(), limits))


def test_seconds_are_counted_where_the_header_does_not_say_them() -> None:
    data = write_video("ts", 50)
    with pytest.raises(TooLarge, match="s long"):
        survey(Source(data, max_side=8192), 1.0)


class Watched:
    """Counts the frames that decoding hands out."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.decoded = 0
        self._decode = FrameReader._decode
        monkeypatch.setattr(FrameReader, "_decode", lambda *given: self.count(*given))

    def count(self, *given: Any) -> Iterator[Any]:
        for frame in self._decode(*given):
            self.decoded += 1
            yield frame


@pytest.mark.parametrize("kind", ["mp4", "mkv", "webm", "avi", "mov", "fragmented", "ts"])
def test_a_seek_skips_what_nobody_asked_for(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_video(kind, 240, group=30)
    watched = Watched(monkeypatch)
    frames = list(read_frames(data, Segment(frame_indexes=(3, 100, 101, 230)), LIMITS))
    assert [read_barcode(decoded(frame).rgb) for frame in frames] == [3, 100, 101, 230]
    assert watched.decoded < 120, "of 231 frames, only the groups of the sampled ones are decoded"


def test_nothing_is_decoded_after_the_last_sampled_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_video("mp4", 240, group=30)
    watched = Watched(monkeypatch)
    assert len(list(read_frames(data, Segment(frame_indexes=(2, 5)), LIMITS))) == 2
    assert watched.decoded == 6


@pytest.mark.parametrize("shift", [-512, 1, 512, 10**12])
def test_a_seek_that_lands_elsewhere_is_not_believed(shift: int) -> None:
    source = Source(write_video("mp4", 120, group=30), max_side=8192)
    true = survey(source, 60)
    assert [key.rank for key in true.keys] == [30, 60, 90]
    wrong = replace(true, keys=tuple(replace(key, time=key.time + shift) for key in true.keys))
    with FrameReader(source, wrong) as frames:
        for number in (5, 65, 100):
            frame = frames.frame(number)
            assert frame is not None
            assert read_barcode(np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)) == number


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts open files by /proc")
def test_a_reader_that_stops_early_leaves_no_file_open(tmp_path: Path) -> None:
    path = tmp_path / "video.mkv"
    path.write_bytes(write_video("mkv", 60))
    before = open_files()
    for stop_after in (0, 1, 3, 64):
        frames = read_frames(path, Segment(), LIMITS)
        assert len(list(itertools.islice(frames, stop_after))) == min(stop_after, 60)
        frames.close()
        assert open_files() == before


def memory() -> int:
    """Resident bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads its memory from /proc")
def test_memory_does_not_grow_with_the_number_of_frames() -> None:
    data = write_video("mp4", 150, size=(1280, 720), group=50)
    growth = []
    for count in (10, 150):
        before, most = memory(), 0
        for _ in read_frames(data, Segment(num_frames=count), LIMITS, threads=1):
            most = max(most, memory())
        growth.append(most - before)
    assert growth[1] < growth[0] + 40 * 1280 * 720 * 3, growth  # 150 frames are 415 MB
