"""POST /v1/rerank and /v2/rerank: the shape that Cohere, Jina, vLLM and infinity share.

One body serves the clients of all of them. Errors have the format of the path's dialect.
"""

from __future__ import annotations

import uuid
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from multimodal_embedding_serving.api.errors import json_response
from multimodal_embedding_serving.api.request_body import read_json
from multimodal_embedding_serving.api.scored_items import read_field, score_documents
from multimodal_embedding_serving.api.scoring_schemas import RerankAnswer, RerankRequest
from multimodal_embedding_serving.api.service import Service
from multimodal_embedding_serving.api.vectors import FINGERPRINT
from multimodal_embedding_serving.errors import InvalidInput
from multimodal_embedding_serving.sdk.similarity import rank

ABOUT_RERANK = (
    "`relevance_score` is the cosine of the query and the document, -1 to 1: its order is "
    "meaningful, a threshold depends on the model."
)


def with_rerank(routes: APIRouter, service: Service, errors: str) -> APIRouter:
    """The routes of a dialect, with `/rerank` added; `errors` names whose errors it has."""

    @routes.post(
        "/rerank",
        summary=f"Order documents by their relevance to a query, with {errors}'s errors",
        description=ABOUT_RERANK,
        response_model=RerankAnswer,
    )
    async def rerank(request: Request) -> Response:
        engine, settings = service.ready_engine(), service.settings
        parsed = await read_json(request, settings, RerankRequest)
        service.require(parsed.model)
        if parsed.rank_fields not in (None, ["text"]):
            message = "rank_fields: only ['text'] is supported; send documents with that field"
            raise InvalidInput(message, param="rank_fields")
        if isinstance(parsed.query, list):
            raise InvalidInput("query: must be one item, not a list", param="query")
        query = await read_field("query", parsed.query, settings, role="query")
        documents = await read_field("documents", parsed.documents, settings, role="document")
        scores, tokens = await score_documents(request, engine, query, documents)
        results = [
            _result(index, float(scores[index]), parsed) for index in rank(scores, parsed.top_n)
        ]
        body = {
            "id": str(uuid.uuid4()),
            "object": "rerank",
            "model": parsed.model or engine.info.id,
            "results": results,
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
            "meta": {"api_version": {"version": "2"}, "billed_units": {"search_units": 1}},
        }
        return json_response(body, headers={FINGERPRINT: engine.info.fingerprint})

    return routes


def _result(index: int, score: float, parsed: RerankRequest) -> dict[str, Any]:
    result: dict[str, Any] = {"index": index, "relevance_score": score}
    if parsed.return_documents:
        document = parsed.documents[index]
        result["document"] = {"text": document} if isinstance(document, str) else document
    return result
