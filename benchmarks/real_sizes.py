"""Every row of the catalog at its true size: `python -m benchmarks.real_sizes [NAME …]`.

For each row a checkpoint with random weights is written as its repository holds one, converted by
`mmes convert` in a process of its own, opened in another, and removed again. What was measured goes
to `docs/real_sizes.json`, from which `make docs` writes the table of docs/models.md. Needs the
`dev` extra, and disk: about 1.5 times a checkpoint, besides it (QwenText 8B: 40 GB).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.random_checkpoints import write_repository
from multimodal_embedding_serving.bundles.bundle import MANIFEST
from multimodal_embedding_serving.catalog import MODELS, ModelSpec, resolve
from tests.e2e.conversion import CONVERTED

FIGURES = Path(__file__).parent.parent / "docs" / "real_sizes.json"

OPEN = """
import json, sys, time
started, worked = time.perf_counter(), time.process_time()
from multimodal_embedding_serving import Engine
engine = Engine.open(sys.argv[1])
found = {"open_s": time.perf_counter() - started, "open_cpu_s": time.process_time() - worked}
"""
"""A process that opens a model: the time it takes, imports included."""
CLOSE = "print(json.dumps(found)); engine.close()"
EMBED = """
import numpy as np
from PIL import Image
from multimodal_embedding_serving.monitoring.memory import private_memory

def measure(name, run):
    vectors = run()  # shapes are compiled, pages are read
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=0.01)
    assert (vectors @ vectors.T - 2 * np.eye(len(vectors))).max() < 0.99999, "alike"
    started, worked = time.perf_counter(), time.process_time()
    run()
    return {name + "_s": (time.perf_counter() - started) / len(vectors),
            name + "_cpu_s": (time.process_time() - worked) / len(vectors)}

texts = [f"a photo of {what} on the {where}" for what in ("a cat", "two dogs")
         for where in ("table", "river bank")]
found |= measure("text", lambda: engine.embed(texts=texts))
if "image" in engine.info.modalities:
    rng = np.random.default_rng(1)
    pictures = [Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8)).resize((640, 480))
                for _ in range(2)]
    found |= measure("image", lambda: engine.embed(images=pictures))
found |= {"memory_mb": private_memory() / 1e6, "dimension": engine.info.dimension,
          "inference": engine.info.inference}
"""


def measure(spec: ModelSpec, folder: Path, precision: str | None) -> dict[str, Any]:
    """One row's figures. The folder is empty again afterwards."""
    cache, models = folder / "hub", folder / "models"
    chosen = {"EMBEDDING_PRECISION": precision} if precision else {}
    environ = os.environ | apart(cache, models) | chosen
    form = write_repository(spec, cache)
    figures: dict[str, Any] = {"model": spec.id, "layout": form.layout, "file": form.file}
    figures["checkpoint_mb"] = megabytes(cache)
    try:
        figures |= convert(spec, environ)
        (manifest,) = models.rglob(MANIFEST)
        told = json.loads(manifest.read_text())
        figures |= {
            "precision": told["precision"],
            "bundle_mb": megabytes(manifest.parent),
            "cosine": {name: each["minimum"] for name, each in told["parity"].items()},
            "reference": sorted({each["reference"] for each in told["parity"].values()}),
        }
        shutil.rmtree(cache)  # serving needs the bundle alone
        first = run(OPEN + CLOSE, spec, environ)
        figures |= {f"first_{name}": value for name, value in first.items()}
        figures |= run(OPEN + EMBED + CLOSE, spec, environ)
        figures["blobs_mb"] = blobs(models)
    finally:
        shutil.rmtree(cache, ignore_errors=True)
        shutil.rmtree(models, ignore_errors=True)
    return figures


def apart(cache: Path, models: Path) -> dict[str, str]:
    """The settings of a process that has the hub's cache and the models folder to itself."""
    return {
        "HF_HUB_CACHE": str(cache),
        "HF_HUB_OFFLINE": "1",
        "EMBEDDING_OV_MODELS_DIR": str(models),
    }


def convert(spec: ModelSpec, environ: Mapping[str, str]) -> dict[str, Any]:
    """`mmes convert`: its time in all, and what it says of time and memory."""
    started, worked = time.perf_counter(), children_seconds()
    command = [sys.executable, "-m", "multimodal_embedding_serving", "convert", spec.id]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    told = CONVERTED.search(done.stderr)
    if done.returncode or told is None:
        raise SystemExit(done.stderr)
    taken = {
        "convert_s": time.perf_counter() - started,
        "convert_cpu_s": children_seconds() - worked,
    }
    return taken | {name: float(value) for name, value in told.groupdict().items()}


def run(program: str, spec: ModelSpec, environ: Mapping[str, str]) -> dict[str, Any]:
    """What a Python process of its own prints at its end."""
    command = [sys.executable, "-c", program, spec.id]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def children_seconds() -> float:
    """CPU seconds of the processes that were started here and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def megabytes(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def blobs(models: Path) -> float:
    """Megabytes of compiled graphs beside the bundle."""
    return sum(megabytes(folder) for folder in models.rglob("compiled"))


def keep(figures: Mapping[str, Any], path: Path, *facts: str) -> None:
    """Put figures in place of older ones of the same model and facts, in the catalog's order."""
    known = json.loads(path.read_text()) if path.exists() else []
    order = [spec.id for spec in MODELS]

    def subject(each: Mapping[str, Any]) -> list[Any]:
        return [each[fact] for fact in ("model", *facts)]

    kept = [each for each in known if subject(each) != subject(figures)]
    rows = sorted([*kept, rounded(figures)], key=lambda each: order.index(each["model"]))
    path.write_text(json.dumps(rows, indent=1) + "\n")


def rounded(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Four digits of each number: more were not measured."""
    return {
        name: float(f"{value:.4g}") if isinstance(value, float) else value
        for name, value in figures.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="rows, in any spelling; all when none is named")
    parser.add_argument("--folder", type=Path, help="where the files go for a while")
    parser.add_argument("--precision", help="as EMBEDDING_PRECISION")
    given = parser.parse_args()
    rows = [resolve(name) for name in given.names] or [spec for spec in MODELS if spec.repos]
    for spec in rows:
        with tempfile.TemporaryDirectory(dir=given.folder) as folder:
            figures = measure(spec, Path(folder), given.precision)
        keep(figures, FIGURES, "precision")
        print(json.dumps(rounded(figures)), flush=True)


if __name__ == "__main__":
    main()
