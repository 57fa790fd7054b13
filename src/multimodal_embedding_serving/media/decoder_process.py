"""The process that decodes videos, one after the other, for one service.

It is started by `decoders.Decoder` with a socket, confined before it sees the first video, and ends
with the service. It says, in this order: taken; room (bytes of a frame; each time they grow); each
frame; and end, or error.
"""

from __future__ import annotations

import os
import socket
import sys
from typing import Any

from multimodal_embedding_serving.errors import EmbeddingError
from multimodal_embedding_serving.media.channel import Channel
from multimodal_embedding_serving.media.ring import Slots
from multimodal_embedding_serving.media.sandbox import (
    address_space,
    allow_seconds,
    confine,
    die_with,
    give_back_memory,
)
from multimodal_embedding_serving.media.video import Segment, VideoLimits, read_frames

LEFTOVER = 256 << 20
"""Bytes of address space that a video may leave behind; the next one would miss them."""


def main(parent: int, end: int, memory: int) -> None:
    """`end` is the descriptor of the socket; `memory` in bytes."""
    die_with(parent)
    confine(memory)
    channel = Channel(socket.socket(fileno=end))
    most, again = address_space() + LEFTOVER, True
    try:
        while again:
            video, source = channel.receive_with_file()
            if source is None:  # a slot that came back when its video was done
                continue
            channel.send({"taken": True})
            outcome = _decode(channel, video, source)
            os.close(source)
            give_back_memory()
            again = address_space() < most and not outcome.pop("exhausted", False)
            channel.send({**outcome, "again": again})
    except ConnectionError:  # the service is gone
        sys.exit(0)


def _decode(channel: Channel, video: dict[str, Any], source: int) -> dict[str, Any]:
    """Send the frames -> the closing message."""
    allow_seconds(video["cpu_seconds"])
    indexes = video["segment"].pop("frame_indexes")
    segment = Segment(**video["segment"], frame_indexes=indexes and tuple(indexes))
    limits, slots = VideoLimits(**video["limits"]), _slots(channel)
    try:
        for frame in read_frames(
            source, segment, limits, threads=video["threads"], place=slots.place
        ):
            height, width, _ = frame.rgb.shape
            channel.send(
                {
                    "slot": slots.last,
                    "height": height,
                    "width": width,
                    "index": frame.index,
                    "timestamp": frame.timestamp,
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
        while True:  # slots of the ring before may still come
            message, file = channel.receive_with_file()
            if file is not None:
                return file, int(message["slot_bytes"])

    return Slots(next_slot, grow)
