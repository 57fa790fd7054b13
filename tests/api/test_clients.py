"""The unmodified OpenAI and LangChain clients against a running server."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import pytest
from pydantic import SecretStr

from tests.api.fakes import FakeServing, Start, text_row
from tests.api.test_native import image_vector
from tests.fakes import vector_of
from tests.lazy import lazy
from tests.media_files import photo, write_image, write_video

if TYPE_CHECKING:
    import langchain_openai
    import openai
    import tiktoken
else:
    langchain_openai, openai, tiktoken = map(lazy, ("langchain_openai", "openai", "tiktoken"))

MODEL = "clip-vit-b-32"


@pytest.fixture
def client(serving: FakeServing) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{serving.url}/v1", api_key="none") as client:
        yield client


def uri(data: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def test_openais_client_gets_exact_vectors_by_its_default_base64(client: openai.OpenAI) -> None:
    answer = client.embeddings.create(model=MODEL, input=["a", "b"], user="someone")
    actual = [np.array(each.embedding, np.float32) for each in answer.data]
    assert [each.index for each in answer.data] == [0, 1]
    assert (actual[1] == vector_of(text_row("b"))).all()
    assert (answer.object, answer.model) == ("list", MODEL)
    assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (4, 4)


def test_openais_client_gets_the_same_as_floats(client: openai.OpenAI) -> None:
    answer = client.embeddings.create(model=MODEL, input="a", encoding_format="float")
    assert np.allclose(answer.data[0].embedding, vector_of(text_row("a")))


async def test_openais_async_client_works(serving: FakeServing) -> None:
    async with openai.AsyncOpenAI(base_url=f"{serving.url}/v1", api_key="none") as client:
        answer = await client.embeddings.create(model=MODEL, input=["a"] * 40)
        assert len(answer.data) == 40
        assert [model.id async for model in client.models.list()] == ["CLIP/clip-vit-b-32"]


def test_models_are_listed_and_found_by_any_spelling(client: openai.OpenAI) -> None:
    assert client.models.list().data[0].owned_by == "CLIP"
    assert client.models.retrieve("CLIP/clip-vit-b-32").id == "CLIP/clip-vit-b-32"
    assert client.models.retrieve(MODEL).id == MODEL


def test_an_unknown_model_is_openais_404(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.embeddings.create(model="text-embedding-3-small", input="a")
    assert caught.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-4")


def test_an_alias_stands_for_the_loaded_model(start: Start) -> None:
    url = start(aliases=("text-embedding-3-small",)).url
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none") as client:
        answer = client.embeddings.create(model="text-embedding-3-small", input="a")
        assert answer.model == "text-embedding-3-small"
        assert "text-embedding-3-small" in [model.id for model in client.models.list()]


def test_dimensions_other_than_the_models_are_refused(client: openai.OpenAI) -> None:
    assert client.embeddings.create(model=MODEL, input="a", dimensions=8).data
    with pytest.raises(openai.BadRequestError) as caught:
        client.embeddings.create(model=MODEL, input="a", dimensions=4)
    assert caught.value.param == "dimensions"


def test_vectors_are_cut_and_renormalised_where_the_model_allows_it(start: Start) -> None:
    url = start(facts={"min_dimension": 2}).url
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none") as client:
        actual = client.embeddings.create(model=MODEL, input="a", dimensions=4).data[0].embedding
        head = vector_of(text_row("a"))[:4]
        assert np.allclose(actual, head / np.linalg.norm(head))
        with pytest.raises(openai.BadRequestError):
            client.embeddings.create(model=MODEL, input="a", dimensions=1)


@pytest.mark.parametrize("value", ["", [], ["a", ""]])
def test_empty_input_is_openais_400(client: openai.OpenAI, value: str | list[str]) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.embeddings.create(model=MODEL, input=value)
    assert caught.value.type == "invalid_request_error"
    assert caught.value.param == "input"


def test_input_type_and_instruction_set_the_role(client: openai.OpenAI) -> None:
    def embed(**body: str) -> list[float]:
        answer = client.embeddings.create(model=MODEL, input="a", extra_body=body)
        vector: list[float] = answer.data[0].embedding
        return vector

    assert np.allclose(embed(input_type="query"), vector_of(text_row("a", "query")))
    assert np.allclose(embed(input_type="passage"), vector_of(text_row("a", "document")))
    query = embed(input_type="query", instruction="Find")
    assert np.allclose(query, vector_of(text_row("a", "query", "Find")))
    with pytest.raises(openai.BadRequestError, match="input_type"):
        embed(input_type="poem")


def test_a_list_may_mix_texts_images_and_videos_in_every_dialect(client: openai.OpenAI) -> None:
    first_image, other = write_image("png"), write_image("webp", photo(seed=3))
    clip = uri(write_video(frames=4), "video/mp4")
    items = [
        "plain",
        {"text": "jina"},
        {"image": uri(first_image)},
        {"image": base64.b64encode(other).decode()},
        uri(other, "image/webp"),
        {"type": "text", "text": "chat"},
        {"type": "image_url", "image_url": {"url": uri(first_image)}},
        {"type": "image_url", "image_url": uri(other)},
        {"video": clip},
        {"type": "video_url", "video_url": {"url": clip}},
        clip,
    ]
    answer = client.embeddings.create(model=MODEL, input=items)
    actual = [each.embedding for each in answer.data]
    image, second = image_vector(first_image), image_vector(other)
    texts = [vector_of(text_row(text)) for text in ("plain", "jina", "chat")]
    expected = [texts[0], texts[1], image, second, second, texts[2], image, second]
    assert np.allclose(actual[:8], expected, atol=1e-6)
    assert actual[8] == actual[9] == actual[10]
    assert np.isclose(np.linalg.norm(actual[8]), 1)


def test_modality_says_what_plain_strings_are(client: openai.OpenAI) -> None:
    first_image = write_image("png")
    value = base64.b64encode(first_image).decode()
    for modality in ("image", ["image"]):
        body = {"modality": modality}
        answer = client.embeddings.create(model=MODEL, input=[value], extra_body=body)
        assert np.allclose(answer.data[0].embedding, image_vector(first_image))
    with pytest.raises(openai.BadRequestError, match="modality"):
        client.embeddings.create(model=MODEL, input=["a"], extra_body={"modality": "smell"})


@pytest.mark.parametrize(
    "item", [{}, {"text": "a", "image": "b"}, {"image": 5}, 5.5, None, True, {"text": ""}]
)
def test_an_item_of_no_dialect_is_a_400_that_names_it(client: openai.OpenAI, item: object) -> None:
    with pytest.raises(openai.BadRequestError, match=r"input\[1\]: ") as caught:
        client.embeddings.create(model=MODEL, input=["a", item])
    assert caught.value.param == "input"


@pytest.mark.parametrize("value", [[1, 2], [[1, 2], [3]]])
def test_token_ids_are_a_400_that_names_the_clients_setting(
    client: openai.OpenAI, value: list[int]
) -> None:
    with pytest.raises(openai.BadRequestError, match="check_embedding_ctx_length=False"):
        client.embeddings.create(model=MODEL, input=value)


def test_our_own_token_ids_are_accepted_by_setting(start: Start) -> None:
    url = start(token_ids="model").url  # noqa: S106
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none") as client:
        one = client.embeddings.create(model=MODEL, input=list(map(ord, "cat")))
        assert np.allclose(one.data[0].embedding, vector_of(text_row("cat")))
        several = client.embeddings.create(model=MODEL, input=[[97], [98]])
        assert np.allclose(several.data[1].embedding, vector_of(text_row("b")))
        with pytest.raises(openai.BadRequestError, match=r"input\[1\]: "):
            client.embeddings.create(model=MODEL, input=[[97], []])


@pytest.fixture
def byte_vocabulary(monkeypatch: pytest.MonkeyPatch) -> None:
    """cl100k_base with one token a byte: tiktoken would download the real one."""
    ranks = {bytes([value]): value for value in range(256)}
    pattern = r"\S+|\s+"
    encoding = tiktoken.Encoding(
        "cl100k_base", pat_str=pattern, mergeable_ranks=ranks, special_tokens={}
    )
    monkeypatch.setitem(tiktoken.registry.ENCODINGS, "cl100k_base", encoding)


@pytest.mark.usefixtures("byte_vocabulary")
def test_openais_token_ids_are_decoded_by_setting(start: Start) -> None:
    url = start(token_ids="cl100k").url  # noqa: S106
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none") as client:
        answer = client.embeddings.create(model=MODEL, input=[[97], [98]])
        assert np.allclose(answer.data[1].embedding, vector_of(text_row("b")))
        with pytest.raises(openai.BadRequestError, match="not in the cl100k_base vocabulary"):
            client.embeddings.create(model=MODEL, input=[[97], [300]])


def langchain(serving: FakeServing, **options: bool) -> langchain_openai.OpenAIEmbeddings:
    return langchain_openai.OpenAIEmbeddings(
        model=MODEL,
        base_url=f"{serving.url}/v1",
        api_key=SecretStr("none"),
        **options,
    )


def test_langchain_works_with_the_setting(serving: FakeServing) -> None:
    embeddings = langchain(serving, check_embedding_ctx_length=False)
    assert np.allclose(embeddings.embed_query("a cat"), vector_of(text_row("a cat")))
    assert np.allclose(embeddings.embed_documents(["a", "b"])[1], vector_of(text_row("b")))


async def test_langchain_works_asynchronously(serving: FakeServing) -> None:
    embeddings = langchain(serving, check_embedding_ctx_length=False)
    assert np.allclose(await embeddings.aembed_query("a"), vector_of(text_row("a")))


@pytest.mark.usefixtures("byte_vocabulary")
def test_langchains_default_gets_the_400_that_names_the_setting(serving: FakeServing) -> None:
    with pytest.raises(openai.BadRequestError, match="check_embedding_ctx_length=False"):
        langchain(serving).embed_query("a cat")
