"""The APIs of applications, by the bodies that these send: each vector equals the native one.

immich, Weaviate and Frigate have no client in a registry; their bodies follow their public source
(immich's machine-learning.repository.ts, Weaviate's multi2vec-clip/clients/vectorizer.go, Frigate's
genai/llama_cpp.py).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import httpx2
import numpy as np
import pytest

from multimodal_embedding_serving.types import Vector
from tests.api.fakes import DIMENSION, MAX_LENGTH, Start, text_row
from tests.api.test_native import b64, image_vector
from tests.fakes import vector_of
from tests.media_files import photo, write_image, write_video

IMAGE, OTHER = write_image("jpeg", photo(48, 32)), write_image("webp", photo(seed=3))
IMMICHS_NAME = "ViT-B-32__laion2b-s34b-b79k"
TASKS = ("facial-recognition", "ocr")
LONG = "x" * (MAX_LENGTH + 1)


def text_vector(text: str, role: str | None = None) -> Vector:
    return vector_of(text_row(text, role))


def close(actual: Any, expected: Any) -> bool:
    return np.shape(actual) == np.shape(expected) and np.allclose(actual, expected, atol=1e-6)


def post(http: httpx2.Client, path: str, body: Any, status: int = 200) -> Any:
    """The answer to a body without a Content-Type, as Weaviate's modules send it."""
    answer = http.post(path, content=json.dumps(body).encode())
    assert answer.status_code == status, answer.text
    return answer.json()


# ── immich ──


def predict(http: httpx2.Client, entries: Any, status: int = 200, **parts: Any) -> Any:
    form = {"entries": (None, entries if isinstance(entries, str) else json.dumps(entries))}
    answer = http.post("/predict", files={**form, **parts})
    assert answer.status_code == status, answer.text
    return answer.json()


def entry(kind: str, model: str = IMMICHS_NAME, **more: Any) -> Any:
    return {"clip": {kind: {"modelName": model, **more}}}


def test_immich_gets_the_vector_of_a_text_as_a_string(http: httpx2.Client) -> None:
    for options in ({"language": "en"}, {}):
        answer = predict(http, entry("textual", options=options), text=(None, "a cat"))
        assert list(answer) == ["clip"]
        assert " " not in answer["clip"]
        assert close(json.loads(answer["clip"]), text_vector("a cat", "query"))


def test_immich_gets_the_vector_and_the_size_of_an_image(http: httpx2.Client) -> None:
    part = ("blob", IMAGE, "application/octet-stream")
    answer = predict(http, entry("visual"), image=part)
    assert close(json.loads(answer["clip"]), image_vector(IMAGE))
    assert (answer["imageHeight"], answer["imageWidth"]) == (32, 48)
    assert http.get("/ping").text == "pong"


def test_immichs_names_are_those_of_models_with_the_same_weights(http: httpx2.Client) -> None:
    text = (None, "a")
    for name in ("clip-vit-b-32", f"immich-app/{IMMICHS_NAME}", IMMICHS_NAME.upper()):
        assert predict(http, entry("textual", name), text=text)["clip"]
    for other in ("ViT-B-32__openai", "ViT-B-16__openai"):
        assert "does not exist" in predict(http, entry("textual", other), 404, text=text)["detail"]


@pytest.mark.parametrize(
    ("entries", "parts", "status", "message"),
    [
        ("{", {}, 422, "entries: must be JSON"),
        ([], {}, 422, "entries: must be a valid dictionary"),
        ({"clip": {"textual": {}}}, {}, 422, "entries.clip.textual.modelName: is required"),
        (entry("smell"), {}, 422, "must have one of textual and visual"),
        (entry("textual"), {}, 400, "no part 'text'"),
        (entry("visual"), {"text": (None, "a")}, 400, "no part 'image'"),
        (entry("visual"), {"image": ("blob", b"text")}, 415, "not a supported image format"),
        (entry("textual"), {"text": (None, b"\xff")}, 422, "not valid UTF-8"),
    ],
)
def test_immichs_wrong_forms_are_rejected(
    http: httpx2.Client, entries: Any, parts: Any, status: int, message: str
) -> None:
    assert message in predict(http, entries, status, **parts)["detail"]


