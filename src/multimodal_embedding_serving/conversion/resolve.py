"""What a model's name means: a row of the catalog, a repository of the hub, or a folder."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path

from multimodal_embedding_serving.bundles.bundle import MANIFEST
from multimodal_embedding_serving.catalog import MODELS, ModelSpec, resolve
from multimodal_embedding_serving.checkpoints.hub import HUB_PREFIX, split_repository
from multimodal_embedding_serving.checkpoints.sources import Folder
from multimodal_embedding_serving.errors import CheckpointError, UnknownModel
from multimodal_embedding_serving.settings import Settings

PACKAGE = "multimodal_embedding_serving"
CHECKPOINT_SUFFIXES = (".safetensors", ".bin", ".pt", ".json", ".txt")

REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
"""The name of one on the hub."""


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
    tokenizer: str | None = None
    """The repository whose tokenizer is used instead of the checkpoint's own."""
    accept_keys: Sequence[str] = ()
    """Keys of the checkpoint's files that are ignored although they are not supported."""


def resolve_model(settings: Settings) -> ResolvedModel:
    """What EMBEDDING_MODEL_NAME means. Raises UnknownModel, or CheckpointError for `hf:…`."""
    return replace(_resolve_name(settings), accept_keys=settings.accept_keys)


def _resolve_name(settings: Settings) -> ResolvedModel:
    name, models = settings.model, settings.models_dir
    if name.startswith(HUB_PREFIX):
        return _resolve_repository(name, models)
    try:
        folder = Path(name).expanduser()
        bundle = folder if (folder / MANIFEST).is_file() else None
        is_path = folder.is_absolute() or "/" in name or name.startswith(".")
        is_folder = bundle is not None or (is_path and folder.is_dir())
    except (OSError, RuntimeError) as error:  # too long, not permitted; ~ of an unknown user
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UnknownModel(f"cannot look for a folder {name[:80]!r}: {reason}") from None
    if is_folder:
        place = folder.resolve()
        model_dir = models / "local" / f"{place.name}-{_hash_listing(place)}"
        return ResolvedModel(None, (str(place),), place.name, model_dir, bundle)
    try:
        spec = resolve(name)
    except UnknownModel as error:
        raise UnknownModel(
            _hint(name) or f"{error.message}, or use hf:org/name or a folder"
        ) from None
    if not spec.repos:  # shipped with the package
        bundle = Path(str(files(PACKAGE).joinpath("builtin", spec.name)))
    return ResolvedModel(spec, spec.repos, spec.id, models / spec.family / spec.name, bundle)


def _hint(name: str) -> str | None:
    """What to say of an unknown name that is not a misspelled id."""
    if "," in name:
        return f"unknown model {name!r}: a server or command has one model; start one for each"
    if name.startswith((".", "/", "~")):
        return f"unknown model {name!r}: there is no such folder"
    family = name.partition("/")[0].lower()
    if REPOSITORY.fullmatch(name) and family not in {spec.family.lower() for spec in MODELS}:
        return f"unknown model {name!r}; for the repository of the Hugging Face hub, use hf:{name}"
    return None


def _resolve_repository(name: str, models: Path) -> ResolvedModel:
    """`hf:org/name`, with `@revision` and `?tokenizer=other/repo` where the user adds them."""
    source, _, query = name.partition("?")
    repo, revision = split_repository(source)
    model = repo if revision is None else f"{repo}@{revision}"
    row = next((spec for spec in MODELS if repo in spec.repos), None)
    folder = model.replace("/", "--")
    if not query:
        return ResolvedModel(row, (source,), model, models / "hub" / folder)
    key, _, tokenizer = query.partition("=")
    if key != "tokenizer":
        raise CheckpointError(
            f"{repo}: unknown option {key[:40]!r}; supported: ?tokenizer=org/name"
        )
    split_repository(tokenizer)
    folder += f"+{tokenizer.replace('/', '--')}"
    return ResolvedModel(row, (source,), model, models / "hub" / folder, tokenizer=tokenizer)


def _hash_listing(folder: Path) -> str:
    """Of a folder's path and its files' sizes and times: a replaced checkpoint is another model."""
    paths = [folder / name for name in Folder(folder, folder.name).names]
    listing = [
        (str(path.relative_to(folder)), path.stat().st_size, path.stat().st_mtime_ns)
        for path in sorted(paths)
        if path.suffix in CHECKPOINT_SUFFIXES
    ]
    return hashlib.sha256(repr((str(folder), listing)).encode()).hexdigest()[:8]
