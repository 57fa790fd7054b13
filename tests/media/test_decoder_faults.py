"""A decoder process that lies, or that is killed at any moment: right frames or a clean error."""

from __future__ import annotations

import gc
import os
import random
import signal
import struct
import sys
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import pytest

from multimodal_embedding_serving.errors import EmbeddingError, InvalidInput, NotReady
from multimodal_embedding_serving.media.decoder_pool import DecoderPool, Decoding
from multimodal_embedding_serving.media.sampling import Segment, VideoLimits
from tests.media.lying import Lying, Said
from tests.media.processes import memory_files, open_files, runs
from tests.media_files import decoded, read_barcode, write_video

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are Linux's own")

LIMITS = VideoLimits(max_bytes=1 << 26, max_seconds=3600, max_frames=4096)
CLIP = write_video("mp4", 20)

TAKEN = {"taken": True}
ROOM = {"room": 3 * 64 * 64}
FRAME = {"slot": 0, "height": 64, "width": 64, "index": 0, "timestamp": 0.0}


@pytest.mark.parametrize(
    "says",
    [
        [FRAME],
        [ROOM],
        [ROOM, {**FRAME, "slot": 99}],
        [ROOM, {**FRAME, "slot": -1}],
        [ROOM, FRAME, FRAME],
        [ROOM, {**FRAME, "height": 65536, "width": 65536}],
        [ROOM, {**FRAME, "height": -64, "width": -64}],
        [ROOM, {**FRAME, "height": "tall"}],
        [ROOM, {**FRAME, "timestamp": None}],
        [ROOM, {**FRAME, "index": float("inf")}],
        [ROOM, {"slot": 0}],
        [{"room": 0}],
        [{"room": 1 << 40}],
        [{"room": [1]}],
        [{"error": "SystemExit", "message": "gone"}],
        [{"error": ["InvalidInput"], "message": "gone"}],
        [{"error": "InvalidInput"}],
        [{"other": 1}],
        [struct.pack("<I", 1 << 30)],
        [struct.pack("<I", 40000) + b"[" * 40000],
        [struct.pack("<I", 4) + b"\xff\xfe\0\0"],
        [struct.pack("<I", 2) + b"[]"],
        [struct.pack("<I", 9) + b"{"],
        [b"\1"],
        [],
    ],
)
def test_what_a_process_says_is_not_believed(says: list[Said]) -> None:
    lying = Lying([TAKEN, *says])
    frames = Decoding(lying, CLIP, Segment(), LIMITS).frames()
    with pytest.raises(InvalidInput, match="the decoder crashed on it"):
        deque(frames, maxlen=0)
    lying.close()


@pytest.mark.parametrize("says", [[], [b"\1"], [{"no": "sense"}]])
def test_a_process_that_never_takes_a_video_is_a_503(says: list[Said]) -> None:
    lying = Lying(says)
    with pytest.raises(NotReady, match="could not start"):
        list(Decoding(lying, CLIP, Segment(), LIMITS).frames())
    assert lying.started <= 6
    lying.close()


class Killer:
    """Kills one of the processes, again and again, after pauses by chance."""

    def __init__(self, decoders: DecoderPool, seed: int) -> None:
        self._decoders, self._chance = decoders, random.Random(seed)
        self._enough = threading.Event()
        self._thread = threading.Thread(target=self._kill)
        self.killed = 0

    def _kill(self) -> None:
        while not self._enough.wait(self._chance.uniform(0.0, 0.6)):
            pids = self._decoders.pids
            if pids:
                how = self._chance.choice((signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT))
                with suppress(ProcessLookupError):
                    os.kill(self._chance.choice(pids), how)
                self.killed += 1

    @contextmanager
    def at_work(self) -> Iterator[None]:
        self._thread.start()
        try:
            yield
        finally:
            self._enough.set()
            self._thread.join()


def outcome(decoders: DecoderPool, clip: bytes) -> list[int] | str:
    """The frames' barcodes, or the error that the caller gets."""
    try:
        video = Decoding(decoders, clip, Segment(num_frames=0), LIMITS)
        return [read_barcode(decoded(frame).rgb) for frame in video.frames()]
    except EmbeddingError as error:
        return f"{error.status} {error.message}"


@pytest.mark.parametrize("videos", [20, pytest.param(200, marks=pytest.mark.slow)])
def test_kills_at_any_moment_cost_single_videos_and_no_more(videos: int) -> None:
    decoders = DecoderPool(3, 6)
    clips = {count: write_video("mp4", count, size=(320, 180)) for count in (40, 80)}
    assert outcome(decoders, CLIP) == list(range(20))
    killer = Killer(decoders, seed=videos)
    with ThreadPoolExecutor(4) as clients, killer.at_work():
        counts = [40 if place % 2 else 80 for place in range(videos)]
        answers = list(
            clients.map(
                lambda count: decoders.threads.submit(outcome, decoders, clips[count]).result(),
                counts,
            )
        )
    for count, answer in zip(counts, answers, strict=True):
        assert answer in (
            list(range(count)),
            "422 could not decode the video: the decoder crashed on it",
            "503 could not start a decoder process; retry later",
        )
    assert killer.killed
    assert outcome(decoders, CLIP) == list(range(20))
    pids = decoders.pids
    decoders.close()
    decoders.threads.shutdown()
    assert not any(map(runs, pids))
    gc.collect()  # a failure's traceback may hold its frames
    assert memory_files() == []


def test_file_descriptors_do_not_pile_up() -> None:
    before = open_files()
    for _ in range(3):
        decoders = DecoderPool(2, 4)
        assert outcome(decoders, CLIP) == list(range(20))
        decoders.close()
        decoders.threads.shutdown()
    assert open_files() == before
