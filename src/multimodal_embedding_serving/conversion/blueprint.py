"""A model as its checkpoint describes it: opened and planned, nothing emitted yet.

A blueprint is what a conversion starts from, and what the torch backend runs as it is.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import exp
from typing import Any

from multimodal_embedding_serving.checkpoints.adapter import merge_adapter
from multimodal_embedding_serving.checkpoints.description import describe_checkpoint
from multimodal_embedding_serving.checkpoints.hub import (
    CheckpointFiles,
    find_checkpoint,
    find_source,
    find_tokenizer,
    read_config,
)
from multimodal_embedding_serving.checkpoints.keys import drop_accepted
from multimodal_embedding_serving.checkpoints.pixel_settings import PREPROCESSOR, PROCESSOR
from multimodal_embedding_serving.checkpoints.selection import SENTENCEPIECE, TOKENIZER_SETTINGS
from multimodal_embedding_serving.checkpoints.shards import read_weights
from multimodal_embedding_serving.checkpoints.sources import HubAccess
from multimodal_embedding_serving.checkpoints.token_settings import (
    apply_options,
    read_token_settings,
)
from multimodal_embedding_serving.checkpoints.tokenizers import (
    clip_bpe_from_vocab,
    wordpiece_from_vocab,
)
from multimodal_embedding_serving.checkpoints.weights import Weights
from multimodal_embedding_serving.conversion.resolve import ResolvedModel
from multimodal_embedding_serving.errors import CheckpointError, RemoteFailed
from multimodal_embedding_serving.families import TowerSpec, find_family
from multimodal_embedding_serving.families.recognition import (
    UnrecognizedCheckpoint,
    recognize_checkpoint,
    require_known,
)
from multimodal_embedding_serving.transforms.text import read_tokenizer_file
from multimodal_embedding_serving.transforms.tokenizer_check import check_tokenizer
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
    first: UnrecognizedCheckpoint | None = None
    candidate = 0
    while True:
        files = fetch(resolved, progress, access, candidate)
        try:
            return _read_candidate(resolved, files, progress, access)
        except UnrecognizedCheckpoint as error:
            # A folder may hold several checkpoints: the first that is recognized is taken.
            first = first or error
            candidate += 1
            if candidate >= files.candidates:
                raise CheckpointError(first.message) from None
            log.info("%s; trying the next checkpoint beside it", error.message)


def _read_candidate(
    resolved: ResolvedModel,
    files: CheckpointFiles,
    progress: Progress,
    access: HubAccess | None,
) -> Blueprint:
    spec = resolved.spec
    progress("reading the checkpoint", 0.0)
    weights = read_weights(files.weights)
    documents, accepted = drop_accepted(files.documents, resolved.accept_keys)
    config = documents.get(files.config_name) if files.config_name else None
    require_known(weights, config)
    weights = merge_adapter(weights, files, documents)
    documents = _complete(documents, files, resolved, progress, access)
    tokens = read_token_settings(documents)
    tokenizer = apply_options(read_tokenizer(files, resolved, progress, access), tokens)
    description = describe_checkpoint(files, documents, tokens, tokenizer)
    name, checkpoint = recognize_checkpoint(weights, config, spec, description)
    family = find_family(name)
    plans = family.plan(checkpoint)
    if accepted:  # part of the fingerprint
        extra = {"accepted": list(accepted)}
        plans = [replace(plan, transform={**plan.transform, **extra}) for plan in plans]
    return Blueprint(
        model=resolved.model,
        family=name,
        plans=plans,
        tokenizer=tokenizer,
        source=_describe_source(files, accepted),
        licence=spec.license if spec else "",
        extras=_scalars(weights),
        numbers=sum(tensor.data.size for tensor in weights.values()),
        default_precision=spec.precision if spec else family.precision,
        min_dimension=family.min_dimension,
    )


def _describe_source(files: CheckpointFiles, accepted: Sequence[str]) -> Mapping[str, Any]:
    source = {"repo": files.repo, "revision": files.revision, "layout": files.layout}
    sizes = {path.name: path.stat().st_size for path in files.weights}
    return {**source, "files": sizes, **({"accepted_keys": list(accepted)} if accepted else {})}


def fetch(
    resolved: ResolvedModel,
    progress: Progress,
    access: HubAccess | None = None,
    candidate: int = 0,
) -> CheckpointFiles:
    """The checkpoint's files, from the first source that has them.

    Raises CheckpointError or RemoteFailed, saying what was wrong with each source.
    """
    refusals: list[CheckpointError | RemoteFailed] = []
    for source in resolved.sources:
        try:
            return find_checkpoint(source, candidate=candidate, progress=progress, access=access)
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
    """The text of tokenizer.json: the source's own, built from its vocabulary, or the row's.

    Raises CheckpointError where it has no bound on time or memory.
    """
    paths, repo = files.tokenizer, _other_tokenizer(files, resolved)
    if repo is not None:
        paths = find_tokenizer(repo, progress=progress, access=access)
    if not paths:
        raise CheckpointError(_explain_no_tokenizer(files, resolved))
    if "tokenizer.json" in paths:
        text = read_tokenizer_file(paths["tokenizer.json"], CheckpointError)
    elif "vocab.txt" in paths:
        text = str(wordpiece_from_vocab(paths["vocab.txt"]).to_str())
    else:
        text = str(clip_bpe_from_vocab(paths["vocab.json"], paths["merges.txt"]).to_str())
    check_tokenizer(text, CheckpointError)
    return text


def _other_tokenizer(files: CheckpointFiles, resolved: ResolvedModel) -> str | None:
    """The repository of a tokenizer that is not the checkpoint's own."""
    if resolved.tokenizer is not None:
        return resolved.tokenizer
    return resolved.spec.tokenizer_repo if resolved.spec and not files.tokenizer else None


