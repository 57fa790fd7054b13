"""A decoder process whose messages the test chooses."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from typing import Any

from multimodal_embedding_serving.media.channel import Channel
from multimodal_embedding_serving.media.decoder_handle import Decoder, Kind
from multimodal_embedding_serving.media.decoder_pool import DecoderPool

Said = Mapping[str, Any] | bytes


class Liar(Decoder):
    """Not a process: it sends what the test gives it, whatever it receives, and hangs up."""

    def __init__(self, says: Sequence[Said]) -> None:
        ours, theirs = socket.socketpair()
        self.channel, self.pid, self.free, self.pixels = Channel(ours), 0, True, None
        self._theirs = theirs
        for each in says:
            if isinstance(each, bytes):
                theirs.sendall(each)
            else:
                Channel(theirs).send(each)
        theirs.shutdown(socket.SHUT_WR)

    @property
    def alive(self) -> bool:
        return True

    def kill(self) -> None:
        pass

    def close(self) -> None:
        self._theirs.close()
        self.channel.close()


class Lying(DecoderPool):
    """Its processes are liars."""

    def __init__(self, says: Sequence[Said], kind: Kind = "video") -> None:
        super().__init__(1, 4, kind=kind)
        self._says = says
        self.started = 0

    def _start(self) -> Decoder:
        self.started += 1
        return Liar(self._says)
