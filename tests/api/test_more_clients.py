"""The unmodified clients of Cohere, LlamaIndex, Haystack and LiteLLM against a running server.

Those that look for a network of their own when imported run in a process of their own.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from tests.api.fakes import FakeServing, Start, text_row
from tests.api.test_native import image_vector
from tests.fakes import vector_of
from tests.lazy import lazy
from tests.media_files import write_image

cohere = lazy("cohere")
llama_index = lazy("llama_index.embeddings.openai")

MODEL = "clip-vit-b-32"
IMAGE = write_image("png")
URI = "data:image/png;base64," + base64.b64encode(IMAGE).decode()


def document(text: str, role: str | None = None) -> Any:
    return vector_of(text_row(text, role))


# ── Cohere ──


def test_coheres_client_embeds_texts_and_images_in_every_type(serving: FakeServing) -> None:
    client = cohere.ClientV2(api_key="none", base_url=serving.url)
    answer = client.embed(
        model=MODEL, texts=["a", "b"], input_type="search_document", embedding_types=["float"]
    )
    expected = [document("a", "document"), document("b", "document")]
    assert np.allclose(answer.embeddings.float_ or [], expected)
    kinds = ["int8", "uint8", "binary", "ubinary"]
    image = client.embed(model=MODEL, images=[URI], input_type="image", embedding_types=kinds)
    vector = image_vector(IMAGE)
    assert image.embeddings.ubinary == [np.packbits(vector > 0).tolist()]
    levels = np.array((image.embeddings.int8 or [])[0])
    assert levels @ vector / np.linalg.norm(levels) > 0.999
    assert image.meta is not None


def test_coheres_older_client_and_its_two_forms_of_response(serving: FakeServing) -> None:
    """langchain-cohere uses it, too."""
    client = cohere.Client(api_key="none", base_url=serving.url)
    kind = "search_query"
    plain = client.embed(model=MODEL, texts=["a", "b"], input_type=kind)
    expected = [document("a", "query"), document("b", "query")]
    assert np.allclose(plain.embeddings, expected)
    typed = client.embed(
        model=MODEL, texts=["a", "b"], input_type=kind, embedding_types=["float", "int8"]
    )
    assert np.allclose(typed.embeddings.float_, expected)
    assert np.shape(typed.embeddings.int8) == (2, 8)
    with pytest.raises(cohere.NotFoundError, match="does not exist"):
        client.embed(model="embed-v4.0", texts=["a"], input_type=kind)


def test_coheres_client_understands_our_refusals(serving: FakeServing, start: Start) -> None:
    client = cohere.ClientV2(api_key="none", base_url=serving.url)
    with pytest.raises(cohere.NotFoundError, match="does not exist"):
        client.embed(model="embed-v4.0", texts=["a"], input_type="search_query")
    locked = cohere.ClientV2(api_key="wrong", base_url=start(api_keys=("right",)).url)
    with pytest.raises(cohere.UnauthorizedError):
        locked.embed(model=MODEL, texts=["a"], input_type="search_query")


async def test_coheres_async_client_embeds_mixed_inputs(serving: FakeServing) -> None:
    client = cohere.AsyncClientV2(api_key="none", base_url=serving.url)
    parts: list[Any] = [
        {"content": [{"type": "text", "text": "a"}]},
        {"content": [{"type": "image_url", "image_url": {"url": URI}}]},
    ]
    answer = await client.embed(model=MODEL, inputs=parts, input_type="search_document")
    expected = [document("a", "document"), image_vector(IMAGE)]
    assert np.allclose(answer.embeddings.float_ or [], expected, atol=1e-6)


# ── LlamaIndex ──


def llama(serving: FakeServing) -> Any:
    return llama_index.OpenAIEmbedding(
        model_name=MODEL, api_base=f"{serving.url}/v1", api_key="none", embed_batch_size=3
    )


def test_llamaindex_embeds_queries_and_batches_of_documents(serving: FakeServing) -> None:
    embedding = llama(serving)
    assert np.allclose(embedding.get_query_embedding("a cat"), document("a cat"))
    actual = embedding.get_text_embedding_batch(list("abcdefg"))
    assert np.allclose(actual, [document(text) for text in "abcdefg"])


async def test_llamaindex_works_asynchronously(serving: FakeServing) -> None:
    assert np.allclose(await llama(serving).aget_query_embedding("a"), document("a"))


# ── in processes of their own ──


def run(serving: FakeServing, script: str, **environ: str) -> Any:
    """What the script prints last, as JSON; it knows BASE and MODEL."""
    start = f"BASE, MODEL = {serving.url!r}, {MODEL!r}\n"
    done = subprocess.run(
        [sys.executable, "-c", start + script],
        env={**os.environ, "NO_PROXY": "*", **environ},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


HAYSTACK = """
import json
from haystack import Document
from haystack.components.embedders import OpenAIDocumentEmbedder, OpenAITextEmbedder
from haystack.utils import Secret
options = dict(model=MODEL, api_base_url=BASE + "/v1", api_key=Secret.from_token("none"))
text = OpenAITextEmbedder(**options).run("a cat")["embedding"]
documents = [Document(content=each) for each in ("a", "b", "c")]
embedder = OpenAIDocumentEmbedder(**options, batch_size=2, progress_bar=False)
rows = [each.embedding for each in embedder.run(documents)["documents"]]
print(json.dumps([text, rows]))
"""


def test_haystack_embeds_texts_and_documents(serving: FakeServing) -> None:
    text, rows = run(serving, HAYSTACK, HAYSTACK_TELEMETRY_ENABLED="False")
    assert np.allclose(text, document("a cat"))
    assert np.allclose(rows, [document(each) for each in "abc"])


LITELLM = """
import json
import litellm
litellm.telemetry = False
options = dict(model="openai/" + MODEL, api_base=BASE + "/v1", api_key="none")
answer = litellm.embedding(input=["a", "b"], encoding_format="float", **options)
rows = [each["embedding"] for each in answer.data]
try:
    litellm.embedding(input=["a"], **{**options, "model": "openai/another"})
except litellm.NotFoundError as error:
    refused = str(error)
print(json.dumps([rows, answer.usage.prompt_tokens, refused]))
"""


def test_litellm_embeds_and_understands_a_refusal(serving: FakeServing) -> None:
    """Its list of prices would come from the network: its own copy serves."""
    rows, tokens, refused = run(serving, LITELLM, LITELLM_LOCAL_MODEL_COST_MAP="True")
    assert np.allclose(rows, [document("a"), document("b")])
    assert tokens == 4
    assert "does not exist" in refused
