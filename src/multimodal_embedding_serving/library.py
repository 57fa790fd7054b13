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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from math import exp
from pathlib import Path
from typing import Any

from filelock import Timeout

from multimodal_embedding_serving.bundle import MANIFEST, TEMPORARY, Bundle, locked
from multimodal_embedding_serving.catalog import MODELS, ModelSpec, resolve
from multimodal_embedding_serving.certificate import certify
from multimodal_embedding_serving.checkpoints.hub import (
    HUB_PREFIX,
    CheckpointFiles,
    HubAccess,
    find_checkpoint,
    find_tokenizer,
    split_repository,
)
from multimodal_embedding_serving.checkpoints.progress import Progress
from multimodal_embedding_serving.checkpoints.shards import open_weights
from multimodal_embedding_serving.checkpoints.tokenizers import (
    clip_bpe_from_vocab,
    wordpiece_from_vocab,
)
from multimodal_embedding_serving.checkpoints.weights import Weights
from multimodal_embedding_serving.convert import (
    Conversion,
    Stage,
    build_bundle,
    ignore_stage,
    require_space,
)
from multimodal_embedding_serving.errors import (
    BundleError,
    CheckpointError,
    RemoteFailed,
    UnknownModel,
)
from multimodal_embedding_serving.families import find_family
from multimodal_embedding_serving.families.recognition import open_checkpoint
from multimodal_embedding_serving.settings import Settings

log = logging.getLogger(__name__)

PACKAGE = "multimodal_embedding_serving"
STORED = ("f32", "f16", "int8-weights", "int4-weights", "int8")
"""Values of EMBEDDING_PRECISION that say how weights are stored; else it is the model's own way."""
COMPILED = "compiled"
"""A shelf's folder of compiled blobs."""
CHECKPOINT_SUFFIXES = (".safetensors", ".bin", ".pt", ".json", ".txt")
LOCK = "conversion"
"""A shelf's lock, held by the process that converts."""
STAGES = {"download": "downloading the checkpoint", "verify": "verifying the download"}


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a model's name means: a row, a repository or a folder, and where its bundle belongs."""

    spec: ModelSpec | None
    sources: Sequence[str]
    """What `find_checkpoint` takes, the preferred one first."""
    model: str
    """What the model is called afterwards."""
    shelf: Path
    """The folder of its bundles, one for each stored precision."""


def look_up(settings: Settings) -> Wanted:
    """What EMBEDDING_MODEL_NAME means. Raises UnknownModel, or CheckpointError for `hf:…`."""
    name, models = settings.model, settings.models_dir
    if name.startswith(HUB_PREFIX):
        repo, revision = split_repository(name)
        wanted = repo if revision is None else f"{repo}@{revision}"
        row = next((spec for spec in MODELS if repo in spec.repos), None)
        return Wanted(row, (name,), wanted, models / "hub" / wanted.replace("/", "--"))
    folder = Path(name).expanduser()
    if folder.is_dir() and (folder.is_absolute() or "/" in name or name.startswith(".")):
        place = folder.resolve()
        shelf = models / "local" / f"{place.name}-{_mark(place)}"
        return Wanted(None, (str(place),), place.name, shelf)
    try:
        spec = resolve(name)
    except UnknownModel as error:
        raise UnknownModel(f"{error.message}, hf:org/name, or a folder") from None
    return Wanted(spec, spec.repos, spec.id, models / spec.family / spec.name)


def open_bundle(
    settings: Settings,
    stage: Stage = ignore_stage,
    *,
    anew: bool = False,
    access: HubAccess | None = None,
) -> Bundle:
    """The bundle of the model that the settings name, converted first where that was not done.

    `anew` converts it in any case. Raises UnknownModel, FamilyNotBuilt, CheckpointError,
    RemoteFailed, BundleError.
    """
    given = Path(settings.model).expanduser()
    if (given / MANIFEST).is_file():
        return Bundle.open(given)
    wanted = look_up(settings)
    if wanted.spec is not None:
        if wanted.spec.family == "Builtin":
            return Bundle.open(Path(str(files(PACKAGE).joinpath("builtin", wanted.spec.name))))
        find_family(wanted.spec.family)
    found = None if anew else find_converted(wanted, settings)
    if found is not None:
        return found
    with converting(wanted.shelf, stage):
        found = None if anew else find_converted(wanted, settings)
        return found or convert(wanted, settings, stage, access)


def find_converted(wanted: Wanted, settings: Settings) -> Bundle | None:
    """A bundle on the shelf that serves these settings, if one opens."""
    for precision in _acceptable(settings, wanted.spec):
        folder = wanted.shelf / precision
        if (folder / MANIFEST).is_file():
            try:
                return Bundle.open(folder)
            except BundleError as error:
                log.warning("%s; it is converted again", error.message)
    return None


@contextmanager
def converting(shelf: Path, stage: Stage = ignore_stage) -> Iterator[None]:
    """Hold the shelf's lock; wait where another process holds it. Raises BundleError."""
    try:
        lock = locked(shelf / LOCK)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            stage("waiting for another process that converts this model", 0.0)
            lock.acquire()
    except OSError as error:
        raise BundleError(
            f"the models folder can't be written ({error.strerror}); set EMBEDDING_OV_MODELS_DIR"
        ) from error
    try:
        yield
    finally:
        lock.release()


