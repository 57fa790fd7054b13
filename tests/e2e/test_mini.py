"""The embedded model, from a text or a image to its vector, through a real server's HTTP."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest

from multimodal_embedding_serving.conversion.parity import least_batch_bound
from multimodal_embedding_serving.types import Vectors
from tests.lazy import lazy
from tests.retrieval import list_photos
from tests.serving import PATIENCE, Running

openai = lazy("openai")


@pytest.fixture(scope="module")
def http(server: Running) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=server.url, timeout=PATIENCE) as client:
        yield client


def embed(http: httpx2.Client, **given: Any) -> Any:
    answer = http.post("/embeddings", json={"input": given})
    assert answer.status_code == 200, answer.text
    return answer.json()


def b64(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


@pytest.fixture(scope="module")
def photos(http: httpx2.Client) -> Vectors:
    """The 18 photos' vectors, in the order of `list_photos`."""
    answer = embed(http, type="image_base64", image_base64=[b64(path) for path in list_photos()])
    return np.array(answer["embedding"], np.float32)


def batch_bound(http: httpx2.Client) -> float:
    """The least cosine of a vector to itself from another batch, in the form served here."""
    form = http.get("/model/current").json()
    return least_batch_bound(form["inference_precision"], form["dynamic_quantization_group_size"])


def test_openais_client_searches_photos_by_text(
    server: Running, http: httpx2.Client, photos: Vectors
) -> None:
    items = ["a rocket", *({"image": b64(path)} for path in list_photos())]
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
        answer = client.embeddings.create(model="mini", input=items)
    vectors = np.array([each.embedding for each in answer.data], np.float32)
    if batch_bound(http) > 0.9999:  # f32
        assert np.allclose(vectors[1:], photos, atol=1e-5)
    assert (vectors[1:] * photos).sum(1).min() >= batch_bound(http)
    assert list_photos()[int((vectors[1:] @ vectors[0]).argmax())].stem == "rocket"


def test_a_films_frames_are_found_by_descriptions(http: httpx2.Client, samples: Path) -> None:
    """The sample film shows the sample photos one after another."""
    config = {"extraction_fps": 2}
    film = b64(samples / "film.mp4")
    answer = embed(http, type="video_base64", video_base64=film, segment_config=config)
    frames = np.array(answer["embedding"], np.float32)
    stills = sorted(samples.glob("*.jpg"))
    images = embed(http, type="image_base64", image_base64=[b64(path) for path in stills])
    nearest = frames @ np.array(images["embedding"], np.float32).T
    shown = {stills[place].stem for place in nearest.argmax(axis=1)}
    assert len(shown) >= 3
    text = np.array(embed(http, type="text", text="a cat")["embedding"], np.float32)
    best = int((frames @ text).argmax())
    assert stills[int(nearest[best].argmax())].stem == "cat"


def test_a_vector_does_not_depend_on_its_neighbours(http: httpx2.Client, photos: Vectors) -> None:
    least = batch_bound(http)
    path = list_photos()[3]
    alone = embed(http, type="image_base64", image_base64=b64(path))["embedding"]
    assert float(np.dot(alone, photos[3])) >= least
    texts = ["a cat", "a much longer sentence about many different things " * 5, "", "b"]
    together = np.array(embed(http, type="text", text=texts)["embedding"], np.float32)
    for place, text in enumerate(texts):
        one = np.array(embed(http, type="text", text=[text])["embedding"][0], np.float32)
        assert float(one @ together[place]) >= least


def test_a_long_text_is_cut_at_256_tokens(http: httpx2.Client) -> None:
    usage = embed(http, type="text", text="word " * 1000)["usage"]
    assert usage == {"prompt_tokens": 256, "total_tokens": 256, "truncated": True}


def test_the_model_says_that_it_is_small(http: httpx2.Client) -> None:
    current = http.get("/model/current").json()
    assert current["model"] == "Builtin/mini"
    assert current["dimension"] == 384
    assert "EMBEDDING_MODEL_NAME" in current["notice"]
