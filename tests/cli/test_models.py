"""`mmes models`: what is listed, and what pull and remove do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from multimodal_embedding_serving.catalog import MODELS
from multimodal_embedding_serving.cli import app
from multimodal_embedding_serving.errors import InvalidInput, UnknownModel

CLIP = "CLIP/clip-vit-b-32"


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EMBEDDING_OV_MODELS_DIR", str(tmp_path / "models"))
    return tmp_path / "models"


def convert(models: Path, model: str, precision: str) -> Path:
    """A folder as a conversion leaves it, as far as listing and removing look at it."""
    folder = models / model / precision
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")
    (folder / "image.bin").write_bytes(b"0" * 3_000_000)
    return folder


def test_sizes_languages_license_and_what_is_converted_are_listed(models: Path) -> None:
    convert(models, CLIP, "f16")
    convert(models, CLIP, "f32")
    done = CliRunner().invoke(app, ["models"])
    head, *lines = done.stdout.splitlines()
    assert head.split() == "model pixels dim languages MB RAM license converted".split()
    rows = {line.split()[0]: line.split()[1:] for line in lines}
    assert list(rows) == [spec.id for spec in MODELS]
    assert rows[CLIP] == ["224", "512", "English", "305", "824", "mit", "f32,", "f16"]
    assert rows["CN-CLIP/cn-clip-vit-b-16"][2] == "Chinese"
    assert rows["Builtin/mini"][-1] == "int8-weights"
    facts = {
        each["id"]: each
        for each in json.loads(CliRunner().invoke(app, ["models", "--json"]).stdout)
    }
    assert facts[CLIP]["converted"] == ["f32", "f16"]
    assert facts[CLIP]["download_mb"] == 606
    assert facts["SigLIP/siglip2-vit-b-16"]["converted"] == []


def test_a_converted_model_is_removed_and_nothing_else(models: Path) -> None:
    folder = convert(models, CLIP, "f16")
    other = convert(models, "CLIP/clip-vit-b-16", "f16")
    own = folder.parent / "notes"
    own.mkdir()
    done = CliRunner().invoke(app, ["models", "remove", "clip-vit-b-32"])
    assert done.exit_code == 0
    assert done.stderr == f"removed {folder} (3 MB)\n"
    assert not folder.exists()
    assert own.is_dir()
    assert other.is_dir()


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (CLIP, "has not been converted here"),
        ("Builtin/mini", "ships with the package"),
        ("clip-vit-b32", "Did you mean CLIP/clip-vit-b-32?"),
    ],
)
def test_what_can_not_be_removed_is_said(models: Path, model: str, words: str) -> None:
    error = CliRunner().invoke(app, ["models", "remove", model]).exception
    assert isinstance(error, InvalidInput | UnknownModel)
    assert words in error.message


def test_pull_converts_like_convert(models: Path) -> None:
    done = CliRunner().invoke(app, ["models", "pull", "Builtin/mini", "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["model"] == "Builtin/mini"


@pytest.mark.parametrize(
    "arguments",
    [["pull"], ["remove"], ["list", CLIP], ["remove", CLIP, "--long"], ["delete", CLIP]],
)
def test_wrong_usage_of_models_is_status_2(models: Path, arguments: list[str]) -> None:
    assert CliRunner().invoke(app, ["models", *arguments]).exit_code == 2


def test_where_nothing_is_converted_it_is_said(models: Path) -> None:
    long = CliRunner().invoke(app, ["models", "--long"])
    assert long.stdout == ""
    assert "mmes models pull MODEL" in long.stderr
    assert CliRunner().invoke(app, ["models", "--prune"]).stderr == "nothing to remove\n"


@pytest.mark.parametrize(
    "options",
    [
        ["--precision", "f32"],
        ["--precision", "int8", "--calibrate", "."],
        ["--force"],
        ["--accept", "config.json:name"],
        ["--calibrate", "."],
    ],
)
def test_convert_refuses_what_it_can_not_do(models: Path, options: list[str]) -> None:
    error = CliRunner().invoke(app, ["convert", "Builtin/mini", *options]).exception
    assert isinstance(error, InvalidInput)
    assert options[0] in error.message


def test_samples_are_written_and_what_is_there_is_kept(samples: Path, tmp_path: Path) -> None:
    folder = tmp_path / "my photos"
    (tmp_path / "my photos").mkdir()
    (folder / "cat.jpg").write_text("mine")
    done = CliRunner().invoke(app, ["samples", str(folder)])
    assert done.exit_code == 0
    names = {path.name.removesuffix(".md") for path in samples.iterdir()}
    assert {path.name for path in folder.iterdir()} == names
    assert "LICENSES" in names
    assert (folder / "cat.jpg").read_text() == "mine"
    assert (folder / "coffee.jpg").read_bytes() == (samples / "coffee.jpg").read_bytes()
    assert f"{folder}/cat.jpg has other contents" in done.stderr
    assert f"mmes search \"a cup of coffee\" '{folder}'" in done.stderr
    again = json.loads(CliRunner().invoke(app, ["samples", str(folder), "--json"]).stdout)
    assert again == {"written": [], "kept": [str(folder / "cat.jpg")]}
