"""Folders that can't be used: the error names the setting, or the argument and its value."""

from __future__ import annotations

from pathlib import Path

import pytest

import multimodal_embedding_serving as mmes
from multimodal_embedding_serving.errors import BundleError
from multimodal_embedding_serving.settings import Settings
from tests.small_clip import write_clip


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    return write_clip(folder)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_text("not a folder")
    return path


@pytest.mark.parametrize("below", ["", "below", "further/below"])
def test_a_models_folder_that_cannot_be_made_is_named(
    checkpoint: Path, file: Path, below: str
) -> None:
    folder = file / below
    with pytest.raises(BundleError) as error:
        mmes.Engine.open(str(checkpoint), models_dir=str(folder))
    assert f"models_dir={str(folder)!r}" in str(error.value)
    assert "writable folder" in str(error.value)


def test_the_setting_is_named_without_its_path_which_clients_may_not_see(
    checkpoint: Path, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = Settings.from_env(model=str(checkpoint), models_dir=str(file))
    with pytest.raises(BundleError, match="EMBEDDING_OV_MODELS_DIR") as error:
        mmes.Engine.open(settings=settings)
    assert str(file) not in str(error.value)
    assert str(file) in caplog.text


def test_a_cache_folder_that_cannot_be_made_is_logged_and_not_used(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with mmes.Engine.open("Builtin/mini", cache_dir=str(file)) as engine:
        assert engine.embed(texts="a").shape == (1, 384)
    assert str(file) in caplog.text
    assert "EMBEDDING_OV_CACHE_DIR" in caplog.text
