"""What `Engine` and the clients share: the verbs, how arguments are read, and the results."""

from multimodal_embedding_serving.sdk.embedder import AsyncEmbedder, Embedder
from multimodal_embedding_serving.sdk.results import (
    Classification,
    ItemFailure,
    PartialResult,
    Ranked,
    VideoFrame,
    VideoVectors,
)

__all__ = [
    "AsyncEmbedder",
    "Classification",
    "Embedder",
    "ItemFailure",
    "PartialResult",
    "Ranked",
    "VideoFrame",
    "VideoVectors",
]
