"""The OpenAPI document is true: whatever fits it, or nearly, is answered as it says."""

from __future__ import annotations

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from multimodal_embedding_serving.api.app import create_app
from multimodal_embedding_serving.settings import Settings
from tests.api.fakes import FakeServing

EXAMPLES = 60
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


schema = schemathesis.openapi.from_dict(create_app(Settings.from_env({})).openapi())
OPERATIONS = {
    each.ok().label: each.ok() for each in schema.get_all_operations() if isinstance(each, Ok)
}


@pytest.mark.parametrize("label", OPERATIONS)
def test_an_operation_answers_as_its_document_says(label: str, serving: FakeServing) -> None:
    cases = [OPERATIONS[label].as_strategy(generation_mode=mode) for mode in GenerationMode]

    @given(st.one_of(cases))
    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
    def check(case: schemathesis.Case[Any]) -> None:
        response = case.call(base_url=serving.url, timeout=60)
        case.validate_response(response, checks=CHECKS)

    check()


def test_every_route_is_in_the_document() -> None:
    assert {"POST /embeddings", "POST /v1/embeddings", "POST /v2/embed"} <= OPERATIONS.keys()
