"""Checkpoints on disk and on the hub: located, memory-mapped, renamed, never executed."""

from multimodal_embedding_serving.checkpoints.safetensors import read_safetensors
from multimodal_embedding_serving.checkpoints.shards import read_weights
from multimodal_embedding_serving.checkpoints.torch_file import read_pickle
from multimodal_embedding_serving.checkpoints.weights import StoredTensor, Weights

__all__ = ["StoredTensor", "Weights", "read_pickle", "read_safetensors", "read_weights"]
