"""Decodes videos in a decoder process: sends room (the bytes of a frame, each time they grow)
and each frame, or that it is missing."""

from __future__ import annotations

import pkgutil
from dataclasses import asdict
from importlib import import_module

import av

from multimodal_embedding_serving.media.channel import Channel, Message
from multimodal_embedding_serving.media.ring import Slots
from multimodal_embedding_serving.media.video import (
    MissingFrame,
    Segment,
    VideoLimits,
    read_frames,
)

LAZY_MODULES = ("numpy.ma",)
"""What NumPy imports when it first sorts or ranks numbers."""
NOT_FOR_DECODING = ("av.__main__", "av.datasets")


def load_decoders() -> None:
    """Import every module of PyAV: it imports some when a file first needs them."""
    found = (each.name for each in pkgutil.walk_packages(av.__path__, "av."))
    for name in (*found, *LAZY_MODULES):
        if name not in NOT_FOR_DECODING:
            import_module(name)


class VideoTask:
    """Decodes one video after another."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def decode(self, video: Message, source: int) -> Message:
        """Raises what `read_frames` raises."""
        indexes = video["segment"].pop("frame_indexes")
        segment = Segment(**video["segment"], frame_indexes=indexes and tuple(indexes))
        limits, slots = VideoLimits(**video["limits"]), Slots(self._next_slot, self._grow)
        for frame in read_frames(
            source, segment, limits, threads=video["threads"], place=slots.place
        ):
            if isinstance(frame, MissingFrame):
                self._channel.send({"missing": asdict(frame)})
                continue
            height, width, _ = frame.rgb.shape
            self._channel.send(
                {
                    "slot": slots.last,
                    "height": height,
                    "width": width,
                    "index": frame.index,
                    "timestamp": frame.timestamp,
                    "size": frame.size,
                }
            )
        return {}

    def _next_slot(self) -> int:
        message, _ = self._channel.receive_with_file()
        return int(message["slot"])

    def _grow(self, size: int) -> tuple[int, int]:
        self._channel.send({"room": size})
        while True:  # slots of the previous ring may still arrive
            message, file = self._channel.receive_with_file()
            if file is not None:
                return file, int(message["slot_bytes"])
