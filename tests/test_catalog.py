"""The catalog: every row is complete, and every spelling means one row.

Nothing here copies a row: docs/models.md shows them (tests/test_docs.py), and tests/families holds
them to the tensors of the real checkpoints.
"""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multimodal_embedding_serving.catalog import (
    DEFAULT_MODEL,
    MODELS,
    ModelSpec,
    by_family,
    resolve,
    spellings,
)
from multimodal_embedding_serving.errors import UnknownModel
from multimodal_embedding_serving.families import FAMILIES
from multimodal_embedding_serving.settings import PRECISIONS

REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


@pytest.mark.parametrize("spec", MODELS, ids=lambda spec: spec.id)
def test_a_row_is_complete(spec: ModelSpec) -> None:
    assert all(REPOSITORY.fullmatch(repo) for repo in spec.repos)
    assert spec.repos or spec.id == DEFAULT_MODEL, (
        "only the shipped model comes without a repository"
    )
    assert all((spec.name, spec.architecture, spec.license))
    assert min(spec.dimension, spec.text_length, spec.image_size or 1) > 0
    assert spec.precision in set(PRECISIONS) - {"auto"}


def test_ids_and_spellings_are_unique() -> None:
    every = [spelling.lower() for spec in MODELS for spelling in set(spellings(spec))]
    assert len({spec.id for spec in MODELS}) == len(MODELS)
    assert len(every) == len(set(every))


def test_every_row_names_a_known_family() -> None:
    assert set(by_family()) <= set(FAMILIES)
    assert sum(len(names) for names in by_family().values()) == len(MODELS)


@pytest.mark.parametrize("spec", MODELS, ids=lambda spec: spec.id)
def test_every_spelling_resolves_to_its_row(spec: ModelSpec) -> None:
    for spelling in spellings(spec):
        assert resolve(spelling) is spec
        assert resolve(f"  {spelling.upper()} ") is spec


def test_blip2_is_an_alias() -> None:
    assert resolve("Blip2/blip2") is resolve("blip2") is resolve("Blip2/blip2_transformers")


def test_the_default_is_the_embedded_model() -> None:
    assert resolve(DEFAULT_MODEL).repos == ()


def test_a_row_without_pixels_embeds_text_alone() -> None:
    assert resolve("qwen3-embedding-0.6b").modalities == ("text",)
    assert resolve("clip-vit-b-32").modalities == ("image", "text")


def test_mobileclip_takes_its_tokenizer_from_clip_and_keeps_b_and_blt_apart() -> None:
    rows = [spec for spec in MODELS if spec.family == "MobileCLIP"]
    assert {spec.tokenizer_repo for spec in rows} == {"openai/clip-vit-base-patch16"}
    assert resolve("mobileclip_b").repos != resolve("mobileclip_blt").repos


def test_weights_under_a_special_licence_say_so() -> None:
    assert {spec.license for spec in MODELS if spec.family == "MobileCLIP"} == {"apple-amlr"}


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("clip-x", "CLIP/clip-vit-b-32"),
        ("CLIP", "CLIP/clip-vit-b-32"),
        ("clip-vit-l-15", "CLIP/clip-vit-l-14"),
        ("vit-b-16", "CLIP/clip-vit-b-16"),
        ("Siglip", "SigLIP/siglip2-vit-b-16"),
        ("qwen3-0.6b", "QwenText/qwen3-embedding-0.6b"),
        ("blip", "Blip2/blip2_transformers"),
        ("openai/clip-vit-base-patch32", "CLIP/clip-vit-b-16"),
    ],
)
def test_an_unknown_name_suggests_the_nearest_one(name: str, suggestion: str) -> None:
    with pytest.raises(UnknownModel) as caught:
        resolve(name)
    start = f"unknown model {name!r}. Did you mean {suggestion}? "
    assert caught.value.message == start + "Run `mmes models` for the list"


@pytest.mark.parametrize("name", ["no/such-model", "bert-base", "a", "", "-"])
def test_a_name_unlike_any_other_suggests_none(name: str) -> None:
    with pytest.raises(UnknownModel) as caught:
        resolve(name)
    assert caught.value.message == f"unknown model {name!r}. Run `mmes models` for the list"


@given(st.text())
def test_any_other_text_is_refused_and_never_crashes(name: str) -> None:
    known = {spelling.lower() for spec in MODELS for spelling in spellings(spec)}
    if name.strip().lower() not in known:
        with pytest.raises(UnknownModel):
            resolve(name)
