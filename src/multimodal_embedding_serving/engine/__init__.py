"""One loaded model and everything that serves it; users need only `Engine`."""

from multimodal_embedding_serving.engine.engine import Engine

__all__ = ["Engine"]
