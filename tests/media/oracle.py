"""What FFmpeg itself shows of a video: PyAV's plain decoding, in order and with one thread."""

from __future__ import annotations

import io
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]


def decode_in_order(data: bytes) -> list[Pixels]:
    """uint8 [height, width, 3] of every frame of the default track; errors cost only a packet."""
    frames: list[Pixels] = []
    try:
        with av.open(io.BytesIO(data), "r") as container:
            stream: Any = container.streams.best("video")
            stream.codec_context.thread_count = 1
            for packet in container.demux(stream):
                try:
                    decoded: list[Any] = packet.decode()
                except av.FFmpegError:
                    continue
                frames += [frame.to_ndarray(format="rgb24", threads=1) for frame in decoded]
    except (av.FFmpegError, AttributeError):  # nothing that can be opened, or no video
        pass
    return frames
