"""The OpenAPI document is true: whatever fits it, or nearly, is answered as it says."""

from __future__ import annotations

import base64
import json
import re
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from multimodal_embedding_serving.api.app import create_app
from multimodal_embedding_serving.settings import Settings
from tests.api.fakes import FakeServing
from tests.lazy import lazy

schemathesis = lazy("schemathesis")
checks = lazy("schemathesis.checks")
conformance = lazy("schemathesis.specs.openapi.checks")

EXAMPLES = 60

DOCUMENT = create_app(Settings.from_env({})).openapi()
OPERATIONS = {
    f"{method.upper()} {path}" for path, methods in DOCUMENT["paths"].items() for method in methods
}


@pytest.fixture(scope="module")
def operations() -> dict[str, Any]:
    """Each operation by its name; one that schemathesis can't read raises here."""
    results = schemathesis.openapi.from_dict(DOCUMENT).get_all_operations()
    return {each.ok().label: each.ok() for each in results}


@pytest.mark.parametrize("label", sorted(OPERATIONS))
def test_an_operation_answers_as_its_document_says(
    label: str, operations: dict[str, Any], serving: FakeServing
) -> None:
    modes = schemathesis.GenerationMode
    cases = [operations[label].as_strategy(generation_mode=mode) for mode in modes]

    @given(st.one_of(cases))
    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
    def check(case: Any) -> None:
        response = case.call(base_url=serving.url, timeout=60)
        case.validate_response(
            response,
            checks=[
                checks.not_a_server_error,
                conformance.status_code_conformance,
                conformance.content_type_conformance,
                conformance.response_schema_conformance,
            ],
        )

    check()


def test_every_route_is_in_the_document() -> None:
    assert {"POST /embeddings", "POST /v1/embeddings", "POST /v2/embed"} <= OPERATIONS


def test_the_data_uris_of_the_examples_have_their_true_media_type() -> None:
    signatures = {"image/png": b"\x89PNG\r\n\x1a\n", "image/gif": b"GIF89a"}
    uris = re.findall(r"data:([\w/]+);base64,([\w+/=]+)", json.dumps(DOCUMENT))
    assert {media_type for media_type, _ in uris} == set(signatures)
    for media_type, data in uris:
        assert base64.b64decode(data).startswith(signatures[media_type])
