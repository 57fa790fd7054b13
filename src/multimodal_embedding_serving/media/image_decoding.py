"""Decodes images in processes of their own (EMBEDDING_IMAGE_ISOLATION), one at a time in each.

The result is that of `decode_rgb`, to the bit. What a damaged or hostile image does to its decoder
then costs only its own request.
"""

from __future__ import annotations

import mmap
import os
from dataclasses import asdict

from PIL import Image

from multimodal_embedding_serving.errors import NotReady, TooLarge
from multimodal_embedding_serving.media.budget import Reserve
from multimodal_embedding_serving.media.channel import Message
from multimodal_embedding_serving.media.decoder_handle import Decoder
from multimodal_embedding_serving.media.decoder_pool import (
    MAX_ATTEMPTS,
    NO_PROCESS,
    DecoderJob,
    DecoderPool,
)
from multimodal_embedding_serving.media.image import ImageLimits
from multimodal_embedding_serving.media.image_task import MAX_KEPT_BYTES
from multimodal_embedding_serving.media.ring import seal, sealed_file

MIN_SHARED_BYTES = 1 << 20


class ImageDecoding(DecoderJob):
    """One image."""

    kind = "image"

    def __init__(
        self, decoders: DecoderPool, limits: ImageLimits, *, min_side: int, copied: bool
    ) -> None:
        """`limits`, `min_side` and `copied` as in `decode_rgb`."""
        super().__init__(decoders)
        self._limits = limits
        self._item: Message = {"limits": asdict(limits), "min_side": min_side, "copied": copied}
        self._reserved = False
        self._refusal: TooLarge | None = None

    def decode(self, data: bytes, reserve: Reserve) -> Image.Image:
        """Blocks until the image is decoded, or `reserve` returns.

        Raises what `decode_rgb` raises; InvalidInput also if the decoder crashes on the image,
        DeadlineExceeded if decoding takes too long, and NotReady if no process can be started.
        """
        source = sealed_file("image", data)
        try:
            for _ in range(MAX_ATTEMPTS):
                decoder = self.decoders.take(self)
                try:
                    if self.submit(decoder, self._item, source):
                        with self.translate_errors():
                            return self._converse(decoder, reserve)
                finally:
                    self.decoders.put_back(self)
        finally:
            os.close(source)
        raise NotReady(NO_PROCESS)

    def _converse(self, decoder: Decoder, reserve: Reserve) -> Image.Image:
        while True:
            message = self.receive(decoder)
            if "reserve" in message:
                self._reserve(decoder, message, reserve)
            elif "room" in message:
                self._share(decoder, int(message["room"]))
            else:
                break
        try:
            self.finish(decoder, message)
        except TooLarge:
            raise self._refusal or TooLarge(str(message["message"])) from None
        decoder.free, free = False, decoder.free
        image = self._image(decoder, message)
        decoder.free = free
        return image

    def _reserve(self, decoder: Decoder, message: Message, reserve: Reserve) -> None:
        size, scratch = map(int, message["reserve"])
        if self._reserved or min(size, scratch) < 0:
            raise ValueError("the process asks for memory twice, or for less than none")
        self._reserved = True
        try:
            # Its copy in shared memory has 3 bytes per pixel; `size` is at least 4.
            reserve(size, scratch + size * 3 // 4)
        except TooLarge as error:
            self._refusal = error
        decoder.channel.send({"reserved": self._refusal is None}, seconds=self.seconds_left)

    def _share(self, decoder: Decoder, size: int) -> None:
        if not 0 < size <= 3 * self._limits.max_pixels or not self._reserved:
            raise ValueError(f"the image has {size} bytes")
        if size < MAX_KEPT_BYTES:  # the next power of two, so that it fits the next images, too
            size = max(MIN_SHARED_BYTES, 1 << (size - 1).bit_length())
        try:
            file = os.memfd_create("pixels", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        except OSError:
            raise NotReady("the server can't open more files; retry later") from None
        try:
            os.ftruncate(file, size)
            seal(file, contents=False)
            decoder.pixels = mmap.mmap(file, size, access=mmap.ACCESS_READ)
            decoder.channel.send({"pixels": True}, file=file, seconds=self.seconds_left)
        finally:
            os.close(file)

    def _image(self, decoder: Decoder, message: Message) -> Image.Image:
        width, height = map(int, message["size"])
        shared = decoder.pixels
        fits = 0 < min(width, height) <= width * height <= self._limits.max_pixels
        if shared is None or not fits or 3 * width * height > len(shared) or not self._reserved:
            raise ValueError(f"the image has {width} x {height} pixels")
        image = Image.frombytes("RGB", (width, height), memoryview(shared)[: 3 * width * height])
        if len(shared) > MAX_KEPT_BYTES:
            decoder.pixels = None
        return image
