"""Where a graph runs: OpenVINO, or torch."""

from __future__ import annotations

from multimodal_embedding_serving.blueprint import Unconverted
from multimodal_embedding_serving.bundle import Bundle
from multimodal_embedding_serving.settings import Settings
from multimodal_embedding_serving.types import Graph, Modality


def open_graph(model: Bundle | Unconverted, modality: Modality, settings: Settings) -> Graph:
    """Open one tower of a model on the device that the settings name.

    A bundle's graphs are OpenVINO's, and torch runs a checkpoint's plans. Raises SettingsError.
    """
    match model:
        case Bundle():
            from multimodal_embedding_serving.backends.openvino import compile_graph

            transform = model.manifest.towers[modality].transform
            return compile_graph(model.graph(modality), settings, pad_id=transform.get("pad_id", 0))
        case Unconverted():
            from multimodal_embedding_serving.backends.torch import open_plan

            return open_plan(model.plans[modality], settings)
