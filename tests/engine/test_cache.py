"""The embedding cache: its limit, and that a hit is indistinguishable from a computation."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from multimodal_embedding_serving.batching.tower import ItemResult
from multimodal_embedding_serving.conversion.build import build_bundle
from multimodal_embedding_serving.engine import Engine
from multimodal_embedding_serving.engine.cache import ENTRY_BYTES, TowerCache, VectorCache
from multimodal_embedding_serving.engine.results import EmbeddingResult
from multimodal_embedding_serving.errors import InvalidInput
from multimodal_embedding_serving.inputs.items import Embeddable, Images, Texts
from multimodal_embedding_serving.media.encoded import Encoded
from multimodal_embedding_serving.monitoring.metrics import Metrics
from multimodal_embedding_serving.settings import Settings
from tests.fakes import image_features
from tests.media_files import photo, write_image
from tests.small_model import small_conversion


def result_of(numbers: int, first: float = 0.0) -> ItemResult:
    vector = np.zeros(numbers, np.float32)
    vector[:1] = first
    return ItemResult(vector, None, tokens=3, truncated=True)


def key(number: int) -> bytes:
    return b"%032d" % number


@given(
    limit=st.integers(0, 6000),
    steps=st.lists(st.tuples(st.booleans(), st.integers(0, 9), st.integers(0, 600)), max_size=60),
)
def test_the_bytes_stay_below_the_limit_and_only_the_oldest_are_forgotten(
    limit: int, steps: list[tuple[bool, int, int]]
) -> None:
    cache = VectorCache(limit)
    model: dict[bytes, ItemResult] = {}  # in the order of use
    for stores, number, size in steps:
        if stores:
            result = result_of(size, number)
            cache.store(key(number), result)
            if ENTRY_BYTES + 4 * size <= limit:
                model.pop(key(number), None)
                model[key(number)] = result
        elif key(number) in model:
            model[key(number)] = model.pop(key(number))
            assert cache.get(key(number)) is model[key(number)]
        else:
            assert cache.get(key(number)) is None
        while sum(map(cost, model.values())) > limit:
            del model[next(iter(model))]
        assert cache.size == sum(map(cost, model.values())) <= limit
        assert cache.count == len(model)


def cost(result: ItemResult) -> int:
    return ENTRY_BYTES + (result.vector.nbytes if result.vector is not None else 0)


def test_contents_that_differ_in_any_part_have_keys_of_their_own() -> None:
    cache = VectorCache(0)
    scopes = [TowerCache(cache, scope, print) for scope in ("a text", "a image", "b text")]
    parts: list[str | bytes | None] = [None, "", "-", "1:", "ab", "\ud800"]
    keys = [scope.key(*each) for scope in scopes for each in product(parts, repeat=3)]
    keys += [scope.key(each) for scope in scopes for each in parts]
    assert len(set(keys)) == len(keys)


def test_a_cached_vector_does_not_hold_its_batch_in_memory() -> None:
    cache = VectorCache(10_000)
    tower_cache = TowerCache(cache, "", print)
    batch = np.ones((64, 8), np.float32)
    features = tower_cache.store_later(image_features(3), b"key")
    assert features.on_vector  # type: ignore[union-attr]
    features.on_vector(batch[5])  # type: ignore[union-attr]
    result = cache.get(b"key")
    assert result is not None
    assert result.vector is not None
    assert result.vector.base is None


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_bundle(small_conversion(), tmp_path_factory.mktemp("models") / "small").path


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def engine(bundle: Path, metrics: Metrics) -> Iterator[Engine]:
    settings = Settings.from_env({}, model=str(bundle), model_cache=False, cache_mb=1)
    with Engine.open(settings=settings, metrics=metrics) as engine:
        yield engine


def embed(engine: Engine, item: Embeddable) -> EmbeddingResult:
    async def run() -> list[EmbeddingResult]:
        return await engine.embed_inputs([item])

    return asyncio.run(run())[0]


def figure(metrics: Metrics, name: str) -> float:
    lines = metrics.render()[0].decode().splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))


IMAGE = write_image("JPEG", photo(seed=1))
ITEMS: dict[str, Embeddable] = {
    "texts": Texts(["cat", "dog " * 40, "\ud800"], "query"),
    "token ids": Texts([(3, 4), (4, 3)]),
    "images": Images([IMAGE, write_image("PNG", photo(seed=2))]),
}


@pytest.mark.parametrize("kind", ITEMS)
def test_a_hit_gives_the_identical_vector_and_usage_and_computes_nothing(
    kind: str, engine: Engine, metrics: Metrics
) -> None:
    first = embed(engine, ITEMS[kind])
    batches = figure(metrics, "mmes_batch_items_count")
    second = embed(engine, ITEMS[kind])
    np.testing.assert_array_equal(first.vectors, second.vectors)
    assert (first.tokens, first.truncated) == (second.tokens, second.truncated)
    assert figure(metrics, "mmes_batch_items_count") == batches
    hits, misses = (
        figure(metrics, f'mmes_cache_lookups_total{{result="{result}"')
        for result in ("hit", "miss")
    )
    assert hits == misses == len(first.vectors)
    assert figure(metrics, "mmes_cache_bytes") > 0


def test_a_hit_among_new_items_keeps_its_place(engine: Engine) -> None:
    texts = ["one", "two", "three", "four"]
    apart = [embed(engine, Texts([text], many=False)).vectors[0] for text in texts[1:3]]
    together = embed(engine, Texts(texts))
    np.testing.assert_array_equal(together.vectors[1:3], apart)
    again = embed(engine, Texts(texts[::-1]))
    np.testing.assert_array_equal(again.vectors, together.vectors[::-1])


def test_another_role_or_instruction_is_another_item(engine: Engine, metrics: Metrics) -> None:
    for role, instruction in product(("query", "document", None), ("find", None)):
        embed(engine, Texts(["cat"], role, instruction))  # type: ignore[arg-type]
    assert figure(metrics, 'mmes_cache_lookups_total{result="hit"') == 0


def test_the_same_image_is_known_by_its_bytes_however_it_is_sent(
    engine: Engine, metrics: Metrics, tmp_path: Path
) -> None:
    (tmp_path / "photo.jpg").write_bytes(IMAGE)
    text = base64.b64encode(IMAGE).decode()
    sources = [IMAGE, tmp_path / "photo.jpg", f"data:image/jpeg;base64,{text}", Encoded(text)]
    vectors = [embed(engine, Images([each])).vectors for each in sources]  # type: ignore[list-item]
    assert all(np.array_equal(each, vectors[0]) for each in vectors)
    assert figure(metrics, 'mmes_cache_lookups_total{result="hit"') == len(sources) - 1


def test_a_bad_item_is_bad_again(engine: Engine) -> None:
    for _ in range(2):
        with pytest.raises(InvalidInput):
            embed(engine, Images([IMAGE[: len(IMAGE) // 2]]))
