"""Handlers: one model each, created by name, loaded on demand."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from multimodal_embedding_serving.catalog import DEFAULT_MODEL, ModelSpec, by_family, resolve
from multimodal_embedding_serving.compat.rows import Rows
from multimodal_embedding_serving.conversion.store import load_bundle
from multimodal_embedding_serving.engine import Engine
from multimodal_embedding_serving.errors import MissingExtra, SettingsError, UnknownModel
from multimodal_embedding_serving.families import FAMILIES, find_family
from multimodal_embedding_serving.settings import Settings

log = logging.getLogger(__name__)

ImageLike = Image.Image | NDArray[Any]


class BaseEmbeddingModel:
    """A handler: one model, not loaded until `load_model`. Subclasses can be registered."""

    def __init__(self, model_config: Mapping[str, Any]) -> None:
        self.model_config = dict(model_config)
        self.device: str = self.model_config.get("device") or "CPU"
        self.use_openvino: bool = self.model_config.get("use_openvino", True)
        self.ov_models_dir: str | None = self.model_config.get("ov_models_dir")
        self.supported_modalities = set(self.model_config.get("modalities") or ("text", "image"))
        self.model: Engine | None = None

    def load_model(self) -> None:
        """Open the engine, downloading and converting the model first if necessary."""
        try:
            self.model = self._open(self.model_config.get("use_openvino"))
        except (MissingExtra, SettingsError) as error:
            if self.use_openvino or self.device.startswith("cuda"):
                raise
            # False was the default of the SDK: most programs that pass it have no wish for torch.
            log.warning("%s; using OpenVINO instead of torch", error)
            self.model = self._open(True)
            self.use_openvino = True
        self.supported_modalities = set(self.model.info.modalities)

    def _open(self, use_openvino: bool | None) -> Engine:
        return Engine.open(
            self.model_config["model_id"],
            device=self.model_config.get("device"),
            models_dir=None if self.ov_models_dir is None else Path(self.ov_models_dir),
            use_openvino=use_openvino,
        )

    @property
    def engine(self) -> Engine:
        """The engine of the loaded model. Raises RuntimeError before `load_model`."""
        if self.model is None:
            raise RuntimeError("the model is not loaded; call load_model() first")
        return self.model

    def encode_text(self, texts: str | Sequence[str]) -> Rows:
        """[texts, dimension]; texts are embedded as they are (see `prepare_query`)."""
        batch = [texts] if isinstance(texts, str) else list(texts)
        return Rows.of(self.engine.embed(texts=batch, role="document"))

    def encode_image(
        self, images: ImageLike | Sequence[ImageLike], metrics_out: bool = False
    ) -> Any:
        """[images, dimension].

        With `metrics_out` {"embeddings": …, "inference_time_s": …, "processed_images": …}.
        """
        batch = [images] if isinstance(images, Image.Image | np.ndarray) else list(images)
        started = time.perf_counter()
        rows = Rows.of(self.engine.embed(images=batch))
        seconds = time.perf_counter() - started
        if not metrics_out:
            return rows
        return {
            "embeddings": rows,
            "inference_time_s": seconds,
            "processed_images": len(batch),
        }

    def preprocess_image(self, image: ImageLike) -> Rows:
        """float32 [3, height, width] in 0..1: resized and cropped as the model's images are.

        The model's mean and standard deviation are part of its graph, and not applied here.
        """
        pixels = self.engine.preprocess_image(image)
        return Rows.of(
            np.ascontiguousarray(pixels.transpose(2, 0, 1), np.float32) / np.float32(255)
        )

    @property
    def preprocess(self) -> Callable[[ImageLike], Rows] | None:
        """`preprocess_image` once the model is loaded; None before."""
        return None if self.model is None else self.preprocess_image

    def get_embedding_dim(self) -> int:
        """The length of a vector."""
        return self.engine.info.dimension

    def get_max_text_tokens(self) -> int | None:
        """The tokens after which a text is truncated; None without a text tower."""
        return self.engine.info.text_length

    def convert_to_openvino(self, ov_models_dir: str) -> tuple[str | None, str | None]:
        """Convert into a folder -> paths of the image graph and of the text graph."""
        settings = Settings.from_env(
            model=self.model_config["model_id"], models_dir=Path(ov_models_dir)
        )
        if settings.device.startswith(
            "cuda"
        ):  # a torch device; the conversion is checked with OpenVINO
            settings = replace(settings, device="CPU")
        bundle = load_bundle(settings)
        graphs = {each: str(bundle.graph(each)) for each in bundle.manifest.towers}
        return graphs.get("image"), graphs.get("text")

    def prepare_query(self, text: str) -> str:
        """Wrap the text in the model's query prompt; most models have none."""
        family = str(self.model_config.get("family"))
        return find_family(family).wrap_query(text) if family in FAMILIES else text

    def prepare_documents(self, texts: list[str]) -> list[str]:
        """Return the texts as they are: no model of the catalog has a document prompt."""
        return texts

    def supports_text(self) -> bool:
        """Whether the model embeds texts."""
        return "text" in self.supported_modalities

    def supports_image(self) -> bool:
        """Whether the model embeds images."""
        return "image" in self.supported_modalities

    def supports_video(self) -> bool:
        """Whether the model embeds videos, which it does if it embeds images."""
        return self.supports_image()


