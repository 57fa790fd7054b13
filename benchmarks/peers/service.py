"""A minimal HTTP server for peers that have none: OpenAI's /v1/embeddings.

Routes are plain functions, which FastAPI runs on its threads. A lock protects the model, because
forty threads on two cores would only slow each other down; images are decoded outside of it.
"""

from __future__ import annotations

import base64
import io
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import uvicorn
from fastapi import FastAPI
from PIL import Image
from pydantic import BaseModel


class Request(BaseModel):
    input: str | list[str]
    modality: str = "text"
    encoding_format: str = "float"


def serve(
    port: int,
    embed_texts: Callable[[Sequence[str]], Any],
    embed_images: Callable[[Sequence[Image.Image]], Any],
) -> None:
    """Serve until a signal. The functions return float32 [n, dimension]."""
    app, one_at_a_time = FastAPI(), threading.Lock()

    @app.post("/v1/embeddings")
    def embeddings(request: Request) -> dict[str, Any]:
        items = [request.input] if isinstance(request.input, str) else request.input
        if request.modality == "image":
            images = [open_image(item) for item in items]
            with one_at_a_time:
                vectors = embed_images(images)
        else:
            with one_at_a_time:
                vectors = embed_texts(items)
        vectors = np.asarray(vectors, np.float32)
        if request.encoding_format == "base64":
            rows: list[Any] = [base64.b64encode(row.tobytes()).decode() for row in vectors]
        else:
            rows = vectors.tolist()
        data = [{"object": "embedding", "index": i, "embedding": row} for i, row in enumerate(rows)]
        return {"object": "list", "data": data, "model": "it", "usage": {}}

    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning", access_log=False)


def open_image(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).convert("RGB")


def arguments() -> tuple[str, int]:
    """The model's folder and the port, from the command line."""
    return sys.argv[1], int(sys.argv[2])
