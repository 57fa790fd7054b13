"""Over a real model at f32, each application gets the native vector, to 1e-6."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest

from tests.serving import serving

pytestmark = pytest.mark.slow

TEXT = "a cat on a sofa"
MODEL = "mini"


@pytest.fixture(scope="module")
def http() -> Iterator[httpx2.Client]:
    command = [sys.executable, "-m", "multimodal_embedding_serving", "serve", "--port", "0"]
    environ = {"EMBEDDING_PRECISION": "f32", "EMBEDDING_MODEL_ALIASES": "ViT-B-32__openai"}
    with (
        serving(command, environ=environ) as running,
        httpx2.Client(base_url=running.url, timeout=60) as client,
    ):
        yield client


def post(http: httpx2.Client, path: str, **body: Any) -> Any:
    answer = http.post(path, **({"json": body} if "files" not in body else body))
    assert answer.status_code == 200, answer.text
    return answer.json()


def immich(http: httpx2.Client, kind: str, part: dict[str, Any]) -> Any:
    entries = (None, json.dumps({"clip": {kind: {"modelName": "ViT-B-32__openai"}}}))
    return json.loads(post(http, "/predict", files={"entries": entries, **part})["clip"])


def test_a_text_has_one_vector_everywhere(http: httpx2.Client) -> None:
    native = post(http, "/embeddings", input={"type": "text", "text": TEXT})["embedding"]
    part = {"content": [{"type": "text", "text": TEXT}]}
    rows = {
        "immich": immich(http, "textual", {"text": (None, TEXT)}),
        "weaviate": post(http, "/vectorize", texts=[TEXT])["textVectors"][0],
        "ollama": post(http, "/api/embed", model=MODEL, input=TEXT)["embeddings"][0],
        "old ollama": post(http, "/api/embeddings", model=MODEL, prompt=TEXT)["embedding"],
        "tei": post(http, "/embed", inputs=TEXT)[0],
        "voyage": post(http, "/v1/multimodalembeddings", inputs=[part])["data"][0]["embedding"],
        "llamacpp": post(http, "/embeddings", content=[{"prompt_string": TEXT}])[0]["embedding"][0],
        "old cohere": post(http, "/v1/embed", texts=[TEXT])["embeddings"][0],
    }
    for name, row in rows.items():
        assert np.abs(np.subtract(row, native)).max() <= 1e-6, name


def test_an_image_has_one_vector_everywhere(http: httpx2.Client, samples: Path) -> None:
    data = (samples / "cat.jpg").read_bytes()
    image = base64.b64encode(data).decode()
    body = {"type": "image_base64", "image_base64": image}
    native = post(http, "/embeddings", input=body)["embedding"]
    prompt = {"prompt_string": "<__media__>\n", "multimodal_data": [image]}
    rows = {
        "immich": immich(http, "visual", {"image": ("blob", data)}),
        "weaviate": post(http, "/vectorize", images=[image])["imageVectors"][0],
        "voyage": post(http, "/v1/multimodalembeddings", inputs=[{"content": [body]}])["data"][0][
            "embedding"
        ],
        "llamacpp": post(http, "/embeddings", content=[prompt])[0]["embedding"][0],
    }
    for name, row in rows.items():
        assert np.abs(np.subtract(row, native)).max() <= 1e-6, name
