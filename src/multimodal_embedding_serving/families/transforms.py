"""What comes before a tower: the family's rule, as the checkpoint's files change it."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any

from multimodal_embedding_serving.checkpoints.keys import unsupported
from multimodal_embedding_serving.checkpoints.modules import (
    MODULES,
    SENTENCE_BERT,
    SENTENCE_TRANSFORMERS,
)
from multimodal_embedding_serving.checkpoints.token_settings import TOKENIZER_CONFIG
from multimodal_embedding_serving.errors import CheckpointError
from multimodal_embedding_serving.families import Checkpoint

log = logging.getLogger(__name__)

_INSTRUCTION = re.compile(r"Instruct: (?P<task>[^\n]+)(?P<rest>\nQuery: ?)")
"""A query's prompt in the form that Qwen3-Embedding and E5 have: the task may be replaced."""


def image_transform(
    checkpoint: Checkpoint, side: int, patches: int, *, resize: str, resample: str
) -> dict[str, Any]:
    """`side` is the tower's, in pixels. Raises CheckpointError where the files say another."""
    pixels = checkpoint.description.pixels
    if pixels.size not in (None, side):
        reason = f"differs from the image tower's {side}"
        raise unsupported(pixels.file, "size", pixels.size, reason)
    return {
        "size": side,
        "resize": pixels.resize or resize,
        "resample": pixels.resample or resample,
        "patches": patches,
    }


def pixel_scale(
    checkpoint: Checkpoint, mean: Sequence[float], std: Sequence[float]
) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and standard deviation of values in 0..1."""
    pixels, config = checkpoint.description.pixels, checkpoint.config
    return (
        config.get("image_mean", mean) if pixels.mean is None else pixels.mean,
        config.get("image_std", std) if pixels.std is None else pixels.std,
    )


def end_token(checkpoint: Checkpoint, default: int) -> int:
    """The id at which a text ends and is pooled: the one that the tokenizer appends.

    Raises CheckpointError where it appends none.
    """
    facts = checkpoint.description.tokenizer
    if not facts.entries:  # no tokenizer was read
        return default
    if facts.end is None:
        raise CheckpointError(
            "tokenizer.json appends no end token, at which this model pools; save the tokenizer "
            "again with a post-processor that appends it"
        )
    return facts.end


def text_transform(checkpoint: Checkpoint, base: Mapping[str, Any], entries: int) -> dict[str, Any]:
    """`base` is the family's rule, `entries` the rows of the table of tokens.

    Raises CheckpointError for what the files ask and no text tower does.
    """
    description = checkpoint.description
    facts, tokens = description.tokenizer, description.tokens
    spec = dict(base)
    if facts.entries and facts.end is None:
        spec["eos_kept"] = False
    _check_entries(checkpoint, spec["pad_id"], entries)
    if facts.entries > entries:
        log.warning(
            "tokenizer.json has ids up to %d, the table of tokens %d rows: texts with a token "
            "beyond it are rejected", facts.entries - 1, entries,
        )  # fmt: skip
        spec["entries"] = entries
    if tokens.clean:
        spec["clean"] = tokens.clean
    return spec | _limits(checkpoint, spec) | _prompts(checkpoint, spec)


def reject_modules(checkpoint: Checkpoint) -> None:
    """For towers whose pooling is fixed. Raises CheckpointError naming the module."""
    modules = checkpoint.description.modules
    if modules.dense:
        path = modules.dense[0].path
        raise CheckpointError(f"{MODULES}: {path} (Dense) is not supported after this model")
    if modules.pooling is not None:
        raise CheckpointError(f"{MODULES}: Pooling is not supported after this model")


def _check_entries(checkpoint: Checkpoint, pad: int, entries: int) -> None:
    facts = checkpoint.description.tokenizer
    for number in (pad, *facts.special):
        if number >= entries:
            token = facts.names.get(number, "?")
            raise CheckpointError(
                f"tokenizer.json: the special token {token!r} has the id {number}, but the table "
                f"of tokens has {entries} rows; use the tokenizer that the model was trained with"
            )


def _limits(checkpoint: Checkpoint, spec: Mapping[str, Any]) -> dict[str, Any]:
    description = checkpoint.description
    limits = (
        (SENTENCE_BERT, "max_seq_length", description.modules.max_length),
        (TOKENIZER_CONFIG, "model_max_length", description.tokens.max_length),
    )
    file, key, limit = next((each for each in limits if each[2] is not None), limits[-1])
    if limit is None or limit >= spec["max_length"]:
        return {}
    if spec.get("fixed_length"):
        raise unsupported(file, key, limit, f"is less than {spec['max_length']}")
    return {"default_length": limit}


def _prompts(checkpoint: Checkpoint, base: Mapping[str, Any]) -> dict[str, Any]:
    """The prompts of the checkpoint's own file. Without the file, a row of the catalog has those of
    its family, any other checkpoint none."""
    row, prompts = checkpoint.spec, checkpoint.description.modules.prompts
    if prompts is None and (row or "prompts" not in base):
        return {}
    own = _read_prompts(prompts or {})
    if _wrapped(own) == _wrapped(base) and (row or "prompts" not in base):
        return {}  # said in other words: the fingerprint stays the same
    if row:
        log.warning("%s: its prompts replace those of %s", SENTENCE_TRANSFORMERS, row.id)
    return own


def _read_prompts(prompts: Mapping[str, str]) -> dict[str, Any]:
    spec: dict[str, Any] = {"prompts": {}, "default_instruction": None}
    for role, prompt in prompts.items():
        if (match := _INSTRUCTION.fullmatch(prompt)) and role == "query":
            spec["default_instruction"] = match["task"]
            spec["prompts"][role] = f"Instruct: {{instruction}}{match['rest']}{{text}}"
        else:
            escaped = prompt.replace("{", "{{").replace("}", "}}")
            spec["prompts"][role] = f"{escaped}{{text}}"
    return spec


def _wrapped(spec: Mapping[str, Any]) -> dict[str, tuple[str, bool]]:
    """What prompts make of a text, by role, and whether a request may replace the instruction."""
    instruction, texts = spec.get("default_instruction"), {}
    for role, prompt in spec.get("prompts", {}).items():
        filled = prompt.format(text="\0", instruction=instruction)
        if filled != "\0":
            texts[role] = (filled, "{instruction}" in prompt)
    return texts
