"""The unmodified clients of Ollama, Text Embeddings Inference and Voyage against a running server.

Hugging Face's client is a dependency; the others run in an environment of their own.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
from typing import Any

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub.errors import HfHubHTTPError

from tests.api.fakes import FakeServing, text_row
from tests.api.test_native import image_vector
from tests.environments import environment
from tests.fakes import vector_of
from tests.media_files import write_image

MODEL = "clip-vit-b-32"
IMAGE = write_image("png")
PATIENCE = 300.0
"""Seconds for a script: some of the packages take long to import."""


def close(actual: Any, expected: Any) -> bool:
    return np.shape(actual) == np.shape(expected) and np.allclose(actual, expected, atol=1e-6)


def texts(letters: str, role: str | None = None) -> list[Any]:
    """What the fake tower gives for each letter."""
    return [vector_of(text_row(letter, role)) for letter in letters]


def run(serving: FakeServing, script: str) -> Any:
    """What the script prints last, as JSON; it knows BASE, MODEL and IMAGE."""
    image = base64.b64encode(IMAGE).decode()
    start = f"import json\nBASE, MODEL, IMAGE = {serving.url!r}, {MODEL!r}, {image!r}\n"
    done = subprocess.run(
        [environment("applications"), "-c", start + script],
        env={**os.environ, "NO_PROXY": "*", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_hugging_faces_client_embeds_and_compares(serving: FakeServing) -> None:
    client = huggingface_hub.InferenceClient(model=serving.url)
    assert close(client.feature_extraction("a"), texts("a"))
    actual = client.feature_extraction("a", normalize=False, truncate=True, prompt_name="query")
    assert close(actual, texts("a", "query"))
    cosines = client.sentence_similarity("a", other_sentences=["a", "b"])
    one, other = texts("ab")
    assert close(cosines, [1, one @ other])
    with pytest.raises(HfHubHTTPError, match="prompt_name"):
        client.feature_extraction("a", prompt_name="poem")


OLLAMA = """
import ollama
client = ollama.Client(host=BASE)
answer = client.embed(MODEL, ["a", "b"], truncate=True, options={"num_ctx": 77}, keep_alive="5m")
old = client.embeddings(MODEL, "a")["embedding"]
try:
    client.embed("llama3", "a")
except ollama.ResponseError as error:
    refused = [error.status_code, error.error]
listed = [each.model for each in client.list().models]
shown, loaded = client.show(MODEL), client.ps().models
from langchain_ollama import OllamaEmbeddings
chain = OllamaEmbeddings(model=MODEL, base_url=BASE, validate_model_on_init=True)
rows = [chain.embed_query("a"), *chain.embed_documents(["b", "c"])]
print(json.dumps([answer["embeddings"], answer["prompt_eval_count"], old, refused, listed,
                  shown.capabilities, shown.modelinfo, len(loaded), rows]))
"""


@pytest.mark.slow
def test_ollamas_client_and_langchains_class_over_it(serving: FakeServing) -> None:
    rows, tokens, old, refused, listed, capabilities, info, loaded, chain = run(serving, OLLAMA)
    assert close([*rows, old], texts("aba"))
    assert tokens == 4
    assert refused[0] == 404
    assert refused[1].startswith("The model 'llama3' does not exist")
    assert listed == ["CLIP/clip-vit-b-32:latest", "clip-vit-b-32:latest"]
    assert capabilities == ["embedding"]
    assert info["clip.embedding_length"] == 8
    assert loaded == 2
    assert close(chain, texts("abc"))


LLAMA_INDEX = """
from llama_index.embeddings.text_embeddings_inference import TextEmbeddingsInference
embedding = TextEmbeddingsInference(model_name=MODEL, base_url=BASE, embed_batch_size=2,
                                    query_instruction="", text_instruction="")
print(json.dumps([embedding.get_query_embedding("a"),
                  *embedding.get_text_embedding_batch(["b", "c", "d"])]))
"""


@pytest.mark.slow
def test_llamaindexs_class_for_text_embeddings_inference(serving: FakeServing) -> None:
    assert close(run(serving, LLAMA_INDEX), texts("abcd"))


VOYAGE = """
import base64, io
import voyageai
from PIL import Image
client = voyageai.Client(api_key="any", base_url=BASE + "/v1")
plain = client.embed(["a", "b"], model=MODEL, input_type="document")
kinds = {kind: client.embed(["a"], model=MODEL, output_dtype=kind).embeddings[0]
         for kind in ("int8", "uint8", "binary", "ubinary")}
image = Image.open(io.BytesIO(base64.b64decode(IMAGE)))
parts = client.multimodal_embed([["a"], [image], ["a", image]], model=MODEL)
errors = []
for options in ({"model": "voyage-3"}, {"truncation": False}, {"output_dimension": 4}):
    try:
        client.embed(["a" * 100], **{"model": MODEL, **options})
    except voyageai.error.VoyageError as error:
        errors.append([type(error).__name__, str(error)])
print(json.dumps([plain.embeddings, plain.total_tokens, kinds, parts.embeddings, errors]))
"""


@pytest.mark.slow
def test_voyages_client_decodes_what_it_asks_for(serving: FakeServing) -> None:
    plain, tokens, kinds, parts, errors = run(serving, VOYAGE)
    assert close(plain, texts("ab", "document"))
    assert tokens == 4
    (vector,) = texts("a")
    bits = np.packbits(vector > 0).astype(int)
    assert kinds["ubinary"] == bits.tolist()
    assert kinds["binary"] == (bits - 128).tolist()
    levels = np.array(kinds["int8"])
    assert levels @ vector / np.linalg.norm(levels) > 0.999
    assert (np.array(kinds["uint8"]) == levels + 128).all()
    seen = image_vector(IMAGE)  # the client sends it as lossless WebP
    mean = (vector + seen) / np.linalg.norm(vector + seen)
    assert close(parts, [vector, seen, mean])
    assert [name for name, _ in errors] == ["APIError", *["InvalidRequestError"] * 2]
    for (_, message), part in zip(errors, ("voyage-3", "truncation", "4"), strict=True):
        assert part in message
