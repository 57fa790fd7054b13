"""What a model's name means: a row of the catalog, a repository of the hub, or a folder."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from multimodal_embedding_serving.bundles.bundle import MANIFEST
from multimodal_embedding_serving.catalog import MODELS, ModelSpec, resolve
from multimodal_embedding_serving.checkpoints.hub import HUB_PREFIX, split_repository
from multimodal_embedding_serving.errors import UnknownModel
from multimodal_embedding_serving.settings import Settings

PACKAGE = "multimodal_embedding_serving"
CHECKPOINT_SUFFIXES = (".safetensors", ".bin", ".pt", ".json", ".txt")


@dataclass(frozen=True, slots=True)
class ResolvedModel:
    """What a model's name means: a row, a repository or a folder, and where its bundle belongs."""

    spec: ModelSpec | None
    sources: Sequence[str]
    """What `find_checkpoint` takes, the preferred one first."""
    model: str
    """What the model is called afterwards."""
    model_dir: Path
    """The folder of its bundles, one for each stored precision."""
    bundle: Path | None = None
    """A bundle that needs no conversion: the folder named, or one that ships with the package."""


def resolve_model(settings: Settings) -> ResolvedModel:
    """What EMBEDDING_MODEL_NAME means. Raises UnknownModel, or CheckpointError for `hf:…`."""
    name, models = settings.model, settings.models_dir
    if name.startswith(HUB_PREFIX):
        repo, revision = split_repository(name)
        model = repo if revision is None else f"{repo}@{revision}"
        row = next((spec for spec in MODELS if repo in spec.repos), None)
        return ResolvedModel(row, (name,), model, models / "hub" / model.replace("/", "--"))
    folder = Path(name).expanduser()
    bundle = folder if (folder / MANIFEST).is_file() else None
    is_path = folder.is_absolute() or "/" in name or name.startswith(".")
    if bundle or (is_path and folder.is_dir()):
        place = folder.resolve()
        model_dir = models / "local" / f"{place.name}-{_hash_listing(place)}"
        return ResolvedModel(None, (str(place),), place.name, model_dir, bundle)
    try:
        spec = resolve(name)
    except UnknownModel as error:
        raise UnknownModel(f"{error.message}, or use hf:org/name or a folder") from None
    if not spec.repos:  # shipped with the package
        bundle = Path(str(files(PACKAGE).joinpath("builtin", spec.name)))
    return ResolvedModel(spec, spec.repos, spec.id, models / spec.family / spec.name, bundle)


def _hash_listing(folder: Path) -> str:
    """Of a folder's path and its files' sizes and times: a replaced checkpoint is another model."""
    listing = [
        (path.name, path.stat().st_size, path.stat().st_mtime_ns)
        for path in sorted(folder.iterdir())
        if path.suffix in CHECKPOINT_SUFFIXES
    ]
    return hashlib.sha256(repr((str(folder), listing)).encode()).hexdigest()[:8]
