"""Clients that are not Python's, unmodified: curl, the JDK, Go, and five packages of npm.

Their programs are in tests/api/clients. `.ci/run` installs the runtimes, and `make test-all` the
packages, in the versions of tests/api/clients/package-lock.json, into the folder .node.
"""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.api.fakes import FakeServing, text_row
from tests.api.test_native import b64, image_vector
from tests.fakes import vector_of
from tests.media_files import write_image

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent.parent
PROGRAMS = Path(__file__).parent / "clients"
PACKAGES = ROOT / ".node"
OLDEST_NODE = {"langchain": 20}
"""The version that a program's packages need; the others do with 18."""
PATIENCE = 300.0
"""Seconds for a program, which Java and Go compile first."""

MODEL = "clip-vit-b-32"
BODY = json.dumps({"model": MODEL, "input": ["a", "b"]})
IMAGE = write_image("png")


def texts(letters: str, role: str | None = None) -> Any:
    """What the fake tower gives for each letter."""
    return [vector_of(text_row(letter, role)) for letter in letters]


def need(command: str, package: str) -> None:
    if shutil.which(command) is None:
        pytest.skip(f"{command} is not installed: apt-get install {package}")


def run(command: Sequence[str | Path], **options: Any) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, **options)
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


def check(answer: Any) -> None:
    """The answer to BODY."""
    assert np.allclose([row["embedding"] for row in answer["data"]], texts("ab")), answer


# ── curl ──


def curl(*arguments: str | Path) -> list[str]:
    """The lines of the answer; the last one is the status and the version of HTTP."""
    need("curl", "curl")
    flags = ("--silent", "--noproxy", "*", "--write-out", "\\n%{http_code} %{http_version}")
    return run(["curl", *flags, *arguments]).splitlines()


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/embeddings/", "/embeddings"])
def test_curl_offers_http2_and_keeps_its_body(serving: FakeServing, path: str) -> None:
    body, state = curl("--http2", "--data", BODY, serving.url + path)
    assert state == "200 1.1"
    check(json.loads(body))


def test_curl_offers_http2_with_a_large_body_it_waits_to_send(
    serving: FakeServing, tmp_path: Path
) -> None:
    """Above 1 MB, curl sends `Expect: 100-continue` beside the offer."""
    large = tmp_path / "body.json"
    large.write_text(BODY + " " * (2 << 20))
    url = f"{serving.url}/v1/embeddings"
    body, state = curl("--http2", "--data-binary", f"@{large}", url)
    assert state == "200 1.1"
    check(json.loads(body))
    chunked = ("--header", "Transfer-Encoding: chunked")
    check(json.loads(curl("--http2", *chunked, "--data-binary", f"@{large}", url)[0]))


