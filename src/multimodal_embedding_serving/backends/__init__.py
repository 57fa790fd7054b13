"""The backends that run graphs: OpenVINO and torch."""

from __future__ import annotations

from multimodal_embedding_serving.backends.static import StaticShape
from multimodal_embedding_serving.bundles.bundle import Bundle
from multimodal_embedding_serving.bundles.torch_model import TorchModel
from multimodal_embedding_serving.settings import Settings
from multimodal_embedding_serving.types import Graph, Modality


def compile_tower(
    model: Bundle | TorchModel,
    modality: Modality,
    settings: Settings,
    shape: StaticShape | None = None,
) -> Graph:
    """Compile one tower of a model for the device that the settings name.

    A bundle's graphs run on OpenVINO, in a static `shape` on devices that need one; a checkpoint's
    tower specs run on torch. Raises SettingsError,
    BundleError.
    """
    match model:
        case Bundle():
            from multimodal_embedding_serving.backends.openvino import compile_graph

            tower = model.manifest.towers[modality]
            pad_id = tower.transform.get("pad_id", 0)
            return compile_graph(
                model.graph(modality),
                settings,
                pad_id=pad_id,
                shape=shape,
                identity=tower.structure,
            )
        case TorchModel():
            from multimodal_embedding_serving.backends.torch import build_torch_graph

            return build_torch_graph(model.plans[modality], settings)