def test_json_is_not_immichs_form(http: httpx2.Client) -> None:
    assert "takes immich's form" in post(http, "/predict", {"inputs": "a"}, 422)["detail"]


class Upstream(BaseHTTPRequestHandler):
    """Stands in for immich's own service: returns the form that it got."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200 if self.path == "/ml/predict" else 404)
        self.send_header("content-type", self.headers["content-type"])
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Do nothing: the tests check the responses."""


@pytest.fixture
def upstream() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Upstream) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/ml/"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("task", TASKS)
def test_immichs_other_tasks_are_forwarded_as_they_came(
    start: Start, upstream: str, task: str
) -> None:
    entries = json.dumps({task: {"detection": {"modelName": "buffalo_l", "options": {}}}})
    files: Any = {"entries": (None, entries), "image": ("blob", IMAGE)}
    with httpx2.Client(base_url=start(immich_upstream=upstream).url) as client:
        request = client.build_request("POST", "/predict", files=files)
        body = request.read()
        answer = client.send(request)
        assert (answer.status_code, answer.content) == (200, body)
        assert answer.headers["content-type"] == request.headers["content-type"]
        both = {task: json.loads(entries)[task], **entry("visual")}
        assert "only 'clip'" in predict(client, both, 422, image=("blob", IMAGE))["detail"]


def test_immichs_other_tasks_are_rejected_without_an_upstream(
    http: httpx2.Client, start: Start
) -> None:
    entries = {"ocr": {"detection": {"modelName": "PP-OCRv5_mobile"}}}
    assert "EMBEDDING_IMMICH_UPSTREAM" in predict(http, entries, 422)["detail"]
    with httpx2.Client(base_url=start(immich_upstream="http://127.0.0.1:9").url) as client:
        assert "could not be reached" in predict(client, entries, 424)["detail"]


# ── Weaviate ──


def test_weaviate_gets_a_vector_for_each_text_and_image(http: httpx2.Client) -> None:
    body = {"texts": ["a", "b"], "images": [b64(IMAGE), f"data:image/webp;base64,{b64(OTHER)}"]}
    answer = post(http, "/vectorize", body)
    assert list(answer) == ["textVectors", "imageVectors"]
    assert close(answer["textVectors"], [text_vector("a"), text_vector("b")])
    assert close(answer["imageVectors"], [image_vector(IMAGE), image_vector(OTHER)])


def test_weaviate_gets_both_lists_for_one_or_none(http: httpx2.Client) -> None:
    assert post(http, "/vectorize", {}) == {"textVectors": [], "imageVectors": []}
    answer = post(http, "/vectorize", {"texts": ["a"], "images": None})
    assert close(answer["textVectors"], [text_vector("a")])
    assert answer["imageVectors"] == []


def test_weaviates_bind_module_gets_a_vector_for_a_video(http: httpx2.Client) -> None:
    answer = post(http, "/vectorize", {"video": [b64(write_video(frames=4))], "audio": []})
    assert np.isclose(np.linalg.norm(answer["videoVectors"]), 1)
    assert "audio: is not supported" in post(http, "/vectorize", {"audio": ["a"]}, 422)["error"]


def test_weaviate_is_shown_the_item_at_fault(http: httpx2.Client) -> None:
    body = {"texts": ["a", "b"], "images": [b64(IMAGE), b64(b"\xff\xd8" + b"x" * 40)]}
    assert post(http, "/vectorize", body, 422)["error"].startswith("images[1]: ")
    assert list(post(http, "/vectorize", {"texts": "a"}, 422)) == ["error"]


