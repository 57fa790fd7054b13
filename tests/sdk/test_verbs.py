"""The verbs that `Engine` and the clients share: signatures, skipped errors, lists of videos."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from pydantic import AliasChoices

import multimodal_embedding_serving as mmes
from multimodal_embedding_serving.errors import (
    DimensionsNotAllowed,
    InvalidInput,
    NotReady,
    QueueFull,
    TooLarge,
    Unauthorized,
)
from multimodal_embedding_serving.inputs.items import Role
from multimodal_embedding_serving.inputs.kinds import SegmentConfig
from multimodal_embedding_serving.media.sampling import Segment
from multimodal_embedding_serving.sdk import PartialResult, VideoVectors, arguments
from tests.server_standin import DIMENSION, Reply, SmallServer, serving_small, vector_of
from tests.serving import Running

VERBS = ("embed_texts", "embed_images", "embed_video")


@pytest.fixture(scope="module")
def client(server: Running) -> Iterator[mmes.Client]:
    with mmes.Client(server.url, batch=3) as client:
        yield client


@pytest.fixture
def small() -> Iterator[SmallServer]:
    with serving_small() as small:
        yield small


def parameters(function: Any) -> list[tuple[str, Any, Any, str]]:
    signature = inspect.signature(function)
    return [
        (each.name, each.kind, each.default, str(each.annotation))
        for each in signature.parameters.values()
    ]


def test_every_verb_has_one_signature_wherever_it_is() -> None:
    embed = parameters(mmes.Engine.embed)
    assert [name for name, *_ in embed][1:4] == ["texts", "images", "video"]
    others = (mmes.Client.embed, mmes.AsyncClient.embed, mmes.AsyncClient.aembed)
    for other in (*others, mmes.Engine.aembed):
        assert parameters(other) == embed
    for verb in VERBS:
        expected = parameters(getattr(mmes.Engine, verb))
        assert parameters(getattr(mmes.Client, verb)) == expected
        assert parameters(getattr(mmes.AsyncClient, verb)) == expected


def test_the_options_are_those_of_the_wire() -> None:
    """What the SDK checks before it sends must be what the server knows."""
    names = set(SegmentConfig.model_fields)
    for each in SegmentConfig.model_fields.values():
        if isinstance(each.validation_alias, AliasChoices):
            names |= {str(choice) for choice in each.validation_alias.choices}
    assert set(arguments.SEGMENT_KEYS) == names
    assert get_args(arguments.Role) == get_args(Role)


async def test_aembed_takes_what_embed_takes(
    engine: mmes.Engine, server: Running, samples: Path
) -> None:
    calls: list[dict[str, Any]] = [
        {"texts": "a cat"},
        {"texts": ["a cat", "a dog"], "role": "query"},
        {"images": [samples / "cat.jpg"]},
        {"video": samples / "film.mp4", "segment": {"num_frames": 2}},
    ]
    async with mmes.AsyncClient(server.url) as other:
        for call in calls:
            expected = engine.embed(**call)
            assert np.allclose(await engine.aembed(**call), expected, atol=1e-5)
            assert np.allclose(await other.embed(**call), expected, atol=1e-5)
            assert np.allclose(await other.aembed(**call), expected, atol=1e-5)


def test_a_list_of_videos_is_a_list_of_arrays(
    embedder: mmes.Engine | mmes.Client, samples: Path
) -> None:
    film = samples / "film.mp4"
    vectors = embedder.embed(video=(film, str(film)), segment={"num_frames": 3})
    assert [each.shape for each in vectors] == [(3, 384), (3, 384)]
    assert np.array_equal(vectors[0], embedder.embed(video=film, segment=Segment(num_frames=3)))
    (answer,) = embedder.embed_video([film], segment={"num_frames": 3})
    assert isinstance(answer, VideoVectors)
    assert np.array_equal(answer.vectors, vectors[0])
    assert [frame.index for frame in answer.frames] == [0, 24, 48]
    single = embedder.embed_video(film, segment={"num_frames": 3})
    assert single.frames == answer.frames


def test_what_fails_is_skipped_and_listed(
    embedder: mmes.Engine | mmes.Client, samples: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes((samples / "cat.jpg").read_bytes()[:500])
    notes = tmp_path / "notes.txt"
    notes.write_text("these are not pixels")
    cat, cup = samples / "cat.jpg", samples / "coffee.jpg"
    images: list[Any] = [cat, broken, cup, notes, None, tmp_path / "gone.jpg", cat]
    result = embedder.embed(images=images, on_error="skip")
    assert isinstance(result, PartialResult)
    assert result.indexes == [0, 2, 6]
    assert np.allclose(result.vectors, embedder.embed(images=[cat, cup, cat]), atol=1e-5)
    assert [each.index for each in result.failures] == [1, 3, 4, 5]
    for failure, name in zip(result.failures, [broken, notes, "None", "gone.jpg"], strict=True):
        assert str(failure.error).startswith(f"images[{failure.index}]: ")
        assert str(name) in str(failure.error)
    assert repr(result) == "PartialResult(3 vectors, 4 failures)"


def test_texts_and_videos_are_skipped_too(
    embedder: mmes.Engine | mmes.Client, samples: Path
) -> None:
    texts: list[Any] = ["a", float("nan"), "b" * 400_001, "c"]
    result = embedder.embed(texts=texts, on_error="skip")
    assert result.indexes == [0, 3]
    assert np.allclose(result.vectors, embedder.embed(texts=["a", "c"]), atol=1e-5)
    assert [type(each.error) for each in result.failures] == [InvalidInput, TooLarge]
    videos: list[Any] = [b"no film", samples / "film.mp4"]
    films = embedder.embed(video=videos, segment={"num_frames": 2}, on_error="skip")
    assert films.indexes == [1]
    assert [each.shape for each in films.vectors] == [(2, 384)]
    assert [each.index for each in films.failures] == [0]
    one = embedder.embed(video=samples / "film.mp4", segment={"fps": 1}, on_error="skip")
    assert one.indexes == [0] * len(one.vectors)
    assert embedder.embed(images=b"no image", on_error="skip").vectors.shape[0] == 0


async def test_the_async_client_skips_the_same(server: Running, samples: Path) -> None:
    images: list[Any] = [samples / "cat.jpg", b"no image", samples / "coffee.jpg", b"nor this"]
    async with mmes.AsyncClient(server.url, batch=4) as client:
        result = await client.embed(images=images, on_error="skip")
    assert (result.indexes, [each.index for each in result.failures]) == ([0, 2], [1, 3])


def test_an_error_of_the_service_is_never_skipped(small: SmallServer) -> None:
    refusals: list[tuple[Reply, type[Exception]]] = [
        ((401, {}, {"detail": "no"}), Unauthorized),
        ((429, {}, {"detail": "full"}), QueueFull),
        ((503, {}, {"detail": "no"}), NotReady),
    ]
    with mmes.Client(small.url, retries=0) as client:
        for refusal, kind in refusals:
            small.refusals = [refusal]
            with pytest.raises(kind):
                client.embed(texts=["a"], on_error="skip")


def test_a_body_that_is_too_large_is_halved(small: SmallServer) -> None:
    small.refusals = [(413, {}, {"detail": "the body is too large"})]
    texts = ["a", "b", "c"]
    with mmes.Client(small.url) as client:
        result = client.embed(texts=texts, on_error="skip")
        assert np.array_equal(result.vectors, [vector_of(each) for each in texts])
        assert [len(body["input"]) for _, body in small.asked] == [3, 1, 2]
        small.refusals = [(413, {}, {"detail": "the body is too large"})]
        with pytest.raises(TooLarge, match="body"):
            client.embed(texts=texts)


def test_a_server_that_ignores_dimensions_is_found_out(small: SmallServer) -> None:
    with (
        mmes.Client(small.url) as client,
        pytest.raises(DimensionsNotAllowed, match=f"sent {DIMENSION} numbers"),
    ):
        client.embed_images(b"x", dimensions=2)


def test_dimensions_hold_for_media_on_both_sides(
    embedder: mmes.Engine | mmes.Client, samples: Path
) -> None:
    assert embedder.embed(images=samples / "cat.jpg", dimensions=384).shape == (1, 384)
    for source in ({"images": samples / "cat.jpg"}, {"video": samples / "film.mp4"}):
        with pytest.raises(DimensionsNotAllowed, match="384"):
            embedder.embed(**source, dimensions=7)  # type: ignore[call-overload]


def test_a_repr_says_what_it_is_and_keeps_the_key() -> None:
    with mmes.Engine.open("Builtin/mini") as engine:
        assert repr(engine) == "Engine('Builtin/mini', device='CPU', dimension=384)"
    assert repr(engine) == "Engine('Builtin/mini', device='CPU', dimension=384, closed)"
    with mmes.Client("http://127.0.0.1:9777/", api_key="s3cret", model="m") as client:
        assert repr(client) == "Client('http://127.0.0.1:9777', model='m')"
    assert repr(client).endswith("closed)")
    assert repr(mmes.AsyncClient("http://h:1/p")) == "AsyncClient('http://h:1/p')"
