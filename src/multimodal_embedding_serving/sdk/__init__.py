"""What `Engine` and the clients share: the verbs, how arguments are read, and the results."""

from multimodal_embedding_serving.sdk.embedder import AsyncEmbedder, Embedder
from multimodal_embedding_serving.sdk.results import (
    ItemFailure,
    PartialResult,
    VideoFrame,
    VideoVectors,
)

__all__ = [
    "AsyncEmbedder",
    "Embedder",
    "ItemFailure",
    "PartialResult",
    "VideoFrame",
    "VideoVectors",
]
