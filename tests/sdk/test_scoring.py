"""`classify`, `score` and `rerank` of `Engine` and the clients, and the numbers behind them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import multimodal_embedding_serving as mmes
from multimodal_embedding_serving.errors import InvalidInput, NotFound, TooLarge, UnsupportedMedia
from multimodal_embedding_serving.sdk import Ranked
from multimodal_embedding_serving.sdk.similarity import (
    Calibration,
    fill,
    pool_labels,
    rank,
    read_templates,
)
from tests.sdk.test_verbs import parameters
from tests.serving import Running

LABELS = ["cat", "cup of coffee", "bridge"]


@pytest.fixture(scope="module")
def client(server: Running) -> Iterator[mmes.Client]:
    with mmes.Client(server.url, batch=2) as client:
        yield client


@pytest.mark.parametrize("verb", ["classify", "score", "rerank"])
def test_every_verb_has_one_signature_wherever_it_is(verb: str) -> None:
    expected = parameters(getattr(mmes.Engine, verb))
    for owner, name in (
        (mmes.Client, verb),
        (mmes.AsyncClient, verb),
        (mmes.AsyncClient, f"a{verb}"),
        (mmes.Engine, f"a{verb}"),
    ):
        assert parameters(getattr(owner, name)) == expected


def test_photos_are_classified(embedder: mmes.Engine | mmes.Client, samples: Path) -> None:
    photos = [samples / "cat.jpg", samples / "coffee.jpg"]
    found = embedder.classify(LABELS, images=photos)
    assert found.best == ["cat", "cup of coffee"]
    assert found.labels == LABELS
    assert not found.calibrated
    assert np.allclose(found.scores.sum(axis=1), 1)
    cosines = embedder.embed_images(photos) @ embedder.embed_texts(
        [f"a photo of a {each}" for each in LABELS]
    ).T.astype(np.float64)
    powers = np.exp(100 * (cosines - cosines.max(1, keepdims=True)))
    assert np.allclose(found.scores, powers / powers.sum(1, keepdims=True), atol=1e-3)
    assert repr(found) == "Classification(2 items, 3 labels)"


def test_a_video_is_one_input(embedder: mmes.Engine | mmes.Client, samples: Path) -> None:
    film, segment = samples / "film.mp4", {"num_frames": 3}
    found = embedder.classify(LABELS, video=film, segment=segment, activation="sigmoid")
    assert found.scores.shape == (1, 3)
    pooled = embedder.embed(video=film, segment={**segment, "pooling": "mean"})
    expected = embedder.embed_texts("a cat") @ pooled[0]
    (score,) = embedder.score("a cat", video=film, segment=segment)
    assert score == pytest.approx(float(expected[0]), abs=1e-5)


def test_the_server_and_the_sdk_give_the_same_numbers(client: mmes.Client, server: Running) -> None:
    with httpx2.Client(base_url=server.url, trust_env=False, timeout=60) as http:
        body: dict[str, Any] = {"input": ["a kitten", "tea"], "labels": LABELS}
        served = http.post("/classify", json=body).json()
        found = client.classify(LABELS, texts=["a kitten", "tea"])
        probabilities = np.array([each["scores"] for each in served["data"]])
        assert np.allclose(probabilities, found.scores, atol=1e-4)
        assert served["calibrated"] is found.calibrated
        documents = ["tea", "a kitten", "a bridge"]
        served = http.post("/v2/rerank", json={"query": "cat", "documents": documents}).json()
        ranked = client.rerank("cat", texts=documents)
        assert [each["index"] for each in served["results"]] == [each.index for each in ranked]
        scores = [each["relevance_score"] for each in served["results"]]
        assert np.allclose(scores, [each.score for each in ranked], atol=1e-6)


def test_documents_are_ordered_by_their_scores(embedder: mmes.Engine | mmes.Client) -> None:
    documents = ["tea", "a kitten", "a bridge", "a kitten"]
    scores = embedder.score("cat", texts=documents)
    expected = embedder.embed_texts(documents) @ embedder.embed_texts("cat")[0]
    assert np.allclose(scores, expected, atol=1e-5)
    ranked = embedder.rerank("cat", texts=documents)
    assert sorted(each.index for each in ranked) == [0, 1, 2, 3]
    found = [each.score for each in ranked]
    assert found == sorted(found, reverse=True)
    assert embedder.rerank("cat", texts=documents, top_n=1) == ranked[:1]
    assert isinstance(ranked[0], Ranked)


def test_an_image_searches_images(embedder: mmes.Engine | mmes.Client, samples: Path) -> None:
    photos = [samples / "coffee.jpg", samples / "cat.jpg"]
    with Image.open(samples / "cat.jpg") as cat:
        queries: list[Any] = [samples / "cat.jpg", (samples / "cat.jpg").read_bytes(), cat.copy()]
    for query in queries:
        best = embedder.rerank(query, images=photos)[0]
        assert best.index == 1
        assert best.score == pytest.approx(1, abs=1e-2)


async def test_the_async_verbs_give_the_same(engine: mmes.Engine, server: Running) -> None:
    texts = ["tea", "a kitten"]
    async with mmes.AsyncClient(server.url) as other:
        for each in (engine.aclassify, other.classify):
            found = await each(LABELS, texts=texts)
            assert found.best == engine.classify(LABELS, texts=texts).best
        for score in (engine.ascore, other.score):
            expected = engine.score("cat", texts=texts)
            assert np.allclose(await score("cat", texts=texts), expected, atol=1e-5)
        for rerank in (engine.arerank, other.rerank):
            assert [each.index for each in await rerank("cat", texts=texts)] == [1, 0]


Call = Callable[[mmes.Engine], Any]
LONG = "a" * 400_001
"""One character more than EMBEDDING_MAX_TEXT_CHARS."""
WRONG: list[tuple[Call, type[Exception], str]] = [
    (lambda e: e.classify([], texts="a"), InvalidInput, "labels: must have at least one"),
    (lambda e: e.classify("cat", texts="a"), InvalidInput, "labels: must be a list of strings"),
    (lambda e: e.classify(["a", " "], texts="a"), InvalidInput, "labels[1]: must be a string"),
    (lambda e: e.classify(["a"]), InvalidInput, "exactly one of texts, images and video"),
    (
        lambda e: e.classify(["a"], texts="a", template="x"),
        InvalidInput,
        "template: must contain {}",
    ),
    (
        lambda e: e.classify(["a"], texts="a", activation="relu"),  # type: ignore[arg-type]
        InvalidInput,
        "activation must be 'softmax' or 'sigmoid', not 'relu'",
    ),
    (lambda e: e.classify(["a"], text="a"), TypeError, "did you mean 'texts'?"),  # type: ignore[call-arg]
    (lambda e: e.score("", texts="a"), InvalidInput, "query must be one text"),
    (lambda e: e.score(["a"], texts="a"), InvalidInput, "not list"),  # type: ignore[arg-type]
    (lambda e: e.score(Path("gone.jpg"), texts="a"), NotFound, "query: gone.jpg"),
    (lambda e: e.score(b"no image", texts="a"), UnsupportedMedia, "query: "),
    (lambda e: e.score(LONG, texts="a"), TooLarge, "query: the text has"),
    (lambda e: e.score("a", texts=["b", LONG]), TooLarge, "texts[1]: the text has"),
    (
        lambda e: e.classify(["a", LONG], texts="a", template=["{}", "a {}"]),
        TooLarge,
        "labels[1]: the text has",
    ),
    (lambda e: e.score("a", texts="b", segment={}), InvalidInput, "segment={} applies to video="),
    (lambda e: e.rerank("a", texts="a", top_n=0), InvalidInput, "top_n must be a whole number"),
]


@pytest.mark.parametrize(("call", "kind", "message"), WRONG)
def test_a_wrong_call_is_named(
    engine: mmes.Engine, call: Call, kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind) as error:
        call(engine)
    assert message in str(error.value)


def unit(rows: Any) -> Any:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@given(
    st.integers(1, 4),
    st.integers(1, 5),
    st.integers(0, 2**32 - 1),
    st.floats(0.01, 1000),
    st.none() | st.floats(-50, 50),
)
def test_probabilities_are_probabilities(
    inputs: int, labels: int, seed: int, scale: float, bias: float | None
) -> None:
    rng = np.random.default_rng(seed)
    rows, columns = (unit(rng.standard_normal((count, 6))) for count in (inputs, labels))
    calibration = Calibration(scale, bias)
    scores = calibration.probabilities(rows, columns)
    assert scores.shape == (inputs, labels)
    assert np.isfinite(scores).all()
    assert ((scores >= 0) & (scores <= 1)).all()
    assert calibration.activation == ("softmax" if bias is None else "sigmoid")
    sums = calibration.probabilities(rows, columns, "softmax").sum(axis=1)
    assert np.allclose(sums, 1)


@given(st.lists(st.sampled_from([-1.0, 0.0, 0.5, 1.0]), min_size=1), st.integers(0, 9))
def test_ranks_are_a_stable_order(scores: list[float], top: int) -> None:
    order = rank(np.array(scores))
    assert order == sorted(range(len(scores)), key=lambda place: (-scores[place], place))
    assert rank(np.array(scores), top) == (order[:top] if top else order)


def test_templates_are_filled_label_by_label() -> None:
    templates = read_templates(["a {}", "{} of {}"])
    assert templates is not None
    assert fill(["x", "y{}"], templates) == ["a x", "x of x", "a y{}", "y{} of y{}"]
    vectors = np.eye(4, dtype=np.float32)
    pooled = pool_labels(vectors, templates)
    half = 0.5**0.5
    assert np.allclose(pooled, [[half, half, 0, 0], [0, 0, half, half]])
