"""One open model: loaded, fed, kept healthy; `Engine` is all that users need of it."""

from multimodal_embedding_serving.engine.engine import Engine

__all__ = ["Engine"]
