"""Static shapes, as an NPU needs them, compiled here by the CPU plugin: the same vectors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from multimodal_embedding_serving.backends.static import StaticShape, choose_shape, is_static
from multimodal_embedding_serving.bundles.bundle import Bundle
from multimodal_embedding_serving.conversion.blueprint import read_blueprint
from multimodal_embedding_serving.conversion.build import Conversion, build_bundle
from multimodal_embedding_serving.conversion.parity import check_parity
from multimodal_embedding_serving.conversion.probe_inputs import PROBE_TEXTS, probe_images
from multimodal_embedding_serving.conversion.resolve import resolve_model
from multimodal_embedding_serving.engine import Engine
from multimodal_embedding_serving.engine.loader import ModelLoader
from multimodal_embedding_serving.families import TowerSpec
from multimodal_embedding_serving.inputs.items import Role, Texts
from multimodal_embedding_serving.inputs.media_access import MediaAccess
from multimodal_embedding_serving.monitoring.metrics import Metrics
from multimodal_embedding_serving.settings import Settings
from multimodal_embedding_serving.transforms.windows import split_windows
from multimodal_embedding_serving.types import Vectors
from tests.repositories import FAMILIES, write_repository

QWEN = "qwen3-embedding-0.6b"
SAME = 0.99999


@pytest.mark.parametrize(
    ("device", "available", "expected"),
    [
        ("NPU", ["CPU", "NPU"], True),
        ("NPU.0", ["CPU", "NPU"], True),
        ("NPU", ["CPU"], True),  # refused when it is compiled, with the list of devices
        ("CPU", ["CPU", "NPU"], False),
        ("GPU", ["CPU", "GPU", "NPU"], False),
        ("AUTO", ["CPU", "NPU"], False),
        ("AUTO:NPU,CPU", ["CPU", "NPU"], True),
        ("AUTO:NPU,CPU", ["CPU"], False),
        ("AUTO:GPU,NPU,CPU", ["CPU", "GPU.0", "NPU"], False),
        ("AUTO:GPU,NPU,CPU", ["CPU", "NPU"], True),
        ("AUTO:-NPU", ["CPU", "NPU"], False),
        ("AUTO:-NPU,CPU", ["CPU", "NPU"], False),
        ("HETERO:NPU,CPU", ["CPU", "NPU"], True),
        ("HETERO:CPU,NPU", ["CPU", "NPU"], False),
        ("MULTI:CPU,NPU", ["CPU", "NPU"], True),
        ("BATCH:NPU(4)", ["CPU", "NPU"], True),
    ],
)
def test_static_shapes_are_for_devices_that_lead_to_an_npu(
    device: str, available: Sequence[str], expected: bool
) -> None:
    assert is_static(device, available) is expected


@pytest.mark.parametrize(
    ("longest", "static_length", "max_length", "expected"),
    [
        (32768, 2048, 8192, 2048),
        (32768, 128, 8192, 128),
        (32768, 129, 8192, 256),
        (32768, 5000, 8192, 8192),
        (32768, 2048, 300, 512),  # no text will be longer
        (77, 2048, 8192, 77),
        (512, 128, 8192, 512),
        (None, 2048, 8192, None),
    ],
)
def test_a_length_is_rounded_up_or_all_that_a_short_tower_has(
    longest: int | None, static_length: int, max_length: int, expected: int | None
) -> None:
    transform = {} if longest is None else {"max_length": longest}
    chosen = Settings(static_length=static_length, max_length=max_length)
    assert choose_shape(transform, chosen) == StaticShape(expected)


@pytest.mark.parametrize(("max_length", "expected"), [(None, 1024), (8192, 2048), (512, 512)])
def test_a_limit_of_the_checkpoint_decides_unless_one_is_set(
    max_length: int | None, expected: int
) -> None:
    transform = {"max_length": 32768, "default_length": 1024}
    assert choose_shape(transform, Settings(max_length=max_length)) == StaticShape(expected)


class Converted:
    """A small checkpoint of a row as a bundle of float32 weights, and its plans."""

    def __init__(self, model: str, folder: Path) -> None:
        settings = Settings(model=str(write_repository(folder / model, model)), models_dir=folder)
        blueprint = read_blueprint(resolve_model(settings))
        self.plans: Sequence[TowerSpec] = blueprint.plans
        self.bundle: Bundle = build_bundle(Conversion(blueprint, "f32"), folder / "bundle")

    @contextmanager
    def engine(self, *, static: bool, **changes: object) -> Iterator[Engine]:
        chosen = exact(**changes)
        metrics = Metrics()
        media = MediaAccess.from_settings(chosen, metrics.count_media)
        opener = ModelLoader(self.bundle, chosen, media, metrics, static=static)
        towers = opener.open()
        with Engine(opener.describe(towers), towers, chosen, media=media) as engine:
            yield engine


def exact(**changes: object) -> Settings:
    return Settings.from_env({}, precision="f32", model_cache=False, **changes)


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Converted:
    return Converted(QWEN, tmp_path_factory.mktemp("static"))


def cosine(found: Vectors, expected: Vectors) -> float:
    return float((found * expected).sum(axis=1).min())


@pytest.mark.parametrize("model", [each for each in FAMILIES if each not in (QWEN, "mobileclip_b")])
def test_every_family_gives_the_same_vectors_in_static_shapes(model: str, tmp_path: Path) -> None:
    converted, found = Converted(model, tmp_path), {}
    for static in (False, True):
        with converted.engine(static=static) as engine:
            found[static] = np.concatenate(
                [engine.embed(texts=PROBE_TEXTS), engine.embed(images=probe_images())]
            )
    assert cosine(found[True], found[False]) >= SAME


TEXTS = ["x", "a photo of a cat", "y" * 127, "z" * 128, "0123456789" * 50]
"""Short, exactly full with the end (127 bytes), one token over, and over-long."""


async def run(
    engine: Engine, texts: Sequence[str], role: Role = "document"
) -> tuple[Vectors, bool]:
    (answer,) = await engine.embed_inputs([Texts(texts, role)])
    return answer.vectors, answer.truncated


async def test_a_decoder_s_static_graph_cuts_what_is_too_long(qwen: Converted) -> None:
    cut = {"static_length": 100, "chunk_long_text": False}  # rounded up to 128
    with qwen.engine(static=True, **cut) as engine:
        assert engine.info.text_length == 128
        found = [await run(engine, [text]) for text in TEXTS]
    with qwen.engine(static=False, max_length=128) as engine:
        expected = [await run(engine, [text]) for text in TEXTS]
    assert [told for _, told in found] == [told for _, told in expected]
    assert [told for _, told in found] == [False, False, False, True, True]
    vectors = [np.concatenate([each for each, _ in side]) for side in (found, expected)]
    assert cosine(*vectors) >= SAME


@pytest.mark.parametrize("role", ["document", "query"])
async def test_a_long_text_is_the_mean_of_its_windows(qwen: Converted, role: Role) -> None:
    length = 128 if role == "document" else 256  # the instruction alone has 103 bytes
    with qwen.engine(static=True, static_length=length) as engine:
        assert engine.info.text_length == 8192
        found, truncated = await run(engine, TEXTS, role)
    assert not truncated
    prompt = list(b"Instruct: " + qwen_instruction(qwen) + b"\nQuery:") if role == "query" else []
    # The tokenizer's ids are not the bytes themselves: the windows' texts stand for them.
    windows = [split_windows([*prompt, *text.encode(), 256], prompt, length) for text in TEXTS]
    assert max(map(len, windows)) > 2
    with qwen.engine(static=False) as engine:
        for vector, parts in zip(found, windows, strict=True):
            texts = [bytes(part.ids[:-1]).decode() for part in parts]
            alone, _ = await run(engine, texts)
            mean = np.average(alone, axis=0, weights=[part.covers for part in parts])
            assert vector @ mean / np.linalg.norm(mean) >= SAME


def qwen_instruction(qwen: Converted) -> bytes:
    transform = qwen.bundle.manifest.towers["text"].transform
    return str(transform["default_instruction"]).encode()


def test_places_that_are_all_attended_to_stay_when_texts_are_cut_short(tmp_path: Path) -> None:
    """SigLIP's graph has 64 places whatever EMBEDDING_MAX_LENGTH says."""
    siglip = Converted("siglip2-vit-b-16", tmp_path)
    with siglip.engine(static=False) as engine:
        expected = engine.embed(texts=PROBE_TEXTS)
    with siglip.engine(static=False, max_length=16) as engine:
        assert engine.info.text_length == 64
        assert cosine(engine.embed(texts=PROBE_TEXTS), expected) >= SAME


async def test_elsewhere_a_long_text_is_cut_at_the_limit(qwen: Converted) -> None:
    with qwen.engine(static=False, max_length=200) as engine:
        whole, told = await run(engine, ["z" * 199])
        cut, told_cut = await run(engine, ["z" * 5000])
    assert (told, told_cut) == (False, True)
    assert cosine(whole, cut) >= SAME


def test_accuracy_is_measured_in_the_static_shape(qwen: Converted) -> None:
    chosen = exact(static_length=128)
    parity = check_parity(qwen.plans, qwen.bundle, chosen, static=True)
    assert parity["text"]["minimum"] >= SAME
    assert parity["text"]["items"] == len(PROBE_TEXTS)
