"""A model as its checkpoint describes it: opened and planned, nothing emitted yet.

A blueprint is what a conversion starts from, and what the torch backend runs as it is.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import exp
from typing import Any

from multimodal_embedding_serving.checkpoints.hub import (
    CheckpointFiles,
    find_checkpoint,
    find_tokenizer,
)
from multimodal_embedding_serving.checkpoints.shards import read_weights
from multimodal_embedding_serving.checkpoints.sources import HubAccess
from multimodal_embedding_serving.checkpoints.tokenizers import (
    clip_bpe_from_vocab,
    wordpiece_from_vocab,
)
from multimodal_embedding_serving.checkpoints.weights import Weights
from multimodal_embedding_serving.conversion.resolve import ResolvedModel
from multimodal_embedding_serving.errors import CheckpointError, RemoteFailed
from multimodal_embedding_serving.families import TowerSpec, find_family
from multimodal_embedding_serving.families.recognition import recognize_checkpoint
from multimodal_embedding_serving.types import Progress, ignore_progress

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Blueprint:
    """Everything that a model is made of, whatever runs it."""

    model: str
    family: str
    plans: Sequence[TowerSpec]
    tokenizer: str | None = None
    """The text of tokenizer.json."""
    source: Mapping[str, Any] = field(default_factory=dict)
    licence: str = ""
    extras: Mapping[str, float] = field(default_factory=dict)
    """Learned scalars of the similarity, as the manifest holds them."""
    numbers: int = 0
    """How many the checkpoint's tensors hold."""
    default_precision: str = "f16"
    """How weights are stored where the settings don't say."""
    min_dimension: int | None = None
    """The shortest vector that a request may ask for; None: only whole vectors."""


def read_blueprint(
    resolved: ResolvedModel, progress: Progress = ignore_progress, access: HubAccess | None = None
) -> Blueprint:
    """Download what is not here yet, and plan the towers; the licence is logged first.

    Raises FamilyNotBuilt, CheckpointError, RemoteFailed.
    """
    spec = resolved.spec
    if spec is not None:
        find_family(spec.family)
        where = " or ".join(resolved.sources)
        log.info("%s is licensed under %s: see %s", resolved.model, spec.license, where)
    files = fetch(resolved, progress, access)
    progress("reading the checkpoint", 0.0)
    weights = read_weights(files.weights)
    name, checkpoint = recognize_checkpoint(weights, files.config, spec)
    family = find_family(name)
    return Blueprint(
        model=resolved.model,
        family=name,
        plans=family.plan(checkpoint),
        tokenizer=read_tokenizer(files, resolved, progress, access),
        source={"repo": files.repo, "revision": files.revision, "layout": files.layout}
        | {"files": {path.name: path.stat().st_size for path in files.weights}},
        licence=spec.license if spec else "",
        extras=_scalars(weights),
        numbers=sum(tensor.data.size for tensor in weights.values()),
        default_precision=spec.precision if spec else family.precision,
        min_dimension=family.min_dimension,
    )


def fetch(
    resolved: ResolvedModel, progress: Progress, access: HubAccess | None = None
) -> CheckpointFiles:
    """The checkpoint's files, from the first source that has them.

    Raises CheckpointError or RemoteFailed, saying what was wrong with each source.
    """
    refusals: list[CheckpointError | RemoteFailed] = []
    for source in resolved.sources:
        try:
            return find_checkpoint(source, progress=progress, access=access)
        except (CheckpointError, RemoteFailed) as error:
            log.warning("%s", error.message)
            refusals.append(error)
    raise type(refusals[-1])("; ".join(error.message for error in refusals))


def read_tokenizer(
    files: CheckpointFiles,
    resolved: ResolvedModel,
    progress: Progress = ignore_progress,
    access: HubAccess | None = None,
) -> str:
    """The text of tokenizer.json: the source's own, built from its vocabulary, or the row's."""
    paths = files.tokenizer
    if not paths:
        if resolved.spec is None or resolved.spec.tokenizer_repo is None:
            raise CheckpointError(f"{resolved.model}: there is no tokenizer next to the weights")
        repo = resolved.spec.tokenizer_repo
        paths = find_tokenizer(repo, progress=progress, access=access)
    if "tokenizer.json" in paths:
        return paths["tokenizer.json"].read_text("utf-8")
    if "vocab.txt" in paths:
        built = wordpiece_from_vocab(paths["vocab.txt"])
    else:
        built = clip_bpe_from_vocab(paths["vocab.json"], paths["merges.txt"])
    return str(built.to_str())


def _scalars(weights: Weights) -> dict[str, float]:
    """The similarity's learned scalars, whatever prefix a training run gave their names."""
    scalars = {}
    for name in weights:
        kind = name.rpartition(".")[2]
        if kind in ("logit_scale", "logit_bias") and weights[name].data.size == 1:
            value = float(weights[name].float32().reshape(-1)[0])
            scalars[kind] = exp(value) if kind == "logit_scale" else value
    return scalars
