"""Damaged images, videos, JSON and forms: each is an error and harms no other request."""

from __future__ import annotations

import base64
import random
import threading
from collections.abc import Sequence
from typing import Any

import httpx2
import numpy as np
import pytest
from PIL import Image

from multimodal_embedding_serving.errors import EmbeddingError
from multimodal_embedding_serving.media.image import ImageLimits, decode_rgb
from multimodal_embedding_serving.settings import IMAGE_FORMATS
from tests.safety.mutations import LEAK, bodies, check_answer, images, mutate, seeds, videos
from tests.serving import PATIENCE, Running

LIMITS = ImageLimits(max_bytes=2**22, max_pixels=2**22, formats=tuple(IMAGE_FORMATS))
FEW, MANY = 1, 20
"""Times the counts below: in the default run, and in `make test-all`."""


@pytest.fixture(scope="module")
def http(server: Running) -> Any:
    with httpx2.Client(base_url=server.url, timeout=PATIENCE, trust_env=False) as client:
        yield client


rounds = pytest.mark.parametrize("rounds", [FEW, pytest.param(MANY, marks=pytest.mark.slow)])


def decode(data: bytes) -> Image.Image | EmbeddingError:
    try:
        return decode_rgb(data, LIMITS)
    except EmbeddingError as error:
        return error


@rounds
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_a_damaged_image_is_an_image_or_an_error(rounds: int) -> None:
    good = images()
    errors = 0
    for rng in seeds("image", 500 * rounds):
        result = decode(mutate(rng.choice(good), rng))
        if isinstance(result, EmbeddingError):
            errors += 1
            assert result.status in (413, 415, 422), result
            assert not LEAK.search(result.message)
        else:
            assert result.mode == "RGB"
            assert result.width * result.height <= LIMITS.max_pixels
    assert errors > 100


@rounds
def test_a_damaged_video_is_a_video_or_an_error(rounds: int, http: httpx2.Client) -> None:
    good = videos()
    statuses: list[int] = []
    for rng in seeds("video", 40 * rounds):
        coded = base64.b64encode(mutate(rng.choice(good), rng)).decode()
        source = {
            "type": "video_base64",
            "video_base64": coded,
            "segment_config": {"num_frames": 2},
        }
        answer = http.post("/embeddings", json={"input": source})
        check_answer(answer)
        statuses.append(answer.status_code)
    assert {200, 422} <= set(statuses)


@rounds
def test_a_damaged_body_is_refused_cleanly(rounds: int, http: httpx2.Client) -> None:
    good = bodies()
    for rng in seeds("body", 300 * rounds):
        path, body = rng.choice(good)
        kind = {"content-type": "application/json"}
        check_answer(http.post(path, content=mutate(body, rng), headers=kind))


@rounds
def test_a_damaged_form_is_refused_cleanly(rounds: int, http: httpx2.Client) -> None:
    parts: Sequence[Any] = [("file", ("a.png", images()[1])), ("input", (None, "a cat"))]
    form = http.build_request("POST", "/v1/embeddings", files=parts, data={"dimensions": "384"})
    good = form.read()
    for rng in seeds("form", 150 * rounds):
        kind = {"content-type": form.headers["content-type"]}
        check_answer(http.post("/v1/embeddings", content=mutate(good, rng), headers=kind))


@rounds
def test_poison_in_one_request_changes_no_others_vectors(
    rounds: int, http: httpx2.Client, server: Running
) -> None:
    """Good images and texts, alone and then beside a stream of damaged ones, are the same."""
    good = [base64.b64encode(image).decode() for image in images()[:4]]
    sources: list[dict[str, Any]] = [{"type": "image_base64", "image_base64": good}]
    sources += [{"type": "text", "text": ["a cat", "a cup of coffee", "x"]}]

    def ask(client: httpx2.Client) -> list[Any]:
        answers = [client.post("/embeddings", json={"input": source}) for source in sources]
        return [np.array(answer.json()["embedding"]) for answer in answers]

    alone, over = ask(http), threading.Event()
    faults: list[BaseException] = []

    def poison(number: int) -> None:
        rng = random.Random(number)
        with httpx2.Client(base_url=server.url, timeout=PATIENCE, trust_env=False) as client:
            while not over.is_set():
                items = [mutate(rng.choice(images()), rng) for _ in range(3)]
                coded = [base64.b64encode(item).decode() for item in items]
                source = {"type": "image_base64", "image_base64": [good[0], *coded]}
                try:
                    check_answer(client.post("/embeddings", json={"input": source}))
                except BaseException as fault:
                    faults.append(fault)
                    raise

    threads = [threading.Thread(target=poison, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(10 * rounds):
            for before, beside in zip(alone, ask(http), strict=True):
                assert ((before * beside).sum(1) > 0.99999).all()
    finally:
        over.set()
        for thread in threads:
            thread.join(PATIENCE)
    assert not faults
