"""Convert every row of the catalog at full size: `python -m benchmarks.real_sizes [NAME …]`.

For each row it writes a checkpoint with random weights in the form of its repository, converts it
with `mmes convert` in a process of its own, loads it in another one, and removes it. The results go
to `docs/real_sizes.json`, from which `make docs` writes a table of docs/models.md. Needs the
dependency group `test` and disk space: about 2.5 times the checkpoint (QwenText 8B: 40 GB).
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
figures = {"open_s": time.perf_counter() - started, "open_cpu_s": time.process_time() - worked}
"""
"""A program that loads a model and measures the time, including imports."""
CLOSE = "print(json.dumps(figures)); engine.close()"
EMBED = """
import numpy as np
from PIL import Image
from multimodal_embedding_serving.monitoring.memory import private_memory

def measure(name, run):
    vectors = run()  # warm up: compile the shapes, read the pages
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=0.01)
    assert (vectors @ vectors.T - 2 * np.eye(len(vectors))).max() < 0.99999, "the vectors are equal"
    started, worked = time.perf_counter(), time.process_time()
    run()
    return {name + "_s": (time.perf_counter() - started) / len(vectors),
            name + "_cpu_s": (time.process_time() - worked) / len(vectors)}

texts = [f"a photo of {what} on the {where}" for what in ("a cat", "two dogs")
         for where in ("table", "river bank")]
figures |= measure("text", lambda: engine.embed(texts=texts))
if "image" in engine.info.modalities:
    rng = np.random.default_rng(1)
    images = [Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8)).resize((640, 480))
                for _ in range(2)]
    figures |= measure("image", lambda: engine.embed(images=images))
figures |= {"memory_mb": private_memory() / 1e6, "dimension": engine.info.dimension,
          "inference": engine.info.inference}
"""


def measure(spec: ModelSpec, folder: Path, precision: str | None) -> dict[str, Any]:
    """Measure one row. The folder is empty again afterwards."""
    cache, models = folder / "hub", folder / "models"
    overrides = {"EMBEDDING_PRECISION": precision} if precision else {}
    environ = os.environ | isolated_settings(cache, models) | overrides
    form = write_repository(spec, cache)
    figures: dict[str, Any] = {"model": spec.id, "layout": form.layout, "file": form.file}
    figures["checkpoint_mb"] = megabytes(cache)
    try:
        figures |= convert(spec, environ)
        (manifest,) = models.rglob(MANIFEST)
        facts = json.loads(manifest.read_text())
        figures |= {
            "precision": facts["precision"],
            "bundle_mb": megabytes(manifest.parent),
            "cosine": {name: each["minimum"] for name, each in facts["parity"].items()},
            "reference": sorted({each["reference"] for each in facts["parity"].values()}),
        }
        shutil.rmtree(cache)  # serving needs only the bundle
        first = run(OPEN + CLOSE, spec, environ)
        figures |= {f"first_{name}": value for name, value in first.items()}
        figures |= run(OPEN + EMBED + CLOSE, spec, environ)
        figures["blobs_mb"] = blobs(models)
    finally:
        shutil.rmtree(cache, ignore_errors=True)
        shutil.rmtree(models, ignore_errors=True)
    return figures


def isolated_settings(cache: Path, models: Path) -> dict[str, str]:
    """The settings of a process with a hub cache and a models folder of its own."""
    return {
        "HF_HUB_CACHE": str(cache),
        "HF_HUB_OFFLINE": "1",
        "EMBEDDING_OV_MODELS_DIR": str(models),
    }


def convert(spec: ModelSpec, environ: Mapping[str, str]) -> dict[str, Any]:
    """Run `mmes convert`: its total time, and the time and memory that it logs."""
    started, worked = time.perf_counter(), children_seconds()
    command = [sys.executable, "-m", "multimodal_embedding_serving", "convert", spec.id]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    match = CONVERTED.search(done.stderr)
    if done.returncode or match is None:
        raise SystemExit(done.stderr)
    total = {
        "convert_s": time.perf_counter() - started,
        "convert_cpu_s": children_seconds() - worked,
    }
    return total | {name: float(value) for name, value in match.groupdict().items()}


def run(program: str, spec: ModelSpec, environ: Mapping[str, str]) -> dict[str, Any]:
    """Run a Python program in a process of its own -> the JSON that it prints last."""
    command = [sys.executable, "-c", program, spec.id]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def children_seconds() -> float:
    """CPU seconds of the child processes that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def megabytes(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def blobs(models: Path) -> float:
    """Megabytes of the compiled graphs next to the bundle."""
    return sum(megabytes(folder) for folder in models.rglob("compiled"))


def save(figures: Mapping[str, Any], path: Path, *facts: str) -> None:
    """Replace the figures of the same model and facts in a file, in the catalog's order."""
    known = json.loads(path.read_text()) if path.exists() else []
    order = [spec.id for spec in MODELS]

    def subject(each: Mapping[str, Any]) -> list[Any]:
        return [each[fact] for fact in ("model", *facts)]

    others = [each for each in known if subject(each) != subject(figures)]
    rows = sorted([*others, rounded(figures)], key=lambda each: order.index(each["model"]))
    path.write_text(json.dumps(rows, indent=1) + "\n")


def rounded(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Each number with four digits: more would be noise."""
    return {
        name: float(f"{value:.4g}") if isinstance(value, float) else value
        for name, value in figures.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="models, by id or alias; default: all")
    parser.add_argument("--folder", type=Path, help="folder for temporary files")
    parser.add_argument("--precision", help="EMBEDDING_PRECISION")
    options = parser.parse_args()
    rows = [resolve(name) for name in options.names] or [spec for spec in MODELS if spec.repos]
    for spec in rows:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            figures = measure(spec, Path(folder), options.precision)
        save(figures, FIGURES, "precision")
        print(json.dumps(rounded(figures)), flush=True)


if __name__ == "__main__":
    main()
