"""transformers behind plain FastAPI: `python plain.py MODEL PORT`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from service import arguments, serve
from transformers import AutoModel, AutoProcessor, AutoTokenizer


class Clip:
    """Both towers, as on the model's page."""

    def __init__(self, folder: str) -> None:
        self.model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
        self.processor = AutoProcessor.from_pretrained(folder)

    def texts(self, texts: Sequence[str]) -> Any:
        inputs = self.processor(
            text=list(texts), return_tensors="pt", padding=True, truncation=True
        )
        with torch.inference_mode():
            return unit(self.model.get_text_features(**inputs))

    def images(self, images: Sequence[Image.Image]) -> Any:
        inputs = self.processor(images=list(images), return_tensors="pt")
        with torch.inference_mode():
            return unit(self.model.get_image_features(**inputs))


class Decoder:
    """Last-token pooling with left padding, as on the page of Qwen3-Embedding."""

    def __init__(self, folder: str) -> None:
        self.model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")

    def texts(self, texts: Sequence[str]) -> Any:
        inputs = self.tokenizer(list(texts), return_tensors="pt", padding=True)
        with torch.inference_mode():
            return unit(self.model(**inputs).last_hidden_state[:, -1])

    def images(self, images: Sequence[Image.Image]) -> Any:
        raise ValueError("this model embeds text only")


def unit(vectors: Any) -> Any:
    vectors = getattr(vectors, "pooler_output", vectors)
    return torch.nn.functional.normalize(vectors, dim=-1).numpy()


def main() -> None:
    folder, port = arguments()
    config = json.loads((Path(folder) / "config.json").read_text())
    model = Clip(folder) if config["model_type"] == "clip" else Decoder(folder)
    serve(port, model.texts, model.images)


if __name__ == "__main__":
    main()