def _complete(
    documents: Mapping[str, Mapping[str, Any]],
    files: CheckpointFiles,
    resolved: ResolvedModel,
    progress: Progress,
    access: HubAccess | None,
) -> Mapping[str, Mapping[str, Any]]:
    """The JSON files with those that come from another repository: a tokenizer's settings with its
    tokenizer, an image processor where the row names a repository for it."""
    complete = dict(documents)
    repo = _other_tokenizer(files, resolved)
    if repo is not None:
        paths = find_tokenizer(repo, progress=progress, access=access)
        for name in TOKENIZER_SETTINGS:
            complete.pop(name, None)
            if name in paths:
                complete[name] = read_config(paths[name])
    row = resolved.spec
    if row and row.processor_repo and not {PREPROCESSOR, PROCESSOR} & set(documents):
        source = find_source(row.processor_repo, access=access)
        names = [name for name in (PREPROCESSOR, PROCESSOR) if name in source.names]
        paths = source.fetch(names, progress)
        complete |= {name: read_config(paths[name]) for name in names}
    return complete


def _explain_no_tokenizer(files: CheckpointFiles, resolved: ResolvedModel) -> str:
    message = f"{resolved.model}: there is no tokenizer next to the weights"
    for name in files.names:
        if name.rpartition("/")[2] in SENTENCEPIECE:
            return (
                f"{message}: {name} is SentencePiece's own format, and tokenizer.json is needed; "
                "make it once with transformers: AutoTokenizer.from_pretrained(FOLDER)"
                ".save_pretrained(FOLDER)"
            )
    return f"{message}; add tokenizer.json, or name a repository: hf:org/name?tokenizer=org/name"


def _scalars(weights: Weights) -> dict[str, float]:
    """The similarity's learned scalars, whatever prefix a training run gave their names."""
    scalars = {}
    for name in weights:
        kind = name.rpartition(".")[2]
        if kind in ("logit_scale", "logit_bias") and weights[name].data.size == 1:
            value = float(weights[name].float32().reshape(-1)[0])
            scalars[kind] = exp(value) if kind == "logit_scale" else value
    return scalars
