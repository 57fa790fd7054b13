"""The forms of checkpoints that are tried: a row each in docs/models.md, "Tested checkpoints".

The layouts of the catalog's rows are added from the tests of parity.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

PAGE = Path(__file__).parent.parent.parent / "docs" / "models.md"
BEGIN = "<!-- measured by scripts/tested_table.py -->\n"

Outcome = float | str
"""The least cosine to the upstream library, or the message of the error."""

Tested = Callable[[str, Outcome], None]
"""(form, outcome)"""

Outcomes = dict[str, Outcome]
OUTCOMES = pytest.StashKey[Outcomes]()


@dataclass(frozen=True)
class Form:
    family: str
    against: str | None
    """The upstream library; None where the checkpoint or the text is rejected."""


UPSTREAM = {
    "CLIP": (
        "squashed without a crop (`preprocessor_config.json`)",
        "resized bilinearly (`preprocessor_config.json`)",
        "pixels not normalized (`preprocessor_config.json`)",
        "mean and deviation in `processor_config.json` (transformers 5)",
        "end token 2 and a larger vocabulary",
        "sentence-transformers, in the folder `0_CLIPModel`",
        "a foreign `model.safetensors` beside it",
        "OpenCLIP, `resize_mode: squash`",
        "OpenCLIP's g/14",
    ),
    "CN-CLIP": ("Chinese-CLIP at 336 pixels",),
    "SigLIP": (
        "SigLIP2 at another resolution",
        "SigLIP2 for persons seen again",
        "padded with `</s>` by its files",
        "padded with `<pad>` by its files",
        "no pad token named",
        "resized bilinearly, as SigLIP2's files say",
        "punctuation removed (`SiglipTokenizer`)",
        "a tokenizer larger than the table, other texts",
    ),
    "Blip2": ("BLIP-2 ITM at 364 pixels",),
    "QwenText": (
        "a Qwen3 that was trained on",
        "sentence-transformers, mean pooling",
        "sentence-transformers, first-token pooling",
        "sentence-transformers, a Dense layer",
        "sentence-transformers, prompts of its own",
        "no end token appended",
        "attention in both directions (`is_causal: false`)",
        "attention in both directions (`use_bidirectional_attention`)",
        "tokenizer from another repository (`?tokenizer=`)",
    ),
}
"""Compared with transformers."""

OTHERS = {
    "OpenCLIP, `custom_text`": Form("CLIP", "open_clip"),
    "fused `Wqkv` matrices of FlashAttention": Form("CN-CLIP", "cn_clip"),
    "a LoRA adapter": Form("QwenText", "peft"),
    "a LoRA adapter, `use_rslora`": Form("QwenText", "peft"),
}

REJECTED = {
    "CLIP": (
        "a short side larger than the crop",
        "integer weights",
        "a Git LFS pointer",
    ),
    "CN-CLIP": ("the ResNet-50 (`clip_cn_rn50.pt`)",),
    "SigLIP": (
        "a text with a token beyond the table",
        "a special token beyond the table",
        "a pad token that the tokenizer lacks",
        "fewer tokens than positions (`model_max_length`)",
    ),
    "QwenText": (
        "a key that nothing is known of",
        "a DoRA adapter",
        "an adapter without its model",
        "a SentencePiece tokenizer alone",
        "only a GGUF file",
        "only an exported OpenVINO model",
    ),
    "none": ("a ResNet of transformers",),
}

FORMS: dict[str, Form] = {
    **{name: Form(family, "transformers") for family, names in UPSTREAM.items() for name in names},
    **OTHERS,
    **{name: Form(family, None) for family, names in REJECTED.items() for name in names},
}


def cells_of_the_page() -> list[tuple[str, str, str, str]]:
    """(family, form, against, outcome) of each row of the page's table."""
    part = PAGE.read_text("utf-8").partition(BEGIN)[2].partition("<!-- end -->")[0]
    rows = re.findall(r"^\| (.+?) \| (.+?) \| (.*?) \| (.+?) \|$", part, re.MULTILINE)
    return rows[2:]
