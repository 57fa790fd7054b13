"""A serving install: the wheel in an environment of its own, and its size."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from multimodal_embedding_serving.catalog import MODELS
from tests.conftest import Figure

ROOT = Path(__file__).parent.parent
MAX_BYTES = 500_000_000
"""Of site-packages, without pip."""

pytestmark = pytest.mark.slow


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a fresh environment with the wheel and its dependencies."""
    folder = tmp_path_factory.mktemp("install")
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    run(*pip, "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, ROOT, cwd=folder)
    (wheel,) = folder.glob("*.whl")
    run(sys.executable, "-m", "venv", folder / "venv", cwd=folder)
    python = folder / "venv" / "bin" / "python"
    pip = (str(python), "-m", "pip", "--disable-pip-version-check")
    run(*pip, "install", "--quiet", "--no-compile", wheel, cwd=folder)
    run(python, "-m", "pip", "check", cwd=folder)
    return python


@pytest.fixture(scope="module")
def packages(python: Path) -> Path:
    (folder,) = python.parent.parent.glob("lib/python*/site-packages")
    return folder


def weight(path: Path) -> int:
    files = [each for each in path.rglob("*") if each.is_file() and not each.is_symlink()]
    return sum(each.stat().st_size for each in files if "__pycache__" not in each.parts)


def test_a_serving_install_is_light(packages: Path, figure: Figure) -> None:
    weights = {
        each.name: weight(each) if each.is_dir() else each.stat().st_size
        for each in packages.iterdir()
        if not each.name.startswith(("pip", "__pycache__"))
    }
    total = sum(weights.values())
    heaviest = sorted(weights.items(), key=lambda item: -item[1])[:6]
    shown = ", ".join(f"{name} {size / 1e6:.0f}" for name, size in heaviest)
    figure(f"site-packages of a serving install, without pip: {total / 1e6:.0f} MB ({shown}, …)")
    assert total <= MAX_BYTES, shown


def test_a_serving_install_holds_no_deep_learning_framework(packages: Path) -> None:
    names = {each.name.lower() for each in packages.iterdir()}
    assert not names & {"torch", "transformers", "torchvision", "timm", "open_clip", "nncf"}


def test_the_installed_command_runs_away_from_the_repository(python: Path, tmp_path: Path) -> None:
    models = json.loads(run(python.parent / "mmes", "models", "--json", cwd=tmp_path))
    assert [each["id"] for each in models] == [spec.id for spec in MODELS]


def test_the_installed_package_embeds_with_what_it_ships(python: Path, tmp_path: Path) -> None:
    line = run(python.parent / "mmes", "embed", "a cat on a sofa", cwd=tmp_path)
    assert len(json.loads(line)["vector"]) == 384


def test_the_wheel_carries_its_licence_and_its_types(packages: Path) -> None:
    (info,) = packages.glob("multimodal_embedding_serving-*.dist-info")
    assert {"LICENSE", "NOTICE"} <= {each.name for each in (info / "licenses").iterdir()}
    assert (packages / "multimodal_embedding_serving" / "py.typed").is_file()
