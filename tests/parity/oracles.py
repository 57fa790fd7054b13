"""The transformers library in float32, on the same tensors and the same stripped config.json."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray

from multimodal_embedding_serving.types import Row
from tests.lazy import lazy
from tests.parity.small import Arrays

torch = lazy("torch")
transformers = lazy("transformers")

CLASSES = {
    "clip": ("CLIPConfig", "CLIPModel"),
    "chinese_clip": ("ChineseCLIPConfig", "ChineseCLIPModel"),
    "siglip": ("SiglipConfig", "SiglipModel"),
    "blip-2": ("Blip2Config", "Blip2ForImageTextRetrieval"),
}
CLIP_PIXELS = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
PIXELS = {"siglip": ((0.5,) * 3, (0.5,) * 3)}
IGNORED = ("position_ids", "logit_scale", "logit_bias", "itm_head")


P = ParamSpec("P")
R = TypeVar("R")


def without_gradients(function: Callable[P, R]) -> Callable[P, R]:
    """torch.no_grad(), typed and lazy."""

    @wraps(function)
    def decorated(*args: P.args, **kwargs: P.kwargs) -> R:
        with torch.no_grad():
            return function(*args, **kwargs)

    return decorated


class Oracle:
    """The upstream model of a checkpoint."""

    def __init__(self, config: Mapping[str, Any], arrays: Arrays) -> None:
        self.kind = config["model_type"]
        settings, model = CLASSES[self.kind]
        full = getattr(transformers, settings).from_dict(dict(config))
        self.model = getattr(transformers, model)(full).eval()
        state = {name: torch.tensor(widen(array)) for name, array in arrays.items()}
        missing, unexpected = self.model.load_state_dict(state, strict=False)
        assert not [name for name in missing if not name.endswith(IGNORED)], missing
        assert not [name for name in unexpected if not name.endswith("position_ids")], unexpected

    @without_gradients
    def images(self, rows: Sequence[Row]) -> NDArray[np.float32]:
        """Pictures uint8 [side, side, 3] -> vectors, not normalised."""
        mean, std = PIXELS.get(self.kind, CLIP_PIXELS)
        pixels = (np.stack(rows) / 255.0 - np.array(mean)) / np.array(std)
        values = torch.tensor(pixels.transpose(0, 3, 1, 2), dtype=torch.float32)
        if self.kind == "blip-2":
            return np.asarray(self._blip2_images(values).numpy())
        return np.asarray(self.model.get_image_features(pixel_values=values).pooler_output.numpy())

    @without_gradients
    def texts(self, rows: Sequence[Row], places: int, pad_id: int) -> NDArray[np.float32]:
        """Ids, padded on the right to `places` -> vectors, not normalised."""
        ids = torch.full((len(rows), places), pad_id)
        mask = torch.zeros_like(ids)
        for place, row in enumerate(rows):
            ids[place, : len(row)] = torch.tensor(row)
            mask[place, : len(row)] = 1
        if self.kind == "blip-2":
            return np.asarray(self._blip2_texts(ids, mask).numpy())
        masked = {} if self.kind == "siglip" else {"attention_mask": mask}
        found = self.model.get_text_features(input_ids=ids, **masked).pooler_output
        return np.asarray(found.numpy())

    def _blip2_images(self, values: Any) -> Any:
        picture = self.model.vision_model(pixel_values=values).last_hidden_state
        answers = self.model.qformer(
            query_embeds=self.model.query_tokens.expand(len(values), -1, -1),
            encoder_hidden_states=picture,
            encoder_attention_mask=torch.ones(picture.shape[:-1], dtype=torch.long),
        ).last_hidden_state
        return self.model.vision_projection(answers).mean(dim=1)

    def _blip2_texts(self, ids: Any, mask: Any) -> Any:
        words = self.model.embeddings(input_ids=ids)
        answers = self.model.qformer(
            query_embeds=words, query_length=0, attention_mask=mask
        ).last_hidden_state
        return self.model.text_projection(answers[:, 0])


def oracle_name(stored: str) -> str:
    """What the table says of a checkpoint whose file holds this precision."""
    return f"transformers {transformers.__version__}, {stored}"


def widen(array: NDArray[Any]) -> NDArray[Any]:
    """float32 of any stored form; uint16 holds bfloat16's bits."""
    if array.dtype == np.uint16:
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float32) if array.dtype.kind == "f" else array
