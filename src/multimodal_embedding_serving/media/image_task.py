"""Decodes one image in a decoder process: sends the memory that it needs, waits for the service's
consent, then sends room (the size of the RGB image) and copies the pixels where it is told to."""

from __future__ import annotations

import contextlib
import mmap
import os
from importlib import import_module

import numpy as np

from multimodal_embedding_serving.errors import TooLarge
from multimodal_embedding_serving.media.channel import Channel, Message
from multimodal_embedding_serving.media.image import DECODERS, ImageLimits, decode_rgb


def load_decoders() -> None:
    for module, _ in DECODERS.values():
        with contextlib.suppress(ImportError):  # HEIC's decoder may not be installed
            import_module(module)


def decode(channel: Channel, item: Message, source: int) -> None:
    """Raises what `decode_rgb` raises."""

    def reserve(size: int, scratch: int = 0) -> None:
        channel.send({"reserve": [size, scratch]})
        answer, _ = channel.receive_with_file()
        if not answer["reserved"]:
            raise TooLarge("the memory is not available")  # the service has its own message

    limits = ImageLimits(**{**item["limits"], "formats": tuple(item["limits"]["formats"])})
    data = os.pread(source, os.fstat(source).st_size, 0)
    image = decode_rgb(
        data, limits, min_side=item["min_side"], copied=item["copied"], reserve=reserve
    )
    channel.send({"room": [image.width, image.height]})
    _, file = channel.receive_with_file()
    with mmap.mmap(file, 0) as shared:
        os.close(file)
        place = np.frombuffer(shared, np.uint8, 3 * image.width * image.height)
        np.copyto(place.reshape(image.height, image.width, 3), np.asarray(image))
        del place
