"""Whether the vectors of two models may stand in one index: measured on the probe set.

Either side is a bundle, a model's name, or the URL of a running server, ours or Intel's MME.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

import httpx2
import numpy as np

from multimodal_embedding_serving.client import protocol as protocol
from multimodal_embedding_serving.client.protocol import ApiRequest
from multimodal_embedding_serving.conversion.parity import BOUNDS
from multimodal_embedding_serving.conversion.probe_inputs import PROBE_TEXTS, probe_images
from multimodal_embedding_serving.engine import Engine
from multimodal_embedding_serving.errors import InvalidInput, RemoteFailed
from multimodal_embedding_serving.settings import Settings
from multimodal_embedding_serving.types import Modality, Progress, Vectors, ignore_progress

LEAST = BOUNDS["int8"] or 0.98
"""The cosine that two forms of one model reach: the loosest bound of the certificates."""
PATIENCE = 120.0
"""Seconds that a server may take for one request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Operand:
    """One of the two: what it is, and its vectors of the probe set."""

    name: str
    """As it was asked for."""
    model: str
    dimension: int
    fingerprint: str | None
    """None where the server tells none: MME's do not."""
    vectors: Mapping[Modality, Vectors]


@dataclass(frozen=True, slots=True)
class Cosines:
    """Over the probes of one modality."""

    minimum: float
    mean: float


@dataclass(frozen=True, slots=True)
class Comparison:
    first: Operand
    second: Operand
    cosines: Mapping[Modality, Cosines]
    """Of what both embed; empty where their vectors are not of one length."""

    @property
    def same(self) -> bool:
        """Both tell a fingerprint, and it is the same."""
        return self.first.fingerprint is not None and (
            self.first.fingerprint == self.second.fingerprint
        )

    @property
    def comparable(self) -> bool:
        return bool(self.cosines) and all(each.minimum >= LEAST for each in self.cosines.values())

    @property
    def verdict(self) -> str:
        """One line for a person."""
        if self.first.dimension != self.second.dimension:
            lengths = f"{self.first.dimension} and {self.second.dimension}"
            return f"not comparable: their vectors have {lengths} numbers"
        if not self.comparable:
            return f"not comparable: a cosine is below {LEAST}"
        if self.same:
            return "the same: equal fingerprints"
        return f"comparable: every cosine is at least {LEAST}"

    def facts(self) -> dict[str, Any]:
        """For a program."""
        return {
            "comparable": self.comparable,
            "verdict": self.verdict,
            "models": [each.model for each in (self.first, self.second)],
            "fingerprints": [each.fingerprint for each in (self.first, self.second)],
            "cosines": {name: dataclasses.asdict(each) for name, each in self.cosines.items()},
        }

    def report(self) -> str:
        """For a person."""
        sides = [
            f"{each.name}: {each.model}, {each.dimension} numbers, "
            f"fingerprint {each.fingerprint or 'not told'}"
            for each in (self.first, self.second)
        ]
        measured = [
            f"{name}: cosine {each.minimum:.5f} at least, {each.mean:.5f} on average"
            for name, each in self.cosines.items()
        ]
        return "\n".join([*sides, *measured, self.verdict])


def compare(
    first: str,
    second: str,
    settings: Settings,
    *,
    api_key: str | None = None,
    progress: Progress = ignore_progress,
) -> Comparison:
    """Measure two models against each other; one that is not converted yet is converted.

    `settings` hold for what runs here, `api_key` for servers. Raises what opening a model raises,
    RemoteFailed for a server, and InvalidInput where they embed nothing in common.
    """
    one, other = (
        ask_server(name, api_key)
        if name.startswith(protocol.WEB)
        else run_here(dataclasses.replace(settings, model=name), progress)
        for name in (first, second)
    )
    shared = one.vectors.keys() & other.vectors.keys()
    if not shared:
        raise InvalidInput(f"{first} and {second} embed nothing in common")
    if one.dimension != other.dimension:
        return Comparison(one, other, {})
    found: dict[Modality, Cosines] = {}
    for modality in sorted(shared):
        cosines = (unit(one.vectors[modality]) * unit(other.vectors[modality])).sum(1)
        found[modality] = Cosines(float(cosines.min()), float(cosines.mean()))
    return Comparison(one, other, found)


def unit(vectors: Vectors) -> Vectors:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def run_here(settings: Settings, progress: Progress) -> Operand:
    """Open the model that the settings name, and embed the probe set."""
    with Engine.open(settings=settings, progress=progress) as engine:
        vectors: dict[Modality, Vectors] = {}
        if "text" in engine.info.modalities:
            vectors["text"] = engine.embed(texts=list(PROBE_TEXTS), role="document")
        if "image" in engine.info.modalities:
            vectors["image"] = engine.embed(images=probe_images())
        return Operand(
            name=settings.model,
            model=engine.info.id,
            dimension=engine.info.dimension,
            fingerprint=engine.info.fingerprint,
            vectors=vectors,
        )


def ask_server(url: str, api_key: str | None) -> Operand:
    """Embed the probe set by the native endpoints, which ours and Intel's MME share."""
    headers = {} if api_key is None else {"authorization": f"Bearer {api_key}"}
    with httpx2.Client(base_url=url, headers=headers, timeout=PATIENCE) as http:
        current = _call(http, ApiRequest("GET", "/model/current"))
        offered = _call(http, ApiRequest("GET", "/model/capabilities")).get("modalities", ())
        model = str(current.get("model", ""))
        vectors: dict[Modality, Vectors] = {}
        if "text" in offered:
            vectors["text"] = _embed(http, model, {"type": "text", "text": list(PROBE_TEXTS)})
        if "image" in offered:
            sources = [protocol.image_item(picture) for picture in probe_images()]
            rows = [_embed(http, model, {"type": kind, kind: value}) for kind, value in sources]
            vectors["image"] = np.concatenate(rows)
    if not vectors:
        raise RemoteFailed(f"{url} says that it embeds none of {', '.join(get_args(Modality))}")
    dimension = next(iter(vectors.values())).shape[1]
    mark = current.get("fingerprint")
    return Operand(name=url, model=model, dimension=dimension, fingerprint=mark, vectors=vectors)


def _embed(http: httpx2.Client, model: str, source: Mapping[str, Any]) -> Vectors:
    body = {"model": model, "input": source, "encoding_format": "float"}
    return protocol.rows(_call(http, ApiRequest("POST", "/embeddings", body)))


def _call(http: httpx2.Client, call: ApiRequest) -> dict[str, Any]:
    """The JSON object that the server answers. Raises its error, or RemoteFailed."""
    reply: protocol.Reply
    try:
        reply = http.request(call.method, call.path, **call.payload())
    except httpx2.TransportError as error:
        reply = error
    body = protocol.answer(call, reply)
    if not isinstance(body, dict):
        raise RemoteFailed(f"{call.path} did not answer as an embedding server does")
    return body
