"""Clients of a running server; importing them loads neither the engine nor a web framework."""

from multimodal_embedding_serving.client.client import AsyncClient, Client

__all__ = ["AsyncClient", "Client"]
