"""Decodes images in a decoder process.

For each it sends the memory that it needs, waits for the service's consent, and copies the pixels
to memory that it shares with the service; if that is too small, it asks for room first.
"""

from __future__ import annotations

import contextlib
import mmap
import os
from importlib import import_module

import numpy as np
from PIL import Image

from multimodal_embedding_serving.errors import TooLarge
from multimodal_embedding_serving.media.channel import Channel, Message
from multimodal_embedding_serving.media.image import DECODERS, ImageLimits, decode_rgb

BAND_PIXELS = 1 << 16
"""Pixels that are copied at a time: small blocks are reused, large ones cost page faults."""
MAX_KEPT_BYTES = 16 << 20
"""Shared memory that stays mapped for the next image."""


def load_decoders() -> None:
    """Import what decodes each format."""
    for module, _ in DECODERS.values():
        with contextlib.suppress(ImportError):  # HEIC's decoder may not be installed
            import_module(module)


class ImageTask:
    """Decodes one image after another; keeps the shared memory."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._shared: mmap.mmap | None = None

    def decode(self, item: Message, source: int) -> Message:
        """The size of the image. Raises what `decode_rgb` raises."""
        formats = tuple(item["limits"]["formats"])
        limits = ImageLimits(**{**item["limits"], "formats": formats})
        data = os.pread(source, os.fstat(source).st_size, 0)
        image = decode_rgb(
            data,
            limits,
            min_side=item["min_side"],
            copied=item["copied"],
            reserve=self._reserve,
        )
        self._share(image)
        return {"size": image.size}

    def _reserve(self, size: int, scratch: int = 0) -> None:
        self._channel.send({"reserve": [size, scratch]})
        answer, _ = self._channel.receive_with_file()
        if not answer["reserved"]:
            raise TooLarge("the memory is not available")  # the service has its own message

    def _share(self, image: Image.Image) -> None:
        width, height = image.size
        size = 3 * width * height
        if self._shared is None or len(self._shared) < size:
            self._shared = None
            self._channel.send({"room": size})
            _, file = self._channel.receive_with_file()
            if file is None:
                raise ConnectionError("the service sent no memory")
            self._shared = mmap.mmap(file, 0)
            os.close(file)
        pixels = np.frombuffer(self._shared, np.uint8, size).reshape(height, width, 3)
        rows = max(1, BAND_PIXELS // width)
        for top in range(0, height, rows):
            band = image.crop((0, top, width, min(top + rows, height)))
            np.copyto(pixels[top : top + rows], np.asarray(band))
        if len(self._shared) > MAX_KEPT_BYTES:
            self._shared = None
