"""Verbs are tested in process and over HTTP: each file has a `client` of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import multimodal_embedding_serving as mmes


@pytest.fixture(scope="module")
def engine() -> Iterator[mmes.Engine]:
    with mmes.Engine.open("Builtin/mini") as engine:
        yield engine


@pytest.fixture(params=["engine", "client"])
def embedder(request: pytest.FixtureRequest) -> mmes.Engine | mmes.Client:
    embedder: mmes.Engine | mmes.Client = request.getfixturevalue(request.param)
    return embedder
