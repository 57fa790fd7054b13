"""Measure on the probe set whether the embeddings of two models are comparable.

Each of the two is a bundle, a model's name, or the URL of a running server, ours or Intel's MME.
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

MIN_COSINE = BOUNDS["int8"] or 0.98
"""Two forms of one model reach this cosine: it is the loosest bound of the accuracy checks."""
REQUEST_TIMEOUT = 120.0
"""Seconds, for one request to a server."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Operand:
    """One of the two models, and its vectors of the probe set."""

    name: str
    """As the user wrote it."""
    model: str
    dimension: int
    fingerprint: str | None
    """None if the server does not report one: Intel's MME does not."""
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
    """Of the modalities that both embed; empty if their dimensions differ."""

    @property
    def same(self) -> bool:
        """Whether both report a fingerprint, and the same one."""
        return self.first.fingerprint is not None and (
            self.first.fingerprint == self.second.fingerprint
        )

    @property
    def comparable(self) -> bool:
        minima = [each.minimum for each in self.cosines.values()]
        return bool(minima) and min(minima) >= MIN_COSINE

    @property
    def verdict(self) -> str:
        """One line for a person."""
        if self.first.dimension != self.second.dimension:
            dimensions = f"{self.first.dimension} and {self.second.dimension}"
            return f"not comparable: the dimensions differ ({dimensions})"
        if not self.comparable:
            return f"not comparable: the lowest cosine is below {MIN_COSINE}"
        if self.same:
            return "identical: the fingerprints are equal"
        return f"comparable: the lowest cosine is at least {MIN_COSINE}"

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
        operands = [
            f"{each.name}: {each.model}, {each.dimension} dimensions, "
            f"fingerprint {each.fingerprint or 'not reported'}"
            for each in (self.first, self.second)
        ]
        cosines = [
            f"{name}: lowest cosine {each.minimum:.5f}, mean {each.mean:.5f}"
            for name, each in self.cosines.items()
        ]
        return "\n".join([*operands, *cosines, self.verdict])


def compare(
    first: str,
    second: str,
    settings: Settings,
    *,
    api_key: str | None = None,
    progress: Progress = ignore_progress,
) -> Comparison:
    """Compare the vectors of two models; a model that is not converted yet is converted first.

    `settings` apply to models that run here, `api_key` to servers. Raises what loading a model
    raises, RemoteFailed for a server, and InvalidInput if the two share no modality.
    """
    one, other = (
        ask_server(name, api_key)
        if name.startswith(protocol.WEB)
        else run_here(dataclasses.replace(settings, model=name), progress)
        for name in (first, second)
    )
    shared = one.vectors.keys() & other.vectors.keys()
    if not shared:
        kinds = [" and ".join(sorted(each.vectors)) for each in (one, other)]
        raise InvalidInput(
            f"can't compare {first}, which embeds only {kinds[0]}, with {second}, which embeds "
            f"only {kinds[1]}"
        )
    if one.dimension != other.dimension:
        return Comparison(one, other, {})
    cosines: dict[Modality, Cosines] = {}
    for modality in sorted(shared):
        values = (unit(one.vectors[modality]) * unit(other.vectors[modality])).sum(1)
        cosines[modality] = Cosines(float(values.min()), float(values.mean()))
    return Comparison(one, other, cosines)


def unit(vectors: Vectors) -> Vectors:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def run_here(settings: Settings, progress: Progress) -> Operand:
    """Load the model that the settings name, and embed the probe set."""
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
    """Embed the probe set through the native endpoints, which ours and Intel's MME share."""
    headers = {} if api_key is None else {"authorization": f"Bearer {api_key}"}
    with httpx2.Client(base_url=url, headers=headers, timeout=REQUEST_TIMEOUT) as http:
        current = _call(http, ApiRequest("GET", "/model/current"))
        modalities = _call(http, ApiRequest("GET", "/model/capabilities")).get("modalities", ())
        model = str(current.get("model", ""))
        vectors: dict[Modality, Vectors] = {}
        if "text" in modalities:
            vectors["text"] = _embed(http, model, {"type": "text", "text": list(PROBE_TEXTS)})
        if "image" in modalities:
            sources = [protocol.media_item("image", image) for image in probe_images()]
            rows = [_embed(http, model, {"type": kind, kind: value}) for kind, value in sources]
            vectors["image"] = np.concatenate(rows)
    if not vectors:
        supported = " nor ".join(get_args(Modality))
        raise RemoteFailed(f"{url}: its /model/capabilities list neither {supported}")
    dimension = next(iter(vectors.values())).shape[1]
    return Operand(
        name=url,
        model=model,
        dimension=dimension,
        fingerprint=current.get("fingerprint"),
        vectors=vectors,
    )


def _embed(http: httpx2.Client, model: str, source: Mapping[str, Any]) -> Vectors:
    body = {"model": model, "input": source, "encoding_format": "float"}
    return protocol.read_vectors(_call(http, ApiRequest("POST", "/embeddings", body)))


def _call(http: httpx2.Client, call: ApiRequest) -> dict[str, Any]:
    """The JSON object in the server's response. Raises the server's error, or RemoteFailed."""
    reply: protocol.Reply
    try:
        reply = http.request(call.method, call.path, **call.payload())
    except httpx2.TransportError as error:
        reply = error
    body = protocol.read_reply(call, reply)
    if not isinstance(body, dict):
        raise RemoteFailed(f"{call.path}: the response is not a JSON object")
    return body
