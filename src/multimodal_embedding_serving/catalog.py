"""The models: one row of data each. A new model is a new row, and nothing else.

A row holds what the checkpoint's own files may not say. Source: the model cards of the listed repositories.
`make docs` writes the rows to docs/models.md and setup.sh; `resolve()` maps every accepted spelling to its row.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import TYPE_CHECKING

from multimodal_embedding_serving.errors import UnknownModel

if TYPE_CHECKING:
    from multimodal_embedding_serving.types import Modality

DEFAULT_MODEL = "Builtin/mini"
CLIP_TOKENIZER = "openai/clip-vit-base-patch16"
MIN_SIMILARITY, MIN_SIMILARITY_OF_FAMILY = 0.6, 0.35
"""How much a spelling must resemble an unknown name to be suggested for it (difflib's ratio; 0.6 is its own
default). Less is enough where both begin with the same word: clip-x has 0.53 in common with clip-vit-b-32."""


@dataclass(frozen=True, slots=True)
class Size:
    """What a model takes in its default precision, in MB (10^6 bytes)."""

    download: int
    """The checkpoint."""
    disk: int
    """The converted model."""
    memory: int
    """Private memory of a process that has loaded it and embeds single items."""


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One model of the catalog."""

    family: str
    name: str
    repos: tuple[str, ...]
    """Hugging Face repositories that hold the checkpoint, in order of preference."""
    architecture: str
    """Name of the network, as OpenCLIP or the paper spells it."""
    image_size: int | None
    """Side of the image tower's square input, in pixels; None: the model embeds text only."""
    dimension: int
    text_length: int
    """Maximum length of a text, in tokens, including special tokens."""
    license: str
    aliases: tuple[str, ...] = ()
    languages: str = "English"
    """Of the texts that the model was trained on, by its model card."""
    precision: str = "f16"
    """How the weights are stored by default: f16 (compressed) or int8-weights."""
    tokenizer_repo: str | None = None
    """Repository of the tokenizer, if the checkpoint's own repository has none."""
    processor_repo: str | None = None
    """Repository of the image processor's file, if the checkpoint's own repository has none."""
    measured: bool = True
    """Whether docs/real_sizes.json and docs/parity.md must have figures for it. False for a new row: converting the
    full-size checkpoint and comparing it with its upstream library takes hours and can follow later."""

    @property
    def id(self) -> str:
        return f"{self.family}/{self.name}"

    @property
    def size(self) -> Size | None:
        """None if it has not been measured."""
        return SIZES.get(self.id)

    @property
    def modalities(self) -> tuple[Modality, ...]:
        return ("text",) if self.image_size is None else ("image", "text")


# fmt: off
def _clip(name: str, repo: str, architecture: str, dimension: int, *, measured: bool = True) -> ModelSpec:
    return ModelSpec("CLIP", name, (repo,), architecture, 224, dimension, 77, "mit", measured=measured)


def _cn_clip(name: str, repo: str, architecture: str, dimension: int, *, measured: bool = True) -> ModelSpec:
    return ModelSpec("CN-CLIP", name, (repo,), architecture, 224, dimension, 52, "apache-2.0", languages="Chinese", measured=measured)


def _mobileclip(name: str, repo: str, architecture: str, pixels: int, *, measured: bool = True) -> ModelSpec:
    repos = (repo,) if architecture == "MobileCLIP-S0" else (repo, f"{repo}-OpenCLIP")
    return ModelSpec(
        "MobileCLIP", name, repos, architecture, pixels, 512, 77, "apple-amlr",
        tokenizer_repo=CLIP_TOKENIZER, measured=measured,
    )


def _siglip(
    name: str, repo: str, architecture: str, pixels: int, dimension: int, *, base: str | None = None, measured: bool = True
) -> ModelSpec:
    """`base` is the repository of the model that was tuned, in English, for the files that its own lacks."""
    return ModelSpec(
        "SigLIP", name, (repo,), architecture, pixels, dimension, 64, "apache-2.0",
        languages="English" if base else "multilingual", tokenizer_repo=base, processor_repo=base, measured=measured,
    )


def _qwen(name: str, repo: str, dimension: int, *, measured: bool = True) -> ModelSpec:
    return ModelSpec(
        "QwenText", name, (repo,), repo.rpartition("/")[2], None, dimension, 32768, "apache-2.0",
        languages="multilingual", precision="int8-weights", measured=measured,
    )


