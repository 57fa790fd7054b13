"""Embeds text, images and video as vectors in one space.

`Engine.open()` embeds in this process; `Client` and `AsyncClient` call a server. Importing this
package loads none of them: each name is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from multimodal_embedding_serving.bulk.arrow import embed_folder, embed_table
    from multimodal_embedding_serving.client import AsyncClient, Client
    from multimodal_embedding_serving.compat import (
        BaseEmbeddingModel,
        EmbeddingModel,
        ModelFactory,
        get_model_handler,
        list_available_models,
        register_model_handler,
    )
    from multimodal_embedding_serving.engine import Engine
    from multimodal_embedding_serving.errors import EmbeddingError
    from multimodal_embedding_serving.settings import Settings

    __version__: str

__all__ = [
    "AsyncClient",
    "BaseEmbeddingModel",
    "Client",
    "EmbeddingError",
    "EmbeddingModel",
    "Engine",
    "ModelFactory",
    "Settings",
    "__version__",
    "embed_folder",
    "embed_table",
    "get_model_handler",
    "list_available_models",
    "register_model_handler",
]

_MODULES = {
    "AsyncClient": "client",
    "Client": "client",
    "EmbeddingError": "errors",
    "Engine": "engine",
    "Settings": "settings",
    "embed_folder": "bulk.arrow",
    "embed_table": "bulk.arrow",
}
"""The module of each name; names that are not listed belong to the SDK, in `compat`."""


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "__version__":
        return import_module("importlib.metadata").version("multimodal-embedding-serving")
    return getattr(import_module(f"{__name__}.{_MODULES.get(name, 'compat')}"), name)


def __dir__() -> list[str]:
    return __all__
