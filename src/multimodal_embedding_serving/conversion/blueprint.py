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
from multimodal_embedding_serving.checkpoints.shards import open_weights
from multimodal_embedding_serving.checkpoints.sources import HubAccess
from multimodal_embedding_serving.checkpoints.tokenizers import (
    clip_bpe_from_vocab,
    wordpiece_from_vocab,
)
from multimodal_embedding_serving.checkpoints.weights import Weights
from multimodal_embedding_serving.conversion.resolve import ResolvedModel
from multimodal_embedding_serving.errors import CheckpointError, RemoteFailed
from multimodal_embedding_serving.families import TowerSpec
from multimodal_embedding_serving.families.recognition import open_checkpoint
from multimodal_embedding_serving.families.registry import find_family
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
    notice: str | None = None
    extras: Mapping[str, float] = field(default_factory=dict)
    """Learned scalars of the similarity, as the manifest holds them."""
    numbers: int = 0
    """How many the checkpoint's tensors hold."""


def read_blueprint(
    wanted: ResolvedModel, progress: Progress = ignore_progress, access: HubAccess | None = None
) -> Blueprint:
    """Download what is not here yet, and plan the towers; the licence is told first.

    Raises FamilyNotBuilt, CheckpointError, RemoteFailed.
    """
    spec = wanted.spec
    if spec is not None:
        find_family(spec.family)
        where = " or ".join(wanted.sources)
        log.info("%s comes under the licence %s: see %s", wanted.model, spec.licence, where)
    found = fetch(wanted, progress, access)
    progress("reading the checkpoint", 0.0)
    weights = open_weights(found.weights)
    family, checkpoint = open_checkpoint(weights, found.config, spec)
    return Blueprint(
        model=wanted.model,
        family=family,
        plans=find_family(family)(checkpoint),
        tokenizer=read_tokenizer(found, wanted, progress, access),
        source={"repo": found.repo, "revision": found.revision, "layout": found.layout}
        | {"files": {path.name: path.stat().st_size for path in found.weights}},
        licence=spec.licence if spec else "",
        extras=_scalars(weights),
        numbers=sum(tensor.data.size for tensor in weights.values()),
    )


def fetch(
    wanted: ResolvedModel, progress: Progress, access: HubAccess | None = None
) -> CheckpointFiles:
    """The checkpoint's files, from the first source that has them.

    Raises CheckpointError or RemoteFailed, saying what was wrong with each source.
    """
    refusals: list[CheckpointError | RemoteFailed] = []
    for source in wanted.sources:
        try:
            return find_checkpoint(source, progress=progress, access=access)
        except (CheckpointError, RemoteFailed) as error:
            log.warning("%s", error.message)
            refusals.append(error)
    raise type(refusals[-1])("; ".join(error.message for error in refusals))


def read_tokenizer(
    found: CheckpointFiles,
    wanted: ResolvedModel,
    progress: Progress = ignore_progress,
    access: HubAccess | None = None,
) -> str:
    """The text of tokenizer.json: the source's own, built from its vocabulary, or the row's."""
    paths = found.tokenizer
    if not paths:
        if wanted.spec is None or wanted.spec.tokenizer_repo is None:
            raise CheckpointError(f"{wanted.model}: there is no tokenizer beside the weights")
        repo = wanted.spec.tokenizer_repo
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
    found = {}
    for name in weights:
        kind = name.rpartition(".")[2]
        if kind in ("logit_scale", "logit_bias") and weights[name].data.size == 1:
            value = float(weights[name].float32().reshape(-1)[0])
            found[kind] = exp(value) if kind == "logit_scale" else value
    return found