MODELS: tuple[ModelSpec, ...] = (
    ModelSpec("Builtin", "mini", (), "all-MiniLM-L6-v2 + EfficientNet-Lite2 (ConSE)", 260, 384, 256, "apache-2.0", precision="int8-weights"),
    _clip("clip-vit-b-32", "laion/CLIP-ViT-B-32-laion2B-s34B-b79K", "ViT-B-32", 512),
    _clip("clip-vit-b-16", "openai/clip-vit-base-patch16", "ViT-B-16-quickgelu", 512),
    _clip("clip-vit-l-14", "laion/CLIP-ViT-L-14-DataComp.XL-s13B-b90K", "ViT-L-14", 768),
    _clip("clip-vit-h-14", "laion/CLIP-ViT-H-14-laion2B-s32B-b79K", "ViT-H-14", 1024),
    _cn_clip("cn-clip-vit-b-16", "OFA-Sys/chinese-clip-vit-base-patch16", "ViT-B-16", 512),
    _cn_clip("cn-clip-vit-l-14", "OFA-Sys/chinese-clip-vit-large-patch14", "ViT-L-14", 768),
    _cn_clip("cn-clip-vit-h-14", "OFA-Sys/chinese-clip-vit-huge-patch14", "ViT-H-14", 1024),
    _mobileclip("mobileclip_s0", "apple/MobileCLIP-S0", "MobileCLIP-S0", 256),
    _mobileclip("mobileclip_s1", "apple/MobileCLIP-S1", "MobileCLIP-S1", 256),
    _mobileclip("mobileclip_s2", "apple/MobileCLIP-S2", "MobileCLIP-S2", 256),
    _mobileclip("mobileclip_b", "apple/MobileCLIP-B", "MobileCLIP-B", 224),
    _mobileclip("mobileclip_blt", "apple/MobileCLIP-B-LT", "MobileCLIP-B", 224),
    _siglip("siglip2-vit-b-16", "google/siglip2-base-patch16-224", "ViT-B-16-SigLIP2", 224, 768),
    _siglip("siglip2-vit-l-16", "google/siglip2-large-patch16-256", "ViT-L-16-SigLIP2-256", 256, 1024),
    _siglip("siglip2-so400m-patch16-384", "google/siglip2-so400m-patch16-384", "ViT-SO400M-16-SigLIP2-384", 384, 1152),
    _siglip(
        "siglip2-person-description-reid", "MarketaJu/siglip2-person-description-reid", "ViT-B-16-SigLIP2", 224, 768,
        base="google/siglip2-base-patch16-224", measured=False,
    ),
    ModelSpec("Blip2", "blip2_transformers", ("Salesforce/blip2-itm-vit-g",), "BLIP-2 ViT-g Q-Former", 224, 256, 512, "mit", aliases=("blip2",)),
    _qwen("qwen3-embedding-0.6b", "Qwen/Qwen3-Embedding-0.6B", 1024),
    _qwen("qwen3-embedding-4b", "Qwen/Qwen3-Embedding-4B", 2560),
    _qwen("qwen3-embedding-8b", "Qwen/Qwen3-Embedding-8B", 4096),
)
# fmt: on

# `make docs` writes the sizes from docs/real_sizes.json, which benchmarks/real_sizes.py measures.
# generated by scripts/generate_docs.py
SIZES: dict[str, Size] = {
    "Builtin/mini": Size(0, 26, 204),
    "CLIP/clip-vit-b-32": Size(606, 305, 824),
    "CLIP/clip-vit-b-16": Size(600, 302, 855),
    "CLIP/clip-vit-l-14": Size(1712, 858, 2089),
    "CLIP/clip-vit-h-14": Size(3946, 1975, 4419),
    "CN-CLIP/cn-clip-vit-b-16": Size(753, 378, 825),
    "CN-CLIP/cn-clip-vit-l-14": Size(1625, 814, 1738),
    "CN-CLIP/cn-clip-vit-h-14": Size(3831, 1918, 3995),
    "MobileCLIP/mobileclip_s0": Size(217, 110, 360),
    "MobileCLIP/mobileclip_s1": Size(342, 172, 522),
    "MobileCLIP/mobileclip_s2": Size(399, 201, 633),
    "MobileCLIP/mobileclip_b": Size(601, 302, 867),
    "MobileCLIP/mobileclip_blt": Size(601, 302, 866),
    "SigLIP/siglip2-vit-b-16": Size(1501, 751, 838),
    "SigLIP/siglip2-vit-l-16": Size(3526, 1765, 2662),
    "SigLIP/siglip2-so400m-patch16-384": Size(4544, 2274, 3584),
    "Blip2/blip2_transformers": Size(4689, 2404, 4958),
    "QwenText/qwen3-embedding-0.6b": Size(1196, 605, 647),
    "QwenText/qwen3-embedding-4b": Size(8048, 4036, 3917),
    "QwenText/qwen3-embedding-8b": Size(15140, 7583, 7242),
}
# end


def spellings(spec: ModelSpec) -> tuple[str, ...]:
    """Every name of this row: `Family/name`, the bare name, the aliases with and without family, the repositories."""
    names = (spec.name, *spec.aliases)
    return (*(f"{spec.family}/{name}" for name in names), *names, *spec.repos)


def resolve(name: str) -> ModelSpec:
    """Return the row that `name` refers to, in any accepted spelling and in any case.

    Raises UnknownModel, which suggests the nearest id.
    """
    spelling = name.strip().lower()
    for spec in MODELS:
        if spelling in {each.lower() for each in spellings(spec)}:
            return spec
    nearest = _nearest(spelling)
    suggestion = f". Did you mean {nearest.id}?" if nearest else "."
    raise UnknownModel(f"unknown model {name!r}{suggestion} Run `mmes models` for the list")


def _nearest(spelling: str) -> ModelSpec | None:
    """The row whose spelling resembles this one most; None if none does enough."""
    rows = {each.lower(): spec for spec in MODELS for each in spellings(spec)}
    head = re.split(r"[-_/]", spelling)[0]
    family = [each for each in rows if head and each.startswith(head)]
    ratios = {each: SequenceMatcher(None, each, spelling[:80]).ratio() for each in family or rows}
    nearest = max(ratios, key=ratios.__getitem__)
    cutoff = MIN_SIMILARITY_OF_FAMILY if family else MIN_SIMILARITY
    return rows[nearest] if ratios[nearest] >= cutoff else None


def by_family() -> dict[str, list[str]]:
    """Map each family to the names of its models, in catalog order."""
    families: dict[str, list[str]] = {}
    for spec in MODELS:
        families.setdefault(spec.family, []).append(spec.name)
    return families
