"""Alone or in any batch, in any order, beside any neighbours: the same vector.

Each family joins by a line in MODELS; `tests.parity.towers.alone_and_together` is the check.
"""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from multimodal_embedding_serving.types import Row
from tests.parity.small import image_side, model_type, pictures, small_arrays, small_config, texts
from tests.parity.towers import Graphs, alone_and_together, open_towers, write_checkpoint

MODELS = ("clip-vit-b-16", "cn-clip-vit-b-16", "siglip2-vit-b-16", "blip2_transformers")
LONGEST = {"clip": 77, "chinese_clip": 52, "siglip": 64, "blip-2": 64}
BOUND = 0.99999


@pytest.fixture(scope="module", params=MODELS)
def opened(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Graphs]:
    model, folder = str(request.param), tmp_path_factory.mktemp("invariance")
    paths = write_checkpoint(folder / "model.safetensors", small_arrays(model, "transformers"))
    return model, open_towers(paths, small_config(model)).compile(folder)


few = settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])


@few
@given(data=st.data(), seed=st.integers(0, 2**16))
def test_a_text_does_not_depend_on_its_batch(
    opened: tuple[str, Graphs], data: st.DataObject, seed: int
) -> None:
    model, graphs = opened
    longest = LONGEST[model_type(model)]
    lengths = data.draw(st.lists(st.integers(2, longest), min_size=2, max_size=6))
    order = data.draw(st.permutations(range(len(lengths))))
    rows: list[Row] = list(texts(model, *lengths, seed=seed))
    assert alone_and_together(graphs["text"], rows, order) >= BOUND


@few
@given(data=st.data(), seed=st.integers(0, 2**16))
def test_a_picture_does_not_depend_on_its_batch(
    opened: tuple[str, Graphs], data: st.DataObject, seed: int
) -> None:
    model, graphs = opened
    count = data.draw(st.integers(2, 5))
    order = data.draw(st.permutations(range(count)))
    rows: list[Row] = list(pictures(model, count, seed=seed))
    assert rows[0].shape == (image_side(model),) * 2 + (3,)
    assert alone_and_together(graphs["image"], rows, order) >= BOUND
