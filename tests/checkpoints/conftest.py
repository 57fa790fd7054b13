from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.checkpoints.expectations import CONFIG, WEIGHTS
from tests.checkpoints.files import write_safetensors


@pytest.fixture
def weights(tmp_path: Path) -> bytes:
    return write_safetensors(tmp_path / "w.safetensors", {"w": WEIGHTS}).read_bytes()


@pytest.fixture
def files(weights: bytes) -> dict[str, bytes | Path]:
    return {
        ".gitattributes": b"*.safetensors filter=lfs",
        "README.md": b"# tiny",
        "config.json": json.dumps(CONFIG).encode(),
        "model.safetensors": weights,
        "pytorch_model.bin": b"p" * 5000,
        "onnx/model.onnx": b"o" * 5000,
        "tokenizer.json": b"{}" + b" " * 2000,
        "tokenizer_config.json": b"{}",
        "vocab.json": b"{}",
        "merges.txt": b"",
    }
