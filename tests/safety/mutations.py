"""Damaged copies of good inputs, and the responses that are allowed for them."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence

import httpx2

from tests.media_files import photo, write_image, write_video

KINDS = ("jpeg", "png", "webp", "gif", "tiff", "bmp", "ppm", "jpeg2000", "tga", "pcx")
CONTAINERS = ("mp4", "mkv", "webm", "avi")
STRANGE = (b"\0", b"\xff", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\0\0\0\0\1", b"%n%s")

LEAK = re.compile(r"0x[0-9a-f]{6,}|site-packages|Traceback|/root/|/usr/|/home/|\.py\b", re.I)
"""What no message may contain: a memory address, a path of the server, a stack trace."""


def mutate(data: bytes, rng: random.Random) -> bytes:
    """A copy with one to four faults: bytes changed, cut out, doubled, or put in."""
    damaged = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        # Headers hold the sizes: half of the faults go there.
        end = min(len(damaged), 128) if rng.random() < 0.5 else len(damaged)
        at = rng.randrange(max(end, 1))
        match rng.randrange(6):
            case 0:
                damaged[at : at + 1] = bytes([rng.randrange(256)])
            case 1:
                strange = rng.choice(STRANGE)
                damaged[at : at + len(strange)] = strange
            case 2:
                del damaged[at : at + rng.randint(1, 64)]
            case 3:
                damaged[at:at] = damaged[at : at + rng.randint(1, 64)]
            case 4:
                damaged[at:at] = rng.randbytes(rng.randint(1, 16))
            case _:
                del damaged[rng.randrange(len(damaged) + 1) :]
    return bytes(damaged)


def images() -> list[bytes]:
    return [write_image(kind, photo(40, 30)) for kind in KINDS]


def videos() -> list[bytes]:
    return [write_video(container, frames=8) for container in CONTAINERS]


def bodies() -> list[tuple[str, bytes]]:
    """(path, a good JSON body) of every dialect."""
    text = {"input": {"type": "text", "text": ["a cat", "\u732b"]}, "encoding_format": "base64"}
    frames = [{"type": "image_base64", "image_base64": "aGVsbG8="}]
    video = {"type": "video_frames", "video_frames": frames, "segment_config": {"num_frames": 3}}
    mixed = {"input": ["a", {"text": "b"}, {"image": "aGk="}], "dimensions": 8, "user": "x"}
    cohere = {"texts": ["a", "b"], "embedding_types": ["int8"], "output_dimension": 8}
    requests = [("/embeddings", text), ("/embeddings", {"input": video})]
    requests += [("/v1/embeddings", mixed), ("/v2/embed", cohere)]
    labels = {"labels": ["a", "b"], "template": ["{}", "a {}"], "activation": "sigmoid"}
    ranked = {"query": "a", "documents": ["b", {"text": "c"}], "top_n": 1, "return_documents": True}
    requests += [("/classify", {"input": ["a", {"text": "b"}], **labels}), ("/v2/rerank", ranked)]
    requests += [("/score", {"text_1": "a", "text_2": ["b"]})]
    return [(path, json.dumps(body).encode()) for path, body in requests]


def check_answer(answer: httpx2.Response) -> None:
    """A correct response or a clean error: no server error but 503 and 504, no internals."""
    assert answer.status_code < 500 or answer.status_code in (503, 504), answer.text
    if answer.status_code >= 400:
        error = answer.json()
        assert set(error) & {"detail", "error", "message"}, error
        assert not LEAK.search(answer.text), answer.text


def seeds(name: str, count: int) -> Sequence[random.Random]:
    """The same damage in every run, so that a failure can be reproduced."""
    return [random.Random(f"{name} {number}") for number in range(count)]
