"""The engine: order, item errors, admission, deadlines, priority, self-test, reloading."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from multimodal_embedding_serving.engine import Engine
from multimodal_embedding_serving.engine.loader import probes, self_test
from multimodal_embedding_serving.engine.results import renormalize
from multimodal_embedding_serving.errors import (
    DeadlineExceeded,
    DimensionsNotAllowed,
    InvalidInput,
    ModalityNotSupported,
    NotReady,
    QueueFull,
    SelfTestFailed,
    TooLarge,
)
from multimodal_embedding_serving.inputs.items import Images, Texts
from multimodal_embedding_serving.media.video import Segment
from multimodal_embedding_serving.settings import Settings
from multimodal_embedding_serving.types import Vectors
from tests.api.fakes import DIMENSION, fake_engine, prepare_letters, text_row
from tests.fakes import PATIENCE, FakeGraph, vector_of
from tests.media_files import photo, write_image, write_video


@pytest.fixture
def graphs() -> dict[Any, FakeGraph]:
    return {"text": FakeGraph(DIMENSION), "image": FakeGraph(DIMENSION)}


@pytest.fixture
def engine(graphs: dict[Any, FakeGraph]) -> Iterator[Engine]:
    with fake_engine(Settings.from_env({}, queue_limit=10, max_items=20), graphs) as engine:
        yield engine
        for graph in graphs.values():
            graph.release()


async def test_mixed_inputs_are_answered_in_order(engine: Engine) -> None:
    image = Images([photo()])
    answers = await engine.embed_inputs([Texts(["a"]), image, Texts(["b", "c"]), image])
    assert [len(answer.vectors) for answer in answers] == [1, 1, 2, 1]
    assert np.array_equal(answers[2].vectors[1], vector_of(text_row("c")))
    assert np.array_equal(answers[1].vectors, answers[3].vectors)


async def test_the_item_at_fault_is_named_among_the_items_of_one_input(engine: Engine) -> None:
    with pytest.raises(InvalidInput) as caught:
        await engine.embed_inputs([Images([photo(), write_image("jpeg")[:-200], b""])])
    assert caught.value.index == 1


async def test_the_input_at_fault_is_named_among_several(engine: Engine) -> None:
    with pytest.raises(InvalidInput) as caught:
        await engine.embed_inputs([Texts(["a"]), Images([b""]), Texts(["b"])])
    assert caught.value.index == 1


async def test_a_modality_that_the_model_lacks_is_refused(graphs: dict[Any, FakeGraph]) -> None:
    with fake_engine(Settings.from_env({}), {"text": graphs["text"]}) as engine:
        with pytest.raises(ModalityNotSupported, match="only text") as caught:
            await engine.embed_inputs([Texts(["a"]), Images([photo()])])
        assert caught.value.index == 1


async def test_a_full_queue_refuses_and_empties_again(
    engine: Engine, graphs: dict[Any, FakeGraph]
) -> None:
    graphs["text"].hold()
    first = asyncio.create_task(engine.embed_inputs([Texts(list("abcdefgh"))]))
    await asyncio.to_thread(graphs["text"].wait_for_call)
    with pytest.raises(QueueFull) as caught:
        await engine.embed_inputs([Texts(list("xyz"))])
    assert caught.value.retry_after >= 1
    second = asyncio.create_task(engine.embed_inputs([Texts(["x", "y"])]))
    graphs["text"].release()
    await asyncio.gather(first, second)
    assert len((await engine.embed_inputs([Texts(list("0123456789"))]))[0].vectors) == 10


async def test_a_request_larger_than_the_queue_is_served_when_it_is_alone(engine: Engine) -> None:
    assert len((await engine.embed_inputs([Texts(["a"] * 15)]))[0].vectors) == 15


async def test_too_many_items_are_too_large(engine: Engine) -> None:
    with pytest.raises(TooLarge):
        await engine.embed_inputs([Texts(["a"] * 15), Texts(["b"] * 6)])


async def test_a_cancelled_request_leaves_its_place(
    engine: Engine, graphs: dict[Any, FakeGraph]
) -> None:
    graphs["text"].hold()
    task = asyncio.create_task(engine.embed_inputs([Texts(list("abcdefgh"))]))
    await asyncio.to_thread(graphs["text"].wait_for_call)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    graphs["text"].release()
    assert await engine.embed_inputs([Texts(list("0123456789"))])


async def test_a_deadline_that_passes_is_an_error(
    engine: Engine, graphs: dict[Any, FakeGraph]
) -> None:
    graphs["text"].hold()
    with pytest.raises(DeadlineExceeded) as caught:
        await engine.embed_inputs([Texts(["a", "b"])], deadline=time.monotonic() + 0.02)
    assert caught.value.index is None
    with pytest.raises(DeadlineExceeded):
        await engine.embed_inputs([Texts(["a"])], deadline=time.monotonic() - 1)


async def test_few_items_go_before_many(engine: Engine, graphs: dict[Any, FakeGraph]) -> None:
    graph = graphs["text"]
    settings = Settings.from_env({})
    with fake_engine(settings, {"text": graph}) as roomy:
        graph.hold()
        first = asyncio.create_task(roomy.embed_inputs([Texts(["first"])]))
        await asyncio.to_thread(graph.wait_for_call)
        many = asyncio.create_task(roomy.embed_inputs([Texts([f"bulk {n}" for n in range(40)])]))
        few = asyncio.create_task(roomy.embed_inputs([Texts(["few"])]))
        while roomy.towers["text"].batcher.waiting < 41:  # noqa: ASYNC110  # no event tells of it
            await asyncio.sleep(0)
        graph.release()
        await asyncio.gather(first, many, few)
        assert np.array_equal(graph.batches[1][0], text_row("few"))


@pytest.mark.parametrize("size", [1, 9, 0, -1])
async def test_other_dimensions_are_refused(engine: Engine, size: int) -> None:
    with pytest.raises(DimensionsNotAllowed, match="only 8"):
        await engine.embed_inputs([Texts(["a"])], dimensions=size)


async def test_a_model_that_allows_it_truncates_and_renormalizes(
    graphs: dict[Any, FakeGraph],
) -> None:
    with fake_engine(Settings.from_env({}), graphs, min_dimension=3) as engine:
        (answer,) = await engine.embed_inputs([Texts(["a"])], dimensions=3)
        head = vector_of(text_row("a"))[:3]
        assert np.allclose(answer.vectors[0], head / np.linalg.norm(head))
        with pytest.raises(DimensionsNotAllowed, match="3 to 8"):
            await engine.embed_inputs([Texts(["a"])], dimensions=2)


def test_vectors_that_cancel_out_have_no_mean() -> None:
    with pytest.raises(InvalidInput, match="cannot mean-pool"):
        renormalize(np.zeros((1, 4), np.float32))


# ── without an event loop ──


def test_embed_answers_callers_that_have_no_event_loop(engine: Engine, tmp_path: Path) -> None:
    assert np.array_equal(engine.embed(texts="a"), [vector_of(text_row("a", "query"))])
    assert np.array_equal(engine.embed(texts=["a"]), [vector_of(text_row("a", "document"))])
    chosen = engine.embed(texts="a", role="document", instruction="Find")
    assert np.array_equal(chosen, [vector_of(text_row("a", "document", "Find"))])
    path = tmp_path / "a.png"
    path.write_bytes(write_image("png"))
    same: list[Any] = [path, str(path), path.read_bytes(), photo(), np.asarray(photo())]
    vectors = engine.embed(images=same)
    assert (vectors == vectors[0]).all()
    assert engine.embed(images=photo()).shape == (1, DIMENSION)


def test_embed_takes_a_video_and_its_segment(engine: Engine, tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(write_video(frames=10))
    assert engine.embed(video=path, segment={"num_frames": 5}).shape == (5, DIMENSION)
    assert engine.embed(video=str(path), segment={"fps": 5}).shape == (2, DIMENSION)
    pooled = engine.embed(video=path.read_bytes(), segment=Segment(num_frames=5, pooling="mean"))
    assert pooled.shape == (1, DIMENSION)
    with pytest.raises(InvalidInput, match=r"segment\.num_frames"):
        engine.embed(video=path, segment={"num_frames": -5})
    with pytest.raises(InvalidInput):
        engine.embed(texts="a", video=path)


def test_embed_of_nothing_is_no_rows(engine: Engine) -> None:
    assert engine.embed(texts=[]).shape == (0, DIMENSION)


def test_threads_may_embed_at_once(engine: Engine) -> None:
    with ThreadPoolExecutor(8) as callers:
        texts = [f"t{n}" for n in range(8)]
        vectors = list(callers.map(lambda text: engine.embed(texts=text)[0], texts))
    assert np.array_equal(vectors, [vector_of(text_row(text, "query")) for text in texts])


def test_a_closed_engine_is_not_ready(graphs: dict[Any, FakeGraph]) -> None:
    engine = fake_engine(Settings.from_env({}), graphs)
    engine.close()
    assert not engine.healthy
    assert all(graph.closed for graph in graphs.values())
    with pytest.raises(NotReady):
        engine.embed(texts="a")


# ── the self-test ──


class Broken(FakeGraph):
    """A graph with something wrong with what it gives."""

    def __init__(self, spoil: Any) -> None:
        super().__init__(DIMENSION)
        self.spoil = spoil

    def __call__(self, rows: Any) -> Vectors:
        spoiled: Vectors = self.spoil(super().__call__(rows))
        return spoiled


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda vectors: vectors * np.nan, "finite"),
        (lambda vectors: vectors * 2, "unit length"),
        (lambda vectors: vectors[[0, 0]], "same vector"),
    ],
)
def test_a_broken_graph_fails_its_self_test(spoil: Any, reason: str) -> None:
    with pytest.raises(SelfTestFailed, match=reason):
        self_test(Broken(spoil), prepare_letters, "text")


def test_a_sound_graph_passes_its_self_test() -> None:
    self_test(FakeGraph(DIMENSION), prepare_letters, "text")
    first, second = probes("image")
    assert first.shape == second.shape
    assert (first != second).any()


def test_a_model_that_breaks_is_opened_again(graphs: dict[Any, FakeGraph]) -> None:
    settings, reopened = Settings.from_env({}), threading.Event()
    fresh = FakeGraph(DIMENSION)

    def reopen() -> Any:
        assert reopened.wait(PATIENCE)
        return fake_engine(settings, {"text": fresh}).towers

    engine = fake_engine(settings, {"text": graphs["text"]}, reopen=reopen)
    thread = engine.reopen()
    assert thread is not None
    assert engine.reopen() is None
    assert not engine.healthy
    with pytest.raises(NotReady, match="failed its self-test and is being reloaded"):
        engine.embed(texts="a")
    reopened.set()
    thread.join(PATIENCE)
    assert engine.embed(texts="a").shape == (1, DIMENSION)
    assert graphs["text"].closed
    assert len(fresh.batches) == 1
    engine.close()