def test_weaviates_error_names_no_item_where_none_is_at_fault(start: Start) -> None:
    with httpx2.Client(base_url=start(("text",)).url) as client:
        error = post(client, "/vectorize", {"images": [b64(IMAGE)]}, 400)["error"]
        assert "does not embed image input" in error


def test_weaviate_waits_for_the_model_and_reads_its_description(http: httpx2.Client) -> None:
    for path in ("/.well-known/ready", "/.well-known/live"):
        assert http.get(path).status_code == 204
    assert http.get("/meta").json()["model"] == "CLIP/clip-vit-b-32"


# ── Ollama ──


def test_ollamas_route_returns_vectors_and_counters(http: httpx2.Client) -> None:
    body = {"model": "clip-vit-b-32:latest", "input": ["a", "b"], "truncate": None}
    answer = post(http, "/api/embed", {**body, "options": {"num_gpu": None}, "keep_alive": -1.0})
    assert close(answer["embeddings"], [text_vector("a"), text_vector("b")])
    assert answer["model"] == body["model"]
    assert answer["prompt_eval_count"] == 4
    assert answer["total_duration"] > 0
    one = post(http, "/api/embed", {"model": "clip-vit-b-32", "input": "a"})
    assert close(one["embeddings"], [text_vector("a")])
    old = post(http, "/api/embeddings", {"model": "clip-vit-b-32", "prompt": "a"})
    assert close(old["embedding"], text_vector("a"))


def test_ollamas_empty_inputs_have_no_vectors(http: httpx2.Client) -> None:
    empty: list[Any] = ["", []]
    for value in empty:
        body = {"model": "clip-vit-b-32", "input": value}
        assert post(http, "/api/embed", body)["embeddings"] == []
    body = {"model": "clip-vit-b-32", "prompt": ""}
    assert post(http, "/api/embeddings", body) == {"embedding": []}


def test_ollamas_dimensions_are_honored_or_rejected(http: httpx2.Client, start: Start) -> None:
    body = {"model": "clip-vit-b-32", "input": "a", "dimensions": 4}
    assert "4" in post(http, "/api/embed", body, 400)["error"]
    with httpx2.Client(base_url=start(facts={"min_dimension": 2}).url) as client:
        head = text_vector("a")[:4]
        actual = post(client, "/api/embed", body)["embeddings"]
        assert close(actual, [head / np.linalg.norm(head)])


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("embed", {"model": "llama3", "input": "a"}, 404),
        ("embed", {"model": "clip-vit-b-32", "input": [5]}, 400),
        ("embed", {"model": "clip-vit-b-32", "input": LONG, "truncate": False}, 400),
        ("embed", {"input": "a"}, 400),
        ("embeddings", {"model": "llama3", "prompt": "a"}, 404),
        ("show", {"model": "llama3"}, 404),
        ("show", {}, 400),
        ("pull", {"model": "llama3"}, 404),
    ],
)
def test_ollamas_errors_are_strings(http: httpx2.Client, path: str, body: Any, status: int) -> None:
    answer = post(http, f"/api/{path}", body, status)
    assert list(answer) == ["error"]
    assert isinstance(answer["error"], str)


def test_ollamas_clients_find_every_name_of_the_model(start: Start) -> None:
    url = start(aliases=("nomic-embed-text", "mxbai:v1")).url
    listed = httpx2.get(f"{url}/api/tags").json()["models"]
    names = [each["model"] for each in listed]
    assert names == [
        "CLIP/clip-vit-b-32:latest",
        "clip-vit-b-32:latest",
        "nomic-embed-text:latest",
        "mxbai:v1",
    ]
    for name in names:
        shown = httpx2.post(f"{url}/api/show", json={"model": name}).json()
        assert shown["capabilities"] == ["embedding"]
        assert shown["model_info"]["clip.embedding_length"] == DIMENSION
    assert len(httpx2.get(f"{url}/api/ps").json()["models"]) == len(names)
    assert httpx2.head(f"{url}/api/version").status_code == 200


