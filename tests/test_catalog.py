"""The catalog is the table of docs/models.md, row by row."""

from __future__ import annotations

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

# id | preferred repository | pixels | dimension | text length: copied by hand from the contract.
TABLE = """
Builtin/mini | | 260 | 384 | 256
CLIP/clip-vit-b-32 | laion/CLIP-ViT-B-32-laion2B-s34B-b79K | 224 | 512 | 77
CLIP/clip-vit-b-16 | openai/clip-vit-base-patch16 | 224 | 512 | 77
CLIP/clip-vit-l-14 | laion/CLIP-ViT-L-14-DataComp.XL-s13B-b90K | 224 | 768 | 77
CLIP/clip-vit-h-14 | laion/CLIP-ViT-H-14-laion2B-s32B-b79K | 224 | 1024 | 77
CN-CLIP/cn-clip-vit-b-16 | OFA-Sys/chinese-clip-vit-base-patch16 | 224 | 512 | 52
CN-CLIP/cn-clip-vit-l-14 | OFA-Sys/chinese-clip-vit-large-patch14 | 224 | 768 | 52
CN-CLIP/cn-clip-vit-h-14 | OFA-Sys/chinese-clip-vit-huge-patch14 | 224 | 1024 | 52
MobileCLIP/mobileclip_s0 | apple/MobileCLIP-S0 | 256 | 512 | 77
MobileCLIP/mobileclip_s1 | apple/MobileCLIP-S1 | 256 | 512 | 77
MobileCLIP/mobileclip_s2 | apple/MobileCLIP-S2 | 256 | 512 | 77
MobileCLIP/mobileclip_b | apple/MobileCLIP-B | 224 | 512 | 77
MobileCLIP/mobileclip_blt | apple/MobileCLIP-B-LT | 224 | 512 | 77
SigLIP/siglip2-vit-b-16 | google/siglip2-base-patch16-224 | 224 | 768 | 64
SigLIP/siglip2-vit-l-16 | google/siglip2-large-patch16-256 | 256 | 1024 | 64
SigLIP/siglip2-so400m-patch16-384 | google/siglip2-so400m-patch16-384 | 384 | 1152 | 64
Blip2/blip2_transformers | Salesforce/blip2-itm-vit-g | 224 | 256 | 512
QwenText/qwen3-embedding-0.6b | Qwen/Qwen3-Embedding-0.6B | - | 1024 | 32768
QwenText/qwen3-embedding-4b | Qwen/Qwen3-Embedding-4B | - | 2560 | 32768
QwenText/qwen3-embedding-8b | Qwen/Qwen3-Embedding-8B | - | 4096 | 32768
"""
FAMILIES = "Builtin CLIP CN-CLIP MobileCLIP SigLIP Blip2 QwenText".split()


def test_every_row_is_the_contracts_row() -> None:
    rows = [
        " | ".join(
            map(
                str,
                (
                    spec.id,
                    *(spec.repos[:1] or [""]),
                    spec.image_size or "-",
                    spec.dimension,
                    spec.text_length,
                ),
            )
        ).replace("|  |", "| |")
        for spec in MODELS
    ]
    assert rows == TABLE.strip().splitlines()


def test_ids_and_spellings_are_unique() -> None:
    every = [spelling.lower() for spec in MODELS for spelling in set(spellings(spec))]
    assert len({spec.id for spec in MODELS}) == len(MODELS) == 20
    assert len(every) == len(set(every))


def test_every_row_names_a_known_family() -> None:
    assert list(by_family()) == FAMILIES
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


def test_only_qwen_is_text_alone() -> None:
    alone = {spec.family for spec in MODELS if spec.modalities == ("text",)}
    assert alone == {"QwenText"}


def test_mobileclip_takes_its_tokenizer_from_clip_and_keeps_b_and_blt_apart() -> None:
    rows = [spec for spec in MODELS if spec.family == "MobileCLIP"]
    assert {spec.tokenizer_repo for spec in rows} == {"openai/clip-vit-base-patch16"}
    assert resolve("mobileclip_b").repos != resolve("mobileclip_blt").repos


def test_weights_under_a_special_licence_say_so() -> None:
    assert {spec.licence for spec in MODELS if spec.family == "MobileCLIP"} == {"apple-amlr"}


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(UnknownModel, match=r"clip-vit-b-99.*CLIP/clip-vit-b-32"):
        resolve("clip-vit-b-99")


@given(st.text())
def test_any_other_text_is_refused_and_never_crashes(name: str) -> None:
    known = {spelling.lower() for spec in MODELS for spelling in spellings(spec)}
    if name.strip().lower() not in known:
        with pytest.raises(UnknownModel):
            resolve(name)
