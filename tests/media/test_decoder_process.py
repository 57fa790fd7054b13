"""The process that decodes videos: what it answers, what it may do, and how it ends."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from multimodal_embedding_serving.errors import (
    DeadlineExceeded,
    EmbeddingError,
    InvalidInput,
    NotFound,
    NotReady,
    TooLarge,
    UnsupportedMedia,
)
from multimodal_embedding_serving.media.decoder_pool import DecoderLimits, DecoderPool, Decoding
from multimodal_embedding_serving.media.sampling import Frame, MissingFrame, Segment, VideoLimits
from multimodal_embedding_serving.media.video import read_frames
from tests.media.processes import eventually, memory_files, open_files, peak_memory, runs
from tests.media_files import VIDEO_KINDS, decoded, read_barcode, write_video

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are Linux's own")

LIMITS = VideoLimits(max_bytes=1 << 26, max_seconds=3600, max_frames=4096)
ALL = Segment(num_frames=0)
CLIP = write_video("mp4", 30)

Source = bytes | Path


@cache
def wide_video() -> bytes:
    """Frames of 4K, larger than what the processes share at once."""
    return write_video("mp4", 6, size=(3840, 2160))


@pytest.fixture
def decoders() -> Iterator[DecoderPool]:
    pool = DecoderPool(2, 6)
    yield pool
    pids = pool.pids
    pool.close()
    pool.threads.shutdown()
    assert not any(map(runs, pids))


def decoding(decoders: DecoderPool, source: Source = CLIP, segment: Segment = ALL) -> Decoding:
    return Decoding(decoders, source, segment, LIMITS)


def numbers(decoders: DecoderPool, source: Source = CLIP, segment: Segment = ALL) -> list[int]:
    """The barcodes of the frames, each looked at when it comes."""
    return [
        read_barcode(decoded(frame).rgb) for frame in decoding(decoders, source, segment).frames()
    ]


# ── what it answers ──


@pytest.mark.parametrize("kind", [*VIDEO_KINDS, "turned", "file"])
def test_frames_are_those_that_are_decoded_here(
    kind: str, decoders: DecoderPool, tmp_path: Path
) -> None:
    source: Source = write_video(
        kind if kind in VIDEO_KINDS else "mp4", 20, rotation=90 if kind == "turned" else 0
    )
    if kind == "file":
        path = tmp_path / "clip.mp4"
        path.write_bytes(CLIP)
        source = path
    expected = list(read_frames(source, ALL, LIMITS))
    came = 0
    for frame in decoding(decoders, source).frames():
        here = expected[came]
        assert (frame.index, frame.timestamp) == (here.index, here.timestamp)
        np.testing.assert_array_equal(decoded(frame).rgb, decoded(here).rgb)
        came += 1
    assert came == len(expected) > 0


def test_frames_may_grow_within_a_video(decoders: DecoderPool) -> None:
    both = write_video("ts", 12) + write_video("ts", 12, size=(640, 360))
    expected = [decoded(frame).rgb.shape for frame in read_frames(both, ALL, LIMITS)]
    assert [decoded(frame).rgb.shape for frame in decoding(decoders, both).frames()] == expected
    assert len(set(expected)) == 2


def test_one_process_serves_one_video_after_the_other(decoders: DecoderPool) -> None:
    assert numbers(decoders) == list(range(30))
    first = decoders.pids
    for _ in range(5):
        assert numbers(decoders) == list(range(30))
    assert decoders.pids == first
    assert len(first) == 1


@pytest.mark.parametrize(
    ("source", "segment", "error"),
    [
        (b"", ALL, InvalidInput),
        (b"no video at all, only words", ALL, UnsupportedMedia),
        (CLIP[:200], ALL, InvalidInput),
        (bytes(LIMITS.max_bytes + 1), ALL, TooLarge),
        (Path("/nowhere/clip.mp4"), ALL, NotFound),
        (Path("/proc"), ALL, NotFound),
        (CLIP, Segment(start_offset=100), InvalidInput),
        (CLIP, Segment(frame_indexes=(10**9,) * 100_000, start_offset=9), InvalidInput),
    ],
)
def test_a_refusal_is_the_one_that_is_raised_here(
    source: Source, segment: Segment, error: type[EmbeddingError], decoders: DecoderPool
) -> None:
    with pytest.raises(error) as there:
        list(decoding(decoders, source, segment).frames())
    assert type(there.value) is error
    if not (isinstance(source, Path) and source.is_dir()):
        with pytest.raises(error) as here:
            list(read_frames(source, segment, LIMITS))
        assert (there.value.message, there.value.param) == (here.value.message, here.value.param)
    assert numbers(decoders) == list(range(30)), "and the next video is none the worse for it"


def test_a_frame_stays_what_it_is_as_long_as_someone_looks_at_it(decoders: DecoderPool) -> None:
    first: Frame | None = None
    for frame in decoding(decoders).frames():
        first = first or decoded(frame)
    assert first is not None
    assert numbers(decoders, write_video("mp4", 40)) == list(range(40))
    assert read_barcode(first.rgb) == 0
    with pytest.raises(ValueError, match="read-only"):
        first.rgb[0, 0, 0] = 1


def test_frames_that_are_looked_at_hold_the_decoder_back(decoders: DecoderPool) -> None:
    frames = decoding(decoders).frames()
    held = [next(frames) for _ in range(decoders.slots)]
    assert [read_barcode(decoded(frame).rgb) for frame in held] == list(range(decoders.slots))
    waiting = decoders.threads.submit(next, frames)
    assert not waiting.done()
    held.pop()
    assert waiting.result().index == decoders.slots
    frames.close()


@pytest.mark.parametrize("size", [(3840, 2160), pytest.param((7680, 4320), marks=pytest.mark.slow)])
def test_large_frames_come_through(size: tuple[int, int], decoders: DecoderPool) -> None:
    large = write_video("mp4", 8, size=size)
    assert numbers(decoders, large) == list(range(8))
    assert numbers(decoders, large) == list(range(8))


def test_many_videos_at_once_are_each_its_own(decoders: DecoderPool) -> None:
    clips = [write_video("mkv", count) for count in range(10, 22)]
    lists = [decoders.threads.submit(numbers, decoders, clip) for clip in clips]
    assert [len(each.result()) for each in lists] == list(range(10, 22))
    assert all(each.result() == list(range(len(each.result()))) for each in lists)
    assert len(decoders.pids) <= 2


def test_memory_does_not_grow_with_the_videos_length(decoders: DecoderPool) -> None:
    short, long = (write_video("mp4", count, size=(1280, 720)) for count in (20, 120))
    assert len(numbers(decoders, short)) == 20
    (pid,) = decoders.pids
    here, there = peak_memory(), peak_memory(pid)
    assert len(numbers(decoders, long)) == 120
    assert decoders.pids == [pid]
    assert peak_memory(pid) - there < 30 * 1280 * 720 * 3  # 120 frames are 332 MB
    assert peak_memory() - here < 30 * 1280 * 720 * 3


# ── how it ends ──


def killed_in_the_middle(decoders: DecoderPool, number: int) -> Iterator[Frame | MissingFrame]:
    frames = decoding(decoders, wide_video()).frames()
    yield next(frames)
    os.kill(decoders.pids[0], number)
    yield from frames


def test_a_process_that_is_killed_costs_its_video_only(decoders: DecoderPool) -> None:
    for _ in range(3):
        with pytest.raises(InvalidInput, match="the decoder crashed on it"):
            list(killed_in_the_middle(decoders, signal.SIGKILL))
        assert numbers(decoders) == list(range(30))


def test_a_process_that_is_lost_while_idle_costs_nothing(decoders: DecoderPool) -> None:
    assert numbers(decoders) == list(range(30))
    (lost,) = decoders.pids
    os.kill(lost, signal.SIGKILL)
    assert numbers(decoders) == list(range(30))
    assert lost not in decoders.pids


@pytest.mark.parametrize("started", [False, True])
def test_a_process_that_hangs_ends_in_a_504(started: bool, decoders: DecoderPool) -> None:
    assert numbers(decoders) == list(range(30))
    (hung,) = decoders.pids
    video = decoding(decoders, wide_video())
    frames = video.frames()
    if started:
        next(frames)
    os.kill(hung, signal.SIGSTOP)
    video.seconds_left = 0.2
    with pytest.raises(DeadlineExceeded):
        list(frames)
    assert numbers(decoders) == list(range(30))
    assert not runs(hung)


def test_stopping_ends_a_video_whatever_its_process_does(decoders: DecoderPool) -> None:
    video = decoding(decoders, wide_video())
    frames = video.frames()
    next(frames)
    os.kill(decoders.pids[0], signal.SIGSTOP)
    rest: Future[list[Frame | MissingFrame]] = decoders.threads.submit(list, frames)
    video.stop()
    with pytest.raises(NotReady):
        rest.result()
    assert numbers(decoders) == list(range(30))


def test_stopping_ends_a_video_that_waits_for_room(decoders: DecoderPool) -> None:
    video = decoding(decoders)
    frames = video.frames()
    held = [next(frames) for _ in range(decoders.slots)]
    rest: Future[list[Frame | MissingFrame]] = decoders.threads.submit(list, frames)
    video.stop()
    with pytest.raises(NotReady):
        rest.result()
    assert len(held) == decoders.slots


def test_closing_refuses_what_comes_and_ends_what_runs(decoders: DecoderPool) -> None:
    frames = decoding(decoders, wide_video()).frames()
    next(frames)
    decoders.close()
    with pytest.raises(NotReady):
        list(frames)
    with pytest.raises(NotReady):
        numbers(decoders)


def test_a_video_that_takes_too_much_memory_is_a_422_and_starves_nobody() -> None:
    tight = DecoderPool(2, 6, DecoderLimits(memory=72 << 20))
    jobs = [
        tight.threads.submit(numbers, tight, wide_video() if place % 2 else CLIP)
        for place in range(12)
    ]
    for place, job in enumerate(jobs):
        if place % 2:
            assert isinstance(job.exception(), InvalidInput)
        else:
            assert job.result() == list(range(30))
    tight.close()


def test_nothing_is_left_whatever_becomes_of_a_video(
    decoders: DecoderPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def fail(how: Callable[[], object]) -> None:
        with pytest.raises(EmbeddingError):
            how()

    assert numbers(decoders) == list(range(30))
    gc.collect()
    before = open_files()
    for _ in range(3):
        assert numbers(decoders) == list(range(30))
        fail(lambda: numbers(decoders, b"no video"))
        fail(lambda: numbers(decoders, CLIP[: len(CLIP) // 2]))
        fail(lambda: list(killed_in_the_middle(decoders, signal.SIGKILL)))
        stopped = decoding(decoders).frames()
        next(stopped)
        stopped.close()
    assert open_files() == before
    assert memory_files() == []
    assert memory_files(decoders.pids[0]) == []
    assert list(tmp_path.iterdir()) == []


OWNER = """
import os, signal, sys
from multimodal_embedding_serving.media.decoder_pool import DecoderPool, Decoding
from multimodal_embedding_serving.media.sampling import Segment, VideoLimits
decoders = DecoderPool(1, 6)
limits = VideoLimits(max_bytes=1 << 26, max_seconds=3600, max_frames=4096)
clip = sys.stdin.buffer.read()
frames = Decoding(decoders, clip, Segment(num_frames=0), limits).frames()
next(frames)
(pid,) = decoders.pids
if sys.argv[1] == "hung":
    os.kill(pid, signal.SIGSTOP)
print(pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("state", ["working", "hung"])
def test_the_process_dies_with_its_service(state: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", OWNER, state], input=wide_video(), capture_output=True, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    pid = int(done.stdout)
    assert eventually(lambda: not runs(pid))


# ── what it may do ──

CONFINED = """
import os, sys
from multimodal_embedding_serving.media.sandbox import AddressSpace, confine, extend_cpu_limit
confine(256 << 20, AddressSpace())
{step}
print("done")
"""


@pytest.mark.parametrize(
    ("step", "ends"),
    [
        ("bytearray(200 << 20)", "done"),
        ("bytearray(300 << 20)", "MemoryError"),
        ("os.write(os.open('written', os.O_WRONLY | os.O_CREAT), b'x')", "File too large"),
        ("files = [os.dup(0) for _ in range(20)]", "Too many open files"),
        ("extend_cpu_limit(0)\nwhile True: pass", str(-signal.SIGXCPU)),
    ],
)
def test_a_confined_process_stays_within_its_bounds(step: str, ends: str, tmp_path: Path) -> None:
    code = CONFINED.format(step=step)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert ends in f"{done.returncode} {done.stdout} {done.stderr}"
    assert ("done" in done.stdout) is (ends == "done")
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) == 0