# ── Text Embeddings Inference ──


@pytest.mark.parametrize("path", ["/embed", "/"])
def test_tei_returns_bare_lists(http: httpx2.Client, path: str) -> None:
    body = {"inputs": "a", "normalize": False, "truncate": True}
    assert close(post(http, path, body), [text_vector("a")])
    actual = post(http, path, {"inputs": ["a", "b"], "prompt_name": "passage"})
    assert close(actual, [text_vector("a", "document"), text_vector("b", "document")])


@pytest.mark.parametrize("path", ["/similarity", "/"])
def test_tei_compares_sentences(http: httpx2.Client, path: str) -> None:
    body = {"inputs": {"source_sentence": "a", "sentences": ["a", "b"]}, "parameters": {}}
    assert close(post(http, path, body), [1, text_vector("a") @ text_vector("b")])


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("/embed", {"inputs": []}, "inputs must not be empty"),
        ("/embed", {"inputs": ["a", ""]}, "inputs[1]: must not be empty"),
        ("/embed", {"inputs": [LONG], "truncate": False}, "use truncate=true"),
        ("/embed", {"inputs": "a", "truncation_direction": "left"}, "truncation_direction"),
        ("/embed", {"inputs": "a", "prompt_name": "poem"}, "prompt_name"),
        ("/embed", {"inputs": "a", "dimensions": 4}, "4"),
        ("/embed", {"inputs": [[1, 2]]}, "token ids are not accepted"),
        ("/", {}, "inputs"),
        ("/", {"inputs": "b", "parameters": {"candidate_labels": ["a"]}}, "zero-shot"),
    ],
)
def test_teis_errors_have_its_types(
    http: httpx2.Client, path: str, body: Any, message: str
) -> None:
    answer = post(http, path, body, 422)
    assert message in answer["error"]
    assert answer["error_type"] == "Validation"


def test_tei_describes_the_model(http: httpx2.Client) -> None:
    info = http.get("/info").json()
    assert info["model_id"] == "CLIP/clip-vit-b-32"
    assert info["max_input_length"] == MAX_LENGTH


# ── Voyage ──


def test_voyages_parts_give_one_vector_for_each_input(http: httpx2.Client) -> None:
    text = {"type": "text", "text": "a"}
    image = {"type": "image_base64", "image_base64": f"data:image/webp;base64,{b64(OTHER)}"}
    video = {"type": "video_base64", "video_base64": b64(write_video(frames=4))}
    inputs = [{"content": each} for each in ([text], [image], [text, image], [video])]
    nulls = dict.fromkeys(("output_dtype", "output_dimension"))
    body = {"inputs": inputs, "model": "clip-vit-b-32", "input_type": "document", **nulls}
    answer = post(http, "/v1/multimodalembeddings", body)
    rows = [each["embedding"] for each in answer["data"]]
    own, seen = text_vector("a", "document"), image_vector(OTHER)
    mean = (own + seen) / np.linalg.norm(own + seen)
    assert close(rows[:3], [own, seen, mean])
    assert np.isclose(np.linalg.norm(rows[3]), 1)
    assert answer["usage"]["text_tokens"] == 4
    assert set(answer["usage"]) == {"text_tokens", "image_pixels", "video_pixels", "total_tokens"}


def test_voyages_errors_name_the_part(http: httpx2.Client) -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": LONG}]
    body = {"inputs": [{"content": parts}], "truncation": False}
    answer = post(http, "/v1/multimodalembeddings", body, 400)
    assert answer["detail"].startswith("inputs[0].content[1]: text exceeds")
    assert answer["error"]["message"] == answer["detail"]
    empty: list[Any] = [{"inputs": []}, {"inputs": [{"content": []}]}]
    for wrong in empty:
        post(http, "/v1/multimodalembeddings", wrong, 400)


# ── llama.cpp, as Frigate calls it ──


