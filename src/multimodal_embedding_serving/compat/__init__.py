"""The API of Intel's Multimodal Embedding Serving SDK, on top of `Engine`.

Programs written for it run unchanged: they create a handler, load it, and get vectors that behave
like torch tensors where it matters. New programs should use `Engine` itself.
"""

from multimodal_embedding_serving.compat.application import EmbeddingModel
from multimodal_embedding_serving.compat.handlers import (
    BaseEmbeddingModel,
    ModelFactory,
    get_model_handler,
    list_available_models,
    register_model_handler,
)

__all__ = [
    "BaseEmbeddingModel",
    "EmbeddingModel",
    "ModelFactory",
    "get_model_handler",
    "list_available_models",
    "register_model_handler",
]
