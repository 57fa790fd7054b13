"""The three ways in, with the embedded model: the engine, the client and the SDK names agree."""

from __future__ import annotations

import base64
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import multimodal_embedding_serving as mmes
from multimodal_embedding_serving import errors
from multimodal_embedding_serving.sdk.arguments import ImageLike
from multimodal_embedding_serving.types import Vectors
from tests.conftest import Figure
from tests.serving import Running

FIRST = """
from multimodal_embedding_serving import Engine
with Engine.open() as engine:
    print(engine.embed({what}).shape)
"""


@pytest.fixture(scope="module")
def engine() -> Iterator[mmes.Engine]:
    with mmes.Engine.open("Builtin/mini") as engine:
        yield engine


@pytest.fixture(scope="module")
def handler() -> Iterator[mmes.BaseEmbeddingModel]:
    handler = mmes.get_model_handler("Builtin/mini")
    handler.load_model()
    yield handler
    handler.engine.close()


@pytest.fixture(scope="module")
def client(server: Running) -> Iterator[mmes.Client]:
    with mmes.Client(server.url) as client:
        yield client


def same(one: Vectors, other: Vectors) -> bool:
    """Equal but for what the batch that a row was in may change in the last bits."""
    cosines = (np.asarray(one) * np.asarray(other)).sum(axis=1)
    return one.shape == other.shape and bool((cosines > 0.9999).all())


def test_texts_are_the_same_by_every_way(
    engine: mmes.Engine, client: mmes.Client, handler: mmes.BaseEmbeddingModel
) -> None:
    texts = ["a cat", "a cup of coffee", "half \ud83d", "words " * 500]
    expected = engine.embed(texts=texts)
    assert expected.shape == (4, 384)
    assert np.allclose(np.linalg.norm(expected, axis=1), 1, atol=1e-3)
    assert same(client.embed_texts(texts), expected)
    assert same(handler.encode_text(texts).numpy(), expected)
    listed = np.asarray(mmes.EmbeddingModel(handler).embed_documents(texts), np.float32)
    assert same(listed, expected)


def test_a_photo_is_the_same_from_a_path_bytes_an_image_and_an_array(
    engine: mmes.Engine, client: mmes.Client, handler: mmes.BaseEmbeddingModel, samples: Path
) -> None:
    path = samples / "cat.jpg"
    with Image.open(path) as file:
        image = file.convert("RGB")
    sources: list[ImageLike] = [path, path.read_bytes(), image, np.asarray(image)]
    vectors = client.embed_images(sources)
    expected = np.repeat(engine.embed(images=path), len(sources), axis=0)
    assert same(vectors, expected)
    assert same(engine.embed(images=sources), expected)
    assert same(handler.encode_image(image).numpy(), expected[:1])
    encoded = base64.b64encode(path.read_bytes()).decode()
    listed = mmes.EmbeddingModel(handler).get_image_embedding_from_base64(encoded)
    assert same(np.asarray([listed], np.float32), expected[:1])


async def test_a_video_is_the_same_by_every_way(
    engine: mmes.Engine,
    client: mmes.Client,
    handler: mmes.BaseEmbeddingModel,
    server: Running,
    samples: Path,
) -> None:
    video, segment = samples / "film.mp4", {"num_frames": 5, "startOffsetSec": 1}
    expected = engine.embed(video=video, segment=segment)
    answer = client.embed_video(video, segment=segment)
    assert same(answer.vectors, expected)
    assert len(answer.frames) == 5
    assert answer.frames[0].timestamp == pytest.approx(1, abs=0.1)
    model = mmes.EmbeddingModel(handler)
    with_unknown = {**segment, "unknown": 1}  # which Intel's SDK ignores
    listed = await model.get_video_embedding_from_file(str(video), with_unknown)
    assert same(np.asarray(listed, np.float32), expected)
    async with mmes.AsyncClient(server.url) as other:
        assert same((await other.embed_video(video, segment=segment)).vectors, expected)


def test_the_items_at_fault_are_named_over_http(client: mmes.Client, samples: Path) -> None:
    photo = samples / "cat.jpg"
    with pytest.raises(errors.UnsupportedMedia) as caught:
        client.embed_images([photo] * 70 + [b"not an image"])
    assert caught.value.index == 70
    with pytest.raises(errors.DimensionsNotAllowed, match="384"):
        client.embed_texts("a cat", dimensions=7)
    with pytest.raises(errors.Forbidden):
        client.embed_images("http://127.0.0.1/cat.jpg")


async def test_the_sdk_raises_what_its_users_catch(handler: mmes.BaseEmbeddingModel) -> None:
    model = mmes.EmbeddingModel(handler)
    with pytest.raises(RuntimeError, match="not a supported image format"):
        model.get_image_embedding_from_base64(base64.b64encode(b"not an image").decode())
    with pytest.raises(FileNotFoundError):
        await model.get_video_embedding_from_frames_manifest("/tmp/videoQnA/no-such.json")


def test_the_client_knows_the_model(client: mmes.Client) -> None:
    assert client.current()["model"] == "Builtin/mini"
    assert "EMBEDDING_MODEL_NAME" in client.current()["notice"]
    assert client.capabilities()["modalities"] == ["image", "text"]
    assert client.models() == mmes.list_available_models()


@pytest.mark.parametrize(("kind", "what"), [("text", "texts='a cat'"), ("image", "images={photo}")])
def test_a_process_gives_its_first_vector_soon(
    kind: str, what: str, samples: Path, figure: Figure
) -> None:
    program = FIRST.format(what=what.format(photo=repr(str(samples / "cat.jpg"))))
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    taken = time.perf_counter() - started
    assert done.stdout == "(1, 384)\n", done.stderr
    figure(f"process start to first {kind} vector, Builtin/mini: {taken:.2f} s")
