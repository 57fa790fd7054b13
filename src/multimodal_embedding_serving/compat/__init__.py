"""The names that users of Intel's Multimodal Embedding Serving SDK know, over `Engine`.

Their programs run unchanged: a handler is made, loaded, and asked for vectors that behave like
torch tensors where it matters. New programs use `Engine` itself.
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