def test_curl_uploads_a_form_with_an_offer(serving: FakeServing, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(IMAGE)
    form = ("--form", f"file=@{tmp_path / 'a.png'}")
    body, _ = curl("--http2", *form, f"{serving.url}/v1/embeddings")
    assert np.allclose(json.loads(body)["data"][0]["embedding"], image_vector(IMAGE), atol=1e-6)


def test_curl_probes_with_head(serving: FakeServing) -> None:
    *_, state = curl("--head", f"{serving.url}/health")
    assert state == "200 1.1"


# ── the JDK and Go ──


def test_the_jdks_client_offers_h2c_and_keeps_its_body(serving: FakeServing) -> None:
    need("javac", "default-jdk-headless")
    program = PROGRAMS / "Jdk.java"
    answers = json.loads(run(["java", program, f"{serving.url}/v1/embeddings", BODY]))
    assert len(answers) == 16
    for answer in answers:
        check(answer)


def test_gos_client_is_answered_on_one_connection(serving: FakeServing, tmp_path: Path) -> None:
    need("go", "golang-go")
    binary = tmp_path / "net_http"
    run(["go", "build", "-o", binary, PROGRAMS / "net_http.go"])
    *posts, head, models = json.loads(run([binary, serving.url, BODY]))
    assert len(posts) == 7
    for answer in posts:
        assert answer["status"] == 200, answer
        check(answer["body"])
    assert (head["status"], head["body"]) == (200, None)
    assert models["body"]["object"] == "list"
    assert [answer["reused"] for answer in (*posts, head, models)] == [False] + [True] * 8


# ── npm ──


def node(name: str, serving: FakeServing, *arguments: str) -> Any:
    """What a program prints, as JSON."""
    need_node(name)
    if not (PACKAGES / "node_modules").is_dir():
        pytest.skip("the packages of npm are not installed: apt-get install npm; make .node/.made")
    return run_node(name, serving, *arguments, cwd=PACKAGES)


def need_node(name: str) -> None:
    need("node", "nodejs")
    version = run(["node", "--version"]).strip()
    oldest = OLDEST_NODE.get(name, 18)
    if int(version.removeprefix("v").partition(".")[0]) < oldest:
        pytest.skip(f"node {version} is too old: {name}.mjs needs {oldest} or newer")


def run_node(name: str, serving: FakeServing, *arguments: str, cwd: Path | None = None) -> Any:
    program = (PROGRAMS / f"{name}.mjs").read_text(encoding="utf-8")
    # Read from standard input, it finds the packages of its working directory.
    command = ["node", "--input-type=module", "-", serving.url, MODEL, *arguments]
    return json.loads(run(command, cwd=cwd, input=program))


def decoded(row: Any) -> Any:
    """A vector as numbers; OpenAI's client leaves base64 alone that was asked for by name."""
    if not isinstance(row, str):
        return row
    return np.frombuffer(base64.b64decode(row), "<f4")


def test_openais_package_embeds_with_and_without_v1(serving: FakeServing) -> None:
    answer = node("openai", serving)
    assert len(answer["rows"]) == 9
    for rows in answer["rows"]:
        assert np.allclose([decoded(row) for row in rows], texts("ab"))
    assert answer["refusal"] == ["NotFoundError", 404, "model_not_found"]
    assert answer["listed"] == ["model"]


def test_vercels_ai_sdk_embeds_one_and_many(serving: FakeServing) -> None:
    answer = node("ai_sdk", serving)
    assert np.allclose([answer["one"]], texts("a"))
    assert np.allclose(answer["many"], texts("abc"))
    assert answer["usage"] == {"tokens": 2}
    status, message = answer["refusal"]
    assert status == 404
    assert message.startswith("The model 'another' does not exist")


def test_langchains_package_sends_texts(serving: FakeServing) -> None:
    answer = node("langchain", serving)
    assert np.allclose([answer["query"]], texts("a"))
    assert np.allclose(answer["documents"], texts("abcde"))


def test_coheres_package_embeds_texts_and_images(serving: FakeServing) -> None:
    answer = node("cohere", serving, f"data:image/png;base64,{b64(IMAGE)}")
    assert np.allclose(answer["texts"]["float"], texts("ab", "document"))
    assert np.allclose(answer["images"]["float"], [image_vector(IMAGE)], atol=1e-6)
    assert np.shape(answer["texts"]["int8"]) == (2, 8)
    assert answer["refusal"] == ["NotFoundError", 404]


def test_ollamas_package_embeds_and_finds_the_model(serving: FakeServing) -> None:
    answer = node("ollama", serving)
    assert np.allclose(answer["answer"]["embeddings"], texts("ab"), atol=1e-6)
    assert answer["answer"]["prompt_eval_count"] == 4
    assert np.allclose([*answer["one"], answer["old"]], [*texts("a"), *texts("a")], atol=1e-6)
    status, message = answer["refusal"]
    assert status == 404
    assert message.startswith("The model 'llama3' does not exist")
    assert f"{MODEL}:latest" in answer["listed"]
    assert answer["shown"] == ["embedding"]


def test_nodes_form_is_immichs(serving: FakeServing) -> None:
    need_node("immich")
    answer = run_node("immich", serving, b64(IMAGE))
    assert answer["ok"] is True
    assert np.allclose(json.loads(answer["text"]["clip"]), texts("a", "query")[0], atol=1e-6)
    visual = answer["visual"]
    assert np.allclose(json.loads(visual["clip"]), image_vector(IMAGE), atol=1e-6)
    assert {"clip", "imageHeight", "imageWidth"} == set(visual)
    assert answer["faces"] == 422