def convert(
    wanted: Wanted,
    settings: Settings,
    stage: Stage = ignore_stage,
    access: HubAccess | None = None,
) -> Bundle:
    """Download, convert and certify, whatever is there already; the caller holds the lock."""
    spec = wanted.spec
    if spec is not None:
        where = " or ".join(wanted.sources)
        log.info("%s comes under the licence %s: see %s", wanted.model, spec.licence, where)
    found = fetch(wanted, stage, access)
    stage("reading the checkpoint", 0.0)
    weights = open_weights(found.weights)
    family, checkpoint = open_checkpoint(weights, found.config, spec)
    plans = find_family(family)(checkpoint)
    default = spec.precision if spec else ("int8-weights" if family == "QwenText" else "f16")
    precision = settings.precision if settings.precision in STORED else default
    require_space(weights, precision, wanted.shelf)
    conversion = Conversion(
        model=wanted.model,
        family=family,
        precision=precision,
        plans=plans,
        tokenizer=read_tokenizer(found, wanted, stage, access),
        source={"repo": found.repo, "revision": found.revision, "layout": found.layout}
        | {"files": {path.name: path.stat().st_size for path in found.weights}},
        licence=spec.licence if spec else "",
        extras=_scalars(weights),
    )
    check = partial(certify, settings=settings, stage=stage)
    return build_bundle(conversion, wanted.shelf / precision, check, stage)


def fetch(wanted: Wanted, stage: Stage, access: HubAccess | None = None) -> CheckpointFiles:
    """The checkpoint's files, from the first source that has them.

    Raises CheckpointError or RemoteFailed, saying what was wrong with each source.
    """
    refusals: list[CheckpointError | RemoteFailed] = []
    for source in wanted.sources:
        try:
            return find_checkpoint(source, progress=_in_stages(stage), access=access)
        except (CheckpointError, RemoteFailed) as error:
            log.warning("%s", error.message)
            refusals.append(error)
    raise type(refusals[-1])("; ".join(error.message for error in refusals))


def read_tokenizer(
    found: CheckpointFiles,
    wanted: Wanted,
    stage: Stage = ignore_stage,
    access: HubAccess | None = None,
) -> str:
    """The text of tokenizer.json: the source's own, built from its vocabulary, or the row's."""
    paths = found.tokenizer
    if not paths:
        if wanted.spec is None or wanted.spec.tokenizer_repo is None:
            raise CheckpointError(f"{wanted.model}: there is no tokenizer beside the weights")
        repo = wanted.spec.tokenizer_repo
        paths = find_tokenizer(repo, progress=_in_stages(stage), access=access)
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


def describe(bundle: Bundle) -> dict[str, Any]:
    """What a bundle is and how good it is, for a listing."""
    manifest = bundle.manifest
    return {
        "model": manifest.model,
        "precision": manifest.precision,
        "megabytes": round(bundle.size / 1e6),
        "fingerprint": manifest.fingerprint,
        "parity": {name: each["minimum"] for name, each in manifest.parity.items()},
        "repository": manifest.source.get("repo"),
        "revision": manifest.source.get("revision"),
        "licence": manifest.licence,
        "created": manifest.created,
        "folder": str(bundle.path),
    }


def prune(models: Path) -> Mapping[Path, int]:
    """Remove what nothing uses -> the removed folders and their sizes in bytes.

    That is: what killed conversions left, bundles that no longer open, and compiled graphs whose
    bundle is gone. A shelf on which a conversion is running is left alone.
    """
    removed: dict[Path, int] = {}
    for shelf in sorted(path for path in models.glob("*/*/") if path.is_dir()):
        try:
            with locked(shelf / LOCK).acquire(timeout=0):
                for folder in _unused(shelf):
                    removed[folder] = sum(path.stat().st_size for path in folder.rglob("*"))
                    shutil.rmtree(folder, ignore_errors=True)
        except Timeout:
            log.warning("%s is being converted and is left alone", shelf.name)
    return removed


def _unused(shelf: Path) -> list[Path]:
    unused, kept = [], 0
    for folder in sorted(path for path in shelf.iterdir() if path.is_dir()):
        try:
            if folder.name.startswith(TEMPORARY):
                unused.append(folder)
            elif folder.name != COMPILED and Bundle.open(folder):
                kept += 1
        except BundleError:
            unused.append(folder)
    compiled = shelf / COMPILED
    return unused if kept or not compiled.is_dir() else [*unused, compiled]


def _mark(folder: Path) -> str:
    """Of a folder's place and files: a checkpoint that was replaced is another one."""
    seen = [
        (path.name, path.stat().st_size, path.stat().st_mtime_ns)
        for path in sorted(folder.iterdir())
        if path.suffix in CHECKPOINT_SUFFIXES
    ]
    return hashlib.sha256(repr((str(folder), seen)).encode()).hexdigest()[:8]


def _in_stages(stage: Stage) -> Progress:
    """Bytes done of a download as shares of its stages."""

    def tell(what: str, done: int, total: int) -> None:
        stage(STAGES.get(what, what), done / total if total else 1.0)

    return tell


def _acceptable(settings: Settings, spec: ModelSpec | None) -> list[str]:
    """The stored precisions that serve these settings, the best first."""
    if settings.precision in STORED:
        return [settings.precision]
    return [spec.precision] if spec else ["f16", "int8-weights"]


def _scalars(weights: Weights) -> dict[str, float]:
    """The similarity's learned scalars, whatever prefix a training run gave their names."""
    found = {}
    for name in weights:
        kind = name.rpartition(".")[2]
        if kind in ("logit_scale", "logit_bias") and weights[name].data.size == 1:
            value = float(weights[name].float32().reshape(-1)[0])
            found[kind] = exp(value) if kind == "logit_scale" else value
    return found
