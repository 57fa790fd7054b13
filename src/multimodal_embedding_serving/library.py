"""The models folder: which bundle a name means, made first where there is none.

`<models>/<family>/<name>/<precision>` holds a catalog row's bundle,
`<models>/hub/<org>--<name>/…` and `<models>/local/<folder>-<hash>/…` those of other checkpoints.
A bundle that is there is served as it is: no network is touched. One process converts, others
that want the same bundle wait for it.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

from multimodal_embedding_serving.bundle import MANIFEST, TEMPORARY, Bundle, locked
from multimodal_embedding_serving.catalog import ModelSpec, resolve
from multimodal_embedding_serving.certificate import certify
from multimodal_embedding_serving.checkpoints.hub import (
    HUB_PREFIX,
    CheckpointFiles,
    find_checkpoint,
    find_tokenizer,
)
from multimodal_embedding_serving.checkpoints.shards import open_weights
from multimodal_embedding_serving.checkpoints.tokenizers import (
    clip_bpe_from_vocab,
    wordpiece_from_vocab,
)
from multimodal_embedding_serving.convert import (
    Conversion,
    Stage,
    build_bundle,
    ignore_stage,
    require_space,
)
from multimodal_embedding_serving.errors import BundleError, CheckpointError, UnknownModel
from multimodal_embedding_serving.families import find_family
from multimodal_embedding_serving.families.recognition import open_checkpoint
from multimodal_embedding_serving.settings import Settings

log = logging.getLogger(__name__)

PACKAGE = "multimodal_embedding_serving"
STORED = {"f32": "f32", "int8-weights": "int8-weights", "int4-weights": "int4-weights"}
"""EMBEDDING_PRECISION -> how weights are stored; all else takes the row's own form."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a model's name means: a row, a repository or a folder, and where its bundle belongs."""

    spec: ModelSpec | None
    source: str
    """What `find_checkpoint` takes."""
    model: str
    """What the model is called afterwards."""
    shelf: Path
    """The folder of its bundles, one for each stored precision."""


def look_up(settings: Settings) -> Wanted:
    """What EMBEDDING_MODEL_NAME means. Raises UnknownModel."""
    name, models = settings.model, settings.models_dir
    folder = Path(name).expanduser()
    if name.startswith(HUB_PREFIX):
        repo = name.removeprefix(HUB_PREFIX)
        return Wanted(None, name, repo, models / "hub" / repo.replace("/", "--"))
    if folder.is_dir() and (folder.is_absolute() or "/" in name or name.startswith(".")):
        place = folder.resolve()
        mark = hashlib.sha256(str(place).encode()).hexdigest()[:8]
        return Wanted(None, str(place), place.name, models / "local" / f"{place.name}-{mark}")
    try:
        spec = resolve(name)
    except UnknownModel as error:
        raise UnknownModel(f"{error.message}, hf:org/name, or a folder") from None
    source = spec.repos[0] if spec.repos else ""
    return Wanted(spec, source, spec.id, models / spec.family / spec.name)


def stored_precision(settings: Settings, default: str) -> str:
    return STORED.get(settings.precision, default)


def open_bundle(settings: Settings, stage: Stage = ignore_stage) -> Bundle:
    """The bundle of the model that the settings name, converted first where that was not done.

    Raises UnknownModel, FamilyNotBuilt, CheckpointError, RemoteFailed, BundleError.
    """
    given = Path(settings.model).expanduser()
    if (given / MANIFEST).is_file():
        return Bundle.open(given)
    wanted = look_up(settings)
    if wanted.spec is not None:
        if wanted.spec.family == "Builtin":
            return Bundle.open(Path(str(files(PACKAGE).joinpath("builtin", wanted.spec.name))))
        find_family(wanted.spec.family)
    for precision in _acceptable(settings, wanted.spec):
        if (wanted.shelf / precision / MANIFEST).is_file():
            return Bundle.open(wanted.shelf / precision)
    with locked(wanted.shelf / "conversion"):
        for precision in _acceptable(settings, wanted.spec):
            if (wanted.shelf / precision / MANIFEST).is_file():
                return Bundle.open(wanted.shelf / precision)
        return convert(wanted, settings, stage)


def convert(wanted: Wanted, settings: Settings, stage: Stage = ignore_stage) -> Bundle:
    """Download, convert and certify, whatever is there already; the caller holds the lock."""
    spec = wanted.spec
    if spec is not None:
        log.info("%s comes under the licence %s", spec.id, spec.licence)
    found = fetch(wanted, stage)
    weights = open_weights(found.weights)
    family, checkpoint = open_checkpoint(weights, found.config, spec)
    plans = find_family(family)(checkpoint)
    default = spec.precision if spec else ("int8-weights" if family == "QwenText" else "f16")
    precision = stored_precision(settings, default)
    require_space(weights, precision, wanted.shelf)
    conversion = Conversion(
        model=wanted.model,
        family=family,
        precision=precision,
        plans=plans,
        tokenizer=read_tokenizer(found, spec, family),
        source={"repo": found.repo, "revision": found.revision, "layout": found.layout}
        | {"files": {path.name: path.stat().st_size for path in found.weights}},
        licence=spec.licence if spec else "",
        extras=_scalars(weights),
    )
    return build_bundle(
        conversion, wanted.shelf / precision, partial(certify, settings=settings), stage
    )


def fetch(wanted: Wanted, stage: Stage) -> CheckpointFiles:
    """The checkpoint's files, from the first of the row's repositories that has them."""

    def tell(what: str, done: int, total: int) -> None:
        stage(what, done / total if total else 1.0)

    sources = wanted.spec.repos if wanted.spec else (wanted.source,)
    for source in sources[:-1]:
        try:
            return find_checkpoint(source, progress=tell)
        except CheckpointError as error:
            log.warning("%s; trying the next repository", error.message)
    return find_checkpoint(sources[-1], progress=tell)


def read_tokenizer(found: CheckpointFiles, spec: ModelSpec | None, family: str) -> str:
    """The text of tokenizer.json: the repository's own, built from its vocabulary, or the row's."""
    paths = found.tokenizer
    if not paths:
        if spec is None or spec.tokenizer_repo is None:
            raise CheckpointError(f"{found.repo or 'the folder'} holds no tokenizer")
        paths = find_tokenizer(spec.tokenizer_repo)
    if "tokenizer.json" in paths:
        return paths["tokenizer.json"].read_text("utf-8")
    if "vocab.txt" in paths:
        built = wordpiece_from_vocab(paths["vocab.txt"])
    else:
        built = clip_bpe_from_vocab(paths["vocab.json"], paths["merges.txt"])
    return str(built.to_str())


def list_bundles(models: Path) -> Iterator[Bundle]:
    """Every bundle in a models folder that opens, in order of path."""
    for manifest in sorted(models.glob(f"*/*/*/{MANIFEST}")):
        if not manifest.parent.name.startswith(TEMPORARY):
            try:
                yield Bundle.open(manifest.parent)
            except BundleError as error:
                log.warning("%s", error.message)


def prune(models: Path, keep: Path | None = None) -> list[Path]:
    """Remove what nothing uses: half-written bundles and those that no longer open.

    Returns the removed folders. `keep` is left alone whatever its state.
    """
    removed = []
    for folder in sorted(models.glob("*/*/*/")):
        broken = folder.name.startswith(TEMPORARY)
        if not broken and (folder / MANIFEST).is_file():
            try:
                Bundle.open(folder)
            except BundleError:
                broken = True
        if broken and folder != keep:
            shutil.rmtree(folder, ignore_errors=True)
            removed.append(folder)
    return removed


def _acceptable(settings: Settings, spec: ModelSpec | None) -> list[str]:
    """The stored precisions that serve these settings, the best first."""
    if settings.precision in STORED:
        return [STORED[settings.precision]]
    return [spec.precision] if spec else ["f16", "int8-weights"]


def _scalars(weights: Any) -> dict[str, float]:
    found = {}
    for name in ("logit_scale", "logit_bias"):
        if name in weights:
            found[name] = float(weights[name].float32().reshape(-1)[0])
    return found
