from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import close_session, constants

from multimodal_embedding_serving.checkpoints.hub import HubAccess
from tests.checkpoints.expectations import CONFIG, WEIGHTS
from tests.checkpoints.files import write_safetensors
from tests.hub_standin import HubStandIn


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubStandIn]:
    """A hub of its own for each test, and a client untouched by the machine's environment."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("NO_PROXY", "*")
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    close_session()  # it keeps the proxies that it was opened with
    with HubStandIn() as standin:
        yield standin
    close_session()


@pytest.fixture
def access(hub: HubStandIn, tmp_path: Path) -> HubAccess:
    return HubAccess(endpoint=hub.url, cache=tmp_path / "cache")


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
