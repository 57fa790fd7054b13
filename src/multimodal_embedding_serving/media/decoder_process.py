"""The process that decodes videos, one after another, for one service.

`decoder_handle.Decoder` starts it with a socket. It confines itself before the first video, and
ends with the service. For each video it sends, in this order: taken; room (the bytes of a frame,
each time they grow); each frame, or that it is missing; and end or error.
"""

from __future__ import annotations

import os
import socket
import sys
from dataclasses import asdict
from typing import Any

from multimodal_embedding_serving.errors import EmbeddingError
from multimodal_embedding_serving.media.channel import Channel
from multimodal_embedding_serving.media.ring import Slots
from multimodal_embedding_serving.media.sandbox import (
    address_space,
    confine,
    die_with_parent,
    extend_cpu_limit,
    release_memory,
)
from multimodal_embedding_serving.media.video import (
    MissingFrame,
    Segment,
    VideoLimits,
    read_frames,
)

MAX_LEFTOVER = 256 << 20
"""Bytes of address space that a video may leave occupied; with more, the process is replaced."""


def main(parent: int, end: int, memory: int) -> None:
    """`end` is the descriptor of the socket; `memory` in bytes."""
    die_with_parent(parent)
    confine(memory)
    channel = Channel(socket.socket(fileno=end))
    max_space, again = address_space() + MAX_LEFTOVER, True
    try:
        while again:
            video, source = channel.receive_with_file()
            if source is None:  # a slot that was freed after its video had ended
                continue
            channel.send({"taken": True})
            outcome = _decode(channel, video, source)
            os.close(source)
            release_memory()
            again = address_space() < max_space and not outcome.pop("exhausted", False)
            channel.send({**outcome, "again": again})
    except ConnectionError:  # the service is gone
        sys.exit(0)


def _decode(channel: Channel, video: dict[str, Any], source: int) -> dict[str, Any]:
    """Send the frames; return the closing message."""
    extend_cpu_limit(video["cpu_seconds"])
    indexes = video["segment"].pop("frame_indexes")
    segment = Segment(**video["segment"], frame_indexes=indexes and tuple(indexes))
    limits, slots = VideoLimits(**video["limits"]), _slots(channel)
    try:
        for frame in read_frames(
            source, segment, limits, threads=video["threads"], place=slots.place
        ):
            if isinstance(frame, MissingFrame):
                channel.send({"missing": asdict(frame)})
                continue
            height, width, _ = frame.rgb.shape
            channel.send(
                {
                    "slot": slots.last,
                    "height": height,
                    "width": width,
                    "index": frame.index,
                    "timestamp": frame.timestamp,
                    "size": frame.size,
                }
            )
    except EmbeddingError as error:
        return {
            "error": type(error).__name__,
            "message": error.message,
            "param": error.param,
            "exhausted": isinstance(error.__context__, MemoryError),
        }
    return {"end": True}


def _slots(channel: Channel) -> Slots:
    def next_slot() -> int:
        message, _ = channel.receive_with_file()
        return int(message["slot"])

    def grow(size: int) -> tuple[int, int]:
        channel.send({"room": size})
        while True:  # slots of the previous ring may still arrive
            message, file = channel.receive_with_file()
            if file is not None:
                return file, int(message["slot_bytes"])

    return Slots(next_slot, grow)
