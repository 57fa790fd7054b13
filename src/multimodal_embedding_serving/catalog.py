"""The models: one row each, data only. A new model is a new row, and nothing else.

A row holds what its checkpoint's own files may leave unsaid. Source: the model cards of the named repositories.
`make docs` writes the rows to docs/models.md and setup.sh; `resolve()` turns any accepted spelling into a row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from multimodal_embedding_serving.errors import UnknownModel

if TYPE_CHECKING:
    from multimodal_embedding_serving.types import Modality

DEFAULT_MODEL = "Builtin/mini"
CLIP_TOKENIZER = "openai/clip-vit-base-patch16"


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One model of the catalog."""

    family: str
    name: str
    repos: tuple[str, ...]
    """Hugging Face repositories that hold the checkpoint, the preferred one first."""
    architecture: str
    """The field's name of the network, as OpenCLIP or the paper spells it."""
    image_size: int | None
    """Side of the square image that the image tower takes, in pixels; None: text only."""
    dimension: int
    text_length: int
    """Longest text, in tokens, special tokens included."""
    licence: str
    aliases: tuple[str, ...] = ()
    precision: str = "f16"
    """How weights are stored by default: f16 (compressed), int8-weights."""
    tokenizer_repo: str | None = None
    """Where the tokenizer is when the checkpoint's repository has none."""
    processor_repo: str | None = None
    """Where the image processor's file is when the checkpoint's repository has none."""
    measured: bool = True
    """Whether docs/real_sizes.json and docs/parity.md must hold its figures. False for a new row: converting a
    checkpoint of true size and comparing it with its upstream library takes hours, and can follow later."""

    @property
    def id(self) -> str:
        return f"{self.family}/{self.name}"

    @property
    def modalities(self) -> tuple[Modality, ...]:
        return ("text",) if self.image_size is None else ("image", "text")


# fmt: off
def _clip(name: str, repo: str, architecture: str, dimension: int, *, measured: bool = True) -> ModelSpec:
    return ModelSpec("CLIP", name, (repo,), architecture, 224, dimension, 77, "mit", measured=measured)


def _cn_clip(name: str, repo: str, architecture: str, dimension: int, *, measured: bool = True) -> ModelSpec:
    return ModelSpec("CN-CLIP", name, (repo,), architecture, 224, dimension, 52, "apache-2.0", measured=measured)


def _mobileclip(name: str, repo: str, architecture: str, pixels: int, *, measured: bool = True) -> ModelSpec:
    repos = (repo,) if architecture == "MobileCLIP-S0" else (repo, f"{repo}-OpenCLIP")
    return ModelSpec(
        "MobileCLIP", name, repos, architecture, pixels, 512, 77, "apple-amlr",
        tokenizer_repo=CLIP_TOKENIZER, measured=measured,
    )


def _siglip(
    name: str, repo: str, architecture: str, pixels: int, dimension: int, *, base: str | None = None, measured: bool = True
) -> ModelSpec:
    """`base` is the repository of the model that was tuned, for the files that its own lacks."""
    return ModelSpec(
        "SigLIP", name, (repo,), architecture, pixels, dimension, 64, "apache-2.0",
        tokenizer_repo=base, processor_repo=base, measured=measured,
    )


def _qwen(name: str, repo: str, dimension: int, *, measured: bool = True) -> ModelSpec:
    return ModelSpec(
        "QwenText", name, (repo,), repo.rpartition("/")[2], None, dimension, 32768, "apache-2.0",
        precision="int8-weights", measured=measured,
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


def spellings(spec: ModelSpec) -> tuple[str, ...]:
    """Every name that means this row: `Family/name`, the bare name, the aliases with and without family, the repos."""
    names = (spec.name, *spec.aliases)
    return (*(f"{spec.family}/{name}" for name in names), *names, *spec.repos)


def resolve(name: str) -> ModelSpec:
    """The row that `name` means, in any accepted spelling, whatever its case.

    Raises UnknownModel, which lists the ids.
    """
    spelling = name.strip().lower()
    for spec in MODELS:
        if spelling in {each.lower() for each in spellings(spec)}:
            return spec
    known = ", ".join(spec.id for spec in MODELS)
    raise UnknownModel(f"no model is named {name!r}; known: {known}")


def by_family() -> dict[str, list[str]]:
    """Family -> names of its models, in catalog order."""
    families: dict[str, list[str]] = {}
    for spec in MODELS:
        families.setdefault(spec.family, []).append(spec.name)
    return families