def test_frigate_gets_a_list_of_rows_for_texts_and_images(http: httpx2.Client) -> None:
    texts = [{"prompt_string": "a man at the door"}, {"prompt_string": "b"}]
    answer = post(http, "/embeddings", {"model": "clip-vit-b-32", "content": texts})
    expected = [[text_vector("a man at the door")], [text_vector("b")]]
    assert close([each["embedding"] for each in answer], expected)
    image = {"prompt_string": "<__media__>\n", "multimodal_data": [b64(IMAGE)]}
    both = {"prompt_string": "<__media__>b", "multimodal_data": [b64(IMAGE)]}
    answer = post(http, "/embeddings", {"content": [image, both]})
    own, seen = text_vector("b"), image_vector(IMAGE)
    mean = (own + seen) / np.linalg.norm(own + seen)
    assert close([each["embedding"] for each in answer], [[seen], [mean]])
    assert [each["index"] for each in answer] == [0, 1]


def test_langchains_llamafile_gets_an_object_for_a_string(http: httpx2.Client) -> None:
    answer = post(http, "/embedding", {"content": "a"})
    assert list(answer) == ["embedding"]
    assert close(answer["embedding"], text_vector("a"))


def test_frigate_finds_the_model_and_the_marker(start: Start) -> None:
    url = start(aliases=("frigate-clip",)).url
    (first, _) = httpx2.get(f"{url}/v1/models").json()["data"]
    assert first["aliases"] == ["clip-vit-b-32", "frigate-clip"]
    assert first["architecture"]["input_modalities"] == ["text", "image"]
    props = httpx2.get(f"{url}/props", params={"model": "frigate-clip"}).json()
    assert props["media_marker"] == "<__media__>"
    assert props["modalities"]["vision"] is True


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({"content": []}, 400, "content"),
        ({"content": ["a", {"prompt_string": "b", "multimodal_data": ["x"]}]}, 400, "content[1]: "),
        ({"content": ["a", ""]}, 400, "content[1]: must not be empty"),
        ({"content": [1, 2]}, 400, "content[0]: must be a valid string"),
        ({"content": [{"prompt_string": 5}]}, 400, "content[0].prompt_string: must be"),
        ({"content": "a", "embd_normalize": -1}, 400, "embd_normalize: must be 2"),
        ({"content": "a", "model": "llama3"}, 404, "does not exist"),
    ],
)
def test_llamacpps_errors_have_its_form(
    http: httpx2.Client, body: Any, status: int, message: str
) -> None:
    for path in ("/embeddings", "/embedding"):
        error = post(http, path, body, status)["error"]
        assert error["code"] == status
        assert message in error["message"]


# ── all of them ──


ROUTES = (
    ("immich", "GET", "/ping"),
    ("weaviate", "GET", "/meta"),
    ("ollama", "GET", "/api/tags"),
    ("tei", "GET", "/info"),
    ("voyage", "POST", "/v1/multimodalembeddings"),
    ("llamacpp", "GET", "/props"),
)


def test_the_setting_leaves_applications_out(start: Start) -> None:
    for dialects in ("none", "ollama,tei"):
        with httpx2.Client(base_url=start(dialects=dialects).url) as client:
            for name, method, path in ROUTES:
                answer = client.request(method, path)
                assert (answer.status_code == 404) == (name not in dialects), path
            answer = post(client, "/embeddings", {"content": "a"}, 422)
            assert answer["detail"] == "input: is required"


def test_a_key_is_needed_except_for_probes(start: Start) -> None:
    with httpx2.Client(base_url=start(api_keys=("right",)).url) as client:
        for path in ("/ping", "/.well-known/ready", "/.well-known/live", "/"):
            assert client.get(path).is_success
        for _, method, path in ROUTES[1:]:
            assert client.request(method, path).status_code == 401
        for path in ("/", "/predict", "/vectorize", "/embed", "/api/embed", "/embedding"):
            assert client.post(path, json={"inputs": "a"}).status_code == 401