class ModelFactory:
    """Creates handlers by model name."""

    handlers: dict[str, type[BaseEmbeddingModel]] = {}  # noqa: RUF012  # the SDK's own registry
    """The classes passed to `register_model_handler`, by lower-case name."""

    @classmethod
    def create_model(
        cls,
        model_id: str,
        device: str | None = None,
        ov_models_dir: str | None = None,
        use_openvino: bool | None = None,
    ) -> BaseEmbeddingModel:
        """Create a handler without loading it. Raises ValueError for an unknown model.

        Arguments that are None come from the environment, as for the server.
        """
        spec = _spec(model_id)
        names = [model_id] if spec is None else [model_id, spec.id, spec.name, spec.family]
        registered = [cls.handlers[each.lower()] for each in names if each.lower() in cls.handlers]
        if spec is None and not registered and not _is_outside_catalog(model_id):
            raise ValueError(
                f"unknown model {model_id!r}; list_available_models() returns the known ones"
            )
        settings = Settings.from_env(
            model=model_id, device=device, models_dir=ov_models_dir, use_openvino=use_openvino
        )
        config: dict[str, Any] = {
            "model_id": model_id if spec is None else spec.id,
            "model_name": model_id if spec is None else spec.name,
            "family": None if spec is None else spec.family,
            "modalities": None if spec is None else spec.modalities,
            "device": settings.device,
            "ov_models_dir": str(settings.models_dir),
            "use_openvino": settings.use_openvino,
        }
        return (registered or [BaseEmbeddingModel])[0](config)

    @staticmethod
    def list_models() -> dict[str, list[str]]:
        """Map each family to the names of its models."""
        return by_family()

    @staticmethod
    def get_default() -> str:
        """The id of the model that is served if none is named."""
        return DEFAULT_MODEL

    @staticmethod
    def is_model_supported(model_id: str) -> bool:
        """Whether the catalog has the model, or it names a folder or a repository."""
        return _spec(model_id) is not None or _is_outside_catalog(model_id)


def get_model_handler(
    model_id: str | None = None,
    device: str | None = None,
    ov_models_dir: str | None = None,
    use_openvino: bool | None = None,
) -> BaseEmbeddingModel:
    """Create a handler without loading it. Arguments that are None come from the environment."""
    model_id = model_id or Settings.from_env().model
    return ModelFactory.create_model(model_id, device, ov_models_dir, use_openvino)


def list_available_models() -> dict[str, list[str]]:
    """Map each family to the names of its models."""
    return by_family()


def register_model_handler(name: str, handler_class: type[BaseEmbeddingModel]) -> None:
    """Use `handler_class` for a model (by id or name), a family, or a new name."""
    ModelFactory.handlers[name.lower()] = handler_class


def _spec(model_id: str) -> ModelSpec | None:
    try:
        return resolve(model_id)
    except UnknownModel:
        return None


def _is_outside_catalog(model_id: str) -> bool:
    return model_id.startswith("hf:") or Path(model_id).is_dir()
