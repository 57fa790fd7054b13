"""The process that decodes videos, or images, one after another, for one service.

`decoder_handle.Decoder` starts it with a socket. It loads its libraries, confines and isolates
itself before the first input, and ends with the service. An input is a message with an open file.
The process answers, in this order: taken; what its task sends (`video_task`, `image_task`); and end
or error.
"""

from __future__ import annotations

import os
import socket
import sys
from dataclasses import asdict
from typing import Protocol

from multimodal_embedding_serving.errors import EmbeddingError
from multimodal_embedding_serving.media.budget import TRIM_THRESHOLD
from multimodal_embedding_serving.media.channel import Channel, Message
from multimodal_embedding_serving.media.isolation import isolate
from multimodal_embedding_serving.media.sandbox import (
    MMAP_THRESHOLD,
    AddressSpace,
    confine,
    die_with_parent,
    extend_cpu_limit,
    release_memory,
)

MAX_LEFTOVER = 256 << 20
"""Bytes of address space that an input may leave occupied; with more, the process is replaced."""

REUSED_BYTES = 32 << 20
"""Blocks of an image up to which freed memory is reused: mapping it again costs more than decoding
small images. It is the most that glibc allows."""


class Task(Protocol):
    """Decodes inputs, and sends the results."""

    def decode(self, message: Message, source: int) -> Message:
        """Decode the file `source`; returns what the closing message adds."""
        ...


def main(kind: str, parent: int, end: int, memory: int) -> None:
    """`kind`: video or image. `end`: the descriptor of the socket. `memory`: in bytes."""
    die_with_parent(parent)
    channel = Channel(socket.socket(fileno=end))
    task = _load(kind, channel)
    space = AddressSpace()
    confine(memory, space, MMAP_THRESHOLD if kind == "video" else REUSED_BYTES)
    isolation = isolate()
    start = rest = space.size()
    again = True
    try:
        while again:
            message, source = channel.receive_with_file()
            if "isolation" in message:
                channel.send(asdict(isolation))
            if source is None:  # else: a slot that was freed after its video had ended
                continue
            channel.send({"taken": True})
            outcome = _run(task, message, source)
            os.close(source)
            if kind == "video" or space.size() >= rest + TRIM_THRESHOLD:
                release_memory()  # takes 10 ms, as long as ten small images
                rest = space.size()
            again = space.size() < start + MAX_LEFTOVER and not outcome.pop("exhausted", False)
            channel.send({**outcome, "again": again})
    except ConnectionError:  # the service is gone
        sys.exit(0)


def _load(kind: str, channel: Channel) -> Task:
    """Import all that the task will ever need, since files can't be opened later."""
    if kind == "video":
        from multimodal_embedding_serving.media import video_task

        video_task.load_decoders()
        return video_task.VideoTask(channel)
    from multimodal_embedding_serving.media import image_task

    image_task.load_decoders()
    return image_task.ImageTask(channel)


def _run(task: Task, message: Message, source: int) -> Message:
    """Decode an input; return the closing message."""
    extend_cpu_limit(message["cpu_seconds"])
    try:
        return {"end": True, **task.decode(message, source)}
    except EmbeddingError as error:
        return {
            "error": type(error).__name__,
            "message": error.message,
            "param": error.param,
            "exhausted": isinstance(error.__context__, MemoryError),
        }
