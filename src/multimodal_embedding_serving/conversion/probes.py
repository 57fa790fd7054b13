"""The probe set of a bundle: inputs and their float32 vectors, kept in its manifest.

A conversion computes the vectors from the checkpoint's float32 weights. Every machine that serves
the bundle compares its own vectors with them: all of them when it chooses a form to serve it in
(see serving_form.py), a few at every opening, so that no checkpoint is needed for that. A bundle of
an earlier version has none: they are computed once from its stored weights, in f32 and without
dynamic quantization, and written into its manifest.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from filelock import Timeout

from multimodal_embedding_serving.backends import compile_tower
from multimodal_embedding_serving.bundles.bundle import (
    FORMAT,
    LOCK,
    Bundle,
    Manifest,
    locked,
    rewrite_manifest,
)
from multimodal_embedding_serving.conversion.probe_inputs import by_length, probe_rows
from multimodal_embedding_serving.settings import Settings
from multimodal_embedding_serving.types import Modality, Row, Vectors

log = logging.getLogger(__name__)

STORED_WEIGHTS = "stored weights"
"""The `reference` of vectors that were computed from a bundle's stored weights."""
LOCK_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Probes:
    """Inputs of one tower and the vectors that they must give."""

    rows: Sequence[Row]
    vectors: Vectors
    """float32 [rows, dimension]"""
    reference: str
    """Where the vectors come from: graph, layer by layer, or stored weights."""

    def to_manifest(self) -> dict[str, Any]:
        """Token ids as they are, images (which are synthesized again) as a hash of their pixels."""
        images = self.rows[0].ndim > 1
        return {
            "inputs": hash_rows(self.rows) if images else [row.tolist() for row in self.rows],
            "vectors": base64.b64encode(self.vectors.astype("<f4").tobytes()).decode(),
            "reference": self.reference,
        }


def hash_rows(rows: Sequence[Row]) -> str:
    """SHA-256 over rows of pixels."""
    return hashlib.sha256(b"".join(np.ascontiguousarray(row).tobytes() for row in rows)).hexdigest()


def read_probes(bundle: Bundle, modality: Modality, *, exact: bool = True) -> Probes | None:
    """A tower's probes in a manifest; None where they are missing, or if `exact` differ here.

    Images are resized by Pillow, and a release of it may round differently.
    """
    manifest = bundle.manifest
    entry = manifest.probes.get(modality)
    if entry is None:
        return None
    data = np.frombuffer(base64.b64decode(entry["vectors"]), "<f4")
    vectors = data.reshape(-1, manifest.dimension).astype(np.float32)
    rows: Sequence[Row]
    if isinstance(entry["inputs"], str):
        rows = probe_rows(modality, manifest.towers[modality].transform, bundle.tokenizer)
        if exact and hash_rows(rows) != entry["inputs"]:
            return None
    else:
        rows = [np.array(ids, np.int32) for ids in entry["inputs"]]
    return Probes(rows, vectors, entry["reference"]) if len(rows) == len(vectors) else None


def compute_probes(bundle: Bundle, modality: Modality) -> Probes:
    """The vectors of a stored graph in f32 without dynamic quantization, on this CPU."""
    rows = probe_rows(modality, bundle.manifest.towers[modality].transform, bundle.tokenizer)
    exact = Settings(precision="f32", dynamic_quantization="off", model_cache=False)
    graph = compile_tower(bundle, modality, exact)
    vectors = by_length(graph, rows)
    graph.close()
    return Probes(rows, vectors, STORED_WEIGHTS)


def upgrade(bundle: Bundle) -> Bundle:
    """The bundle in the current format, with probes and checksums; written where that is possible.

    The vectors, the fingerprint and every other file stay as they are. Raises BundleError where a
    file of an earlier format no longer has its SHA-256.
    """
    known = bundle.manifest.probes
    missing = [modality for modality in bundle.manifest.towers if modality not in known]
    if not missing and bundle.manifest.format == FORMAT:
        return bundle
    if bundle.manifest.format < FORMAT:
        bundle.verify()
    computed = {each: compute_probes(bundle, each).to_manifest() for each in missing}
    manifest = dataclasses.replace(
        bundle.manifest,
        probes={**known, **computed},
        files=bundle.hash_files(),
        format=FORMAT,
    )
    try:
        with locked(bundle.path.parent / LOCK).acquire(timeout=LOCK_SECONDS):
            rewrite_manifest(bundle.path, manifest)
        log.info("%s: added probe vectors and checksums (format %d)", manifest.model, FORMAT)
    except (OSError, Timeout) as error:
        reason = getattr(error, "strerror", None) or "another process holds its lock"
        log.warning("%s: could not write probe vectors and checksums: %s", bundle.path.name, reason)
    return Bundle(bundle.path, manifest)


def probes_of(bundle: Bundle, modality: Modality) -> Probes:
    """A tower's probes: the manifest's, or computed where they do not hold on this machine."""
    return read_probes(bundle, modality) or compute_probes(bundle, modality)


def with_probes(manifest: Manifest, probes: Mapping[Modality, Probes]) -> Manifest:
    entries = {modality: each.to_manifest() for modality, each in probes.items()}
    return dataclasses.replace(manifest, probes=entries)
