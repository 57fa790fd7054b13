"""Where a graph runs: OpenVINO, or torch."""

from __future__ import annotations

from multimodal_embedding_serving.bundle import Bundle
from multimodal_embedding_serving.errors import SettingsError
from multimodal_embedding_serving.settings import Settings
from multimodal_embedding_serving.types import Graph, Modality


def open_graph(bundle: Bundle, modality: Modality, settings: Settings) -> Graph:
    """Open one tower of a bundle on the device that the settings name.

    Raises SettingsError for EMBEDDING_USE_OV=false: a bundle holds OpenVINO graphs, and torch runs
    a checkpoint, which serving does not open yet.
    """
    if not settings.use_openvino:
        raise SettingsError(
            "EMBEDDING_USE_OV='false' is not allowed: this version serves converted models with "
            "OpenVINO only; leave it unset or set it to true"
        )
    from multimodal_embedding_serving.backends.openvino import compile_graph

    transform = bundle.manifest.towers[modality].transform
    return compile_graph(bundle.graph(modality), settings, pad_id=transform.get("pad_id", 0))
