"""POST /classify and POST /score: inputs against labels, and a query against documents."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from fastapi import APIRouter, Request
from starlette.responses import Response

from multimodal_embedding_serving.api.errors import json_response
from multimodal_embedding_serving.api.request_body import read_chosen, read_json
from multimodal_embedding_serving.api.schemas import ErrorAnswer
from multimodal_embedding_serving.api.scored_items import (
    ScoredField,
    embed_fields,
    read_field,
    score_documents,
)
from multimodal_embedding_serving.api.scoring_schemas import (
    ClassifyAnswer,
    ClassifyRequest,
    ScoreAnswer,
    ScoreRequest,
)
from multimodal_embedding_serving.api.service import Service
from multimodal_embedding_serving.api.vectors import FINGERPRINT, MAX_INLINE_NUMBERS
from multimodal_embedding_serving.engine.loader import ModelInfo
from multimodal_embedding_serving.errors import BadRequest, InvalidInput
from multimodal_embedding_serving.inputs.items import InputLimits, Texts
from multimodal_embedding_serving.sdk.similarity import (
    IMAGE_TEMPLATE,
    TEXT_TEMPLATE,
    Scores,
    fill,
    pool_labels,
    read_labels,
    read_templates,
)
from multimodal_embedding_serving.types import Vectors

ABOUT_CLASSIFY = (
    "Zero-shot: each label is put into a template and embedded as a text. `scores` are "
    "probabilities: softmax, or sigmoid for models that learned a bias (SigLIP). `calibrated` is "
    "false for models that learned no scale; their scores have the right order only."
)
ABOUT_SCORE = "The cosine of one query and each document, -1 to 1, in the documents' order."


def classify_routes(service: Service) -> APIRouter:
    """The native routes that compare, over one service."""
    error: dict[str, Any] = {"model": ErrorAnswer}
    routes = APIRouter(responses={"4XX": error, "5XX": error}, tags=["Compare"])

    @routes.post(
        "/classify",
        summary="Classify texts, images or videos by labels of your own",
        description=ABOUT_CLASSIFY,
        response_model=ClassifyAnswer,
    )
    async def classify(request: Request) -> Response:
        engine = service.ready_engine()
        parsed = await read_chosen(request, service.settings, _require_labels)
        service.require_native(parsed.model)
        inputs = await _read_inputs(parsed, service)
        sets = _template_sets(parsed, inputs, service)
        vectors, tokens = await embed_fields(request, engine, (*(s.field for s in sets), inputs))
        arguments = parsed, engine.info, sets, vectors, tokens
        if len(inputs.inputs) * len(parsed.labels) <= MAX_INLINE_NUMBERS:
            return _respond(*arguments)
        return await asyncio.to_thread(_respond, *arguments)

    _add_score(routes, service)
    return routes


def _add_score(routes: APIRouter, service: Service) -> None:
    @routes.post(
        "/score",
        summary="Compare a query with documents",
        description=ABOUT_SCORE,
        response_model=ScoreAnswer,
    )
    async def score(request: Request) -> Response:
        engine, settings = service.ready_engine(), service.settings
        parsed = await read_json(request, settings, ScoreRequest)
        service.require_native(parsed.model)
        name, value = _one_of(query=parsed.query, text_1=parsed.text_1)
        if isinstance(value, list):
            raise InvalidInput(f"{name}: must be one item, not a list", param=name)
        query = await read_field(name, value, settings, role="query")
        name, value = _one_of(documents=parsed.documents, text_2=parsed.text_2)
        documents = await read_field(name, value, settings, role="document")
        scores, tokens = await score_documents(request, engine, query, documents)
        data = [
            {"object": "score", "index": index, "score": value}
            for index, value in enumerate(scores.tolist())
        ]
        return _list_response(engine.info, data, tokens)


def _require_labels(body: Mapping[str, Any]) -> type[ClassifyRequest]:
    """Clients of servers whose models have labels of their own send none."""
    if body.get("labels") is None:
        raise BadRequest(
            "labels: is required, a list of strings: this server's models have no labels of their "
            "own",
            param="labels",
        )
    return ClassifyRequest


def _one_of(**fields: Any) -> tuple[str, Any]:
    """The name and value of the one field that is given. Raises InvalidInput."""
    given = [(name, value) for name, value in fields.items() if value is not None]
    if len(given) != 1:
        raise InvalidInput(f"exactly one of {' and '.join(fields)} is required")
    return given[0]


async def _read_inputs(parsed: ClassifyRequest, service: Service) -> ScoredField:
    name, value = _one_of(input=parsed.input, images=parsed.images)
    # Both sides in one role: neither searches for the other.
    return await read_field(name, value, service.settings, role="document", images=name == "images")


class LabelSet:
    """The labels in the templates of some of the inputs."""

    def __init__(self, labels: Sequence[str], templates: Sequence[str], rows: list[int]) -> None:
        texts = fill(labels, templates)
        inputs = [Texts([text], "document", many=False) for text in texts]
        self.templates, self.rows = templates, rows
        """`rows`: the inputs that are compared with these labels."""
        self.field = ScoredField("labels", inputs, inputs_per_item=len(templates))


def _template_sets(
    parsed: ClassifyRequest, inputs: ScoredField, service: Service
) -> list[LabelSet]:
    """The templates of the request for all inputs, or the default of texts and that of media."""
    labels, templates = read_labels(parsed.labels), read_templates(parsed.template)
    InputLimits.of(service.settings).check(len(labels) * len(templates or "_"))
    everything = list(range(len(inputs.inputs)))
    if templates is not None:
        return [LabelSet(labels, templates, everything)]
    texts = {place for place in everything if isinstance(inputs.inputs[place], Texts)}
    halves = {TEXT_TEMPLATE: sorted(texts), IMAGE_TEMPLATE: sorted({*everything} - texts)}
    return [LabelSet(labels, [default], rows) for default, rows in halves.items() if rows]


def _respond(
    parsed: ClassifyRequest,
    info: ModelInfo,
    sets: Sequence[LabelSet],
    vectors: Sequence[Vectors],
    tokens: int,
) -> Response:
    inputs, calibration = vectors[-1], info.calibration
    scores: Scores = np.empty((len(inputs), len(parsed.labels)))
    for each, label_texts in zip(sets, vectors, strict=False):  # the last are the inputs
        labels = pool_labels(label_texts, each.templates)
        scores[each.rows] = calibration.probabilities(inputs[each.rows], labels, parsed.activation)
    data = [
        {"index": index, "label": parsed.labels[row.argmax()], "scores": row.tolist()}
        for index, row in enumerate(scores)
    ]
    return _list_response(
        info,
        data,
        tokens,
        labels=parsed.labels,
        activation=parsed.activation or calibration.activation,
        calibrated=calibration.learned,
    )


def _list_response(
    info: ModelInfo, data: Sequence[Mapping[str, Any]], tokens: int, **facts: Any
) -> Response:
    body = {"object": "list", "model": info.id, **facts, "data": data}
    body["usage"] = {"prompt_tokens": tokens, "total_tokens": tokens}
    return json_response(body, headers={FINGERPRINT: info.fingerprint})
