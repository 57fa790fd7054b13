"""The API page: Swagger UI from the package's own files, over a document that it can show."""

from __future__ import annotations

import hashlib
import re
from typing import Any

import httpx2
import pytest

from multimodal_embedding_serving.api.app import create_app
from multimodal_embedding_serving.api.docs import FILES
from multimodal_embedding_serving.api.openapi import TAGS
from multimodal_embedding_serving.settings import Settings

SHIPPED = {
    "swagger-ui-bundle.js": "e6a898692f2d768e807c3ba4626068a69a2c5dd960dd6c76f3e4d3a3de180af2",
    "swagger-ui.css": "5ed08757e53da3e026d6cbecc61fe5d43585c9560b302d534ad56692519a273d",
}
"""SHA-256 of the files of npm's swagger-ui-dist 5.35.0."""


@pytest.mark.parametrize("path", ["/docs", "/docs/"])
def test_the_page_loads_files_of_this_server_only(http: httpx2.Client, path: str) -> None:
    page = http.get(path)
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    links = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(links) == 4
    for link in links:
        assert http.get(str(httpx2.URL(f"http://host{path}").join(link).path)).status_code == 200
    policy = page.headers["content-security-policy"]
    assert "default-src 'self';" in policy
    assert "http" not in policy
    assert "script-src" not in policy  # no inline scripts either


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_swagger_ui_is_as_it_was_published(name: str) -> None:
    assert hashlib.sha256((FILES / name).read_bytes()).hexdigest() == SHIPPED[name]


def test_licenses_are_shipped_and_served(http: httpx2.Client) -> None:
    text = http.get("/docs/LICENSES.txt").text
    assert "Apache License" in text
    assert "SmartBear" in text


def test_nothing_else_can_be_had_below_it(http: httpx2.Client) -> None:
    for path in ("/docs/index.html", "/docs/..%2fapp.py", "/docs/docs.py"):
        assert http.get(path).status_code == 404


def document(**changes: Any) -> dict[str, Any]:
    return create_app(Settings.from_env({}, **changes)).openapi()


def test_every_operation_has_a_tag_and_a_summary_of_its_own() -> None:
    tags = {tag["name"] for tag in TAGS}
    operations = [each for methods in document()["paths"].values() for each in methods.values()]
    assert {tag for each in operations for tag in each["tags"]} == tags
    assert all(len(each["tags"]) == 1 for each in operations)
    assert len({each["summary"] for each in operations}) == len(operations) - 1  # /model/list


def test_examples_are_in_place() -> None:
    for path, methods in document()["paths"].items():
        content = methods.get("post", {}).get("requestBody", {}).get("content", {})
        if "application/json" in content:
            examples = content["application/json"]["examples"]
            assert len(examples) >= 2, path
            assert all(each["value"] for each in examples.values())


def test_a_key_is_described_and_asked_for_where_it_is_needed() -> None:
    keyless, keyed = document(), document(api_keys=("secret",))
    for each in (keyless, keyed):
        scheme = each["components"]["securitySchemes"]["ApiKey"]
        assert (scheme["type"], scheme["scheme"]) == ("http", "bearer")
    assert "security" not in keyless
    assert keyed["security"] == [{"ApiKey": []}]
    assert keyed["paths"]["/live"]["get"]["security"] == []
    assert "security" not in keyed["paths"]["/embeddings"]["post"]
