"""Families over HTTP: from a repository on the loopback hub to vectors that are the oracle's."""

from __future__ import annotations

import base64
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest

from multimodal_embedding_serving.transforms.image import ImageTransform
from multimodal_embedding_serving.types import Vectors
from tests.hub_standin import HubStandIn
from tests.lazy import lazy
from tests.media_files import photo, write_image
from tests.parity.oracles import Oracle, widen
from tests.parity.towers import cosine
from tests.repositories import QWEN_ENTRIES, qwen_tokenizer, small_checkpoint, write_repository
from tests.serving import Running, serving
from tests.small_clip import repository

torch = lazy("torch")
transformers = lazy("transformers")

CN_CLIP, QWEN = "cn-clip-vit-b-16", "qwen3-embedding-0.6b"
MIN_COSINE = 0.99999
CHINESE = ["一只猫睡在沙发上", "两只狗在海滩上奔跑", "上海的夜景照片"]
TASK = "Given a web search query, retrieve relevant passages that answer the query"


@contextmanager
def serve(folder: Path, model: str, **environ: str) -> Iterator[Running]:
    """`mmes serve` of a repository that only the loopback hub has, computing in float32."""
    with HubStandIn() as hub:
        hub.add(f"tests/{model}", repository(write_repository(folder / model, model)))
        told = {
            "EMBEDDING_MODEL_NAME": f"hf:tests/{model}",
            "EMBEDDING_OV_MODELS_DIR": str(folder / "models"),
            "EMBEDDING_PRECISION": "f32",
            "OV_INFERENCE_NUM_THREADS": "1",
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(folder / "cache"),
            "NO_PROXY": "*",
        }
        command = [sys.executable, "-m", "multimodal_embedding_serving", "serve", "--port", "0"]
        with serving(command, environ={**told, **environ}) as running:
            yield running


def embed(running: Running, source: Mapping[str, Any]) -> Any:
    answer = httpx2.post(f"{running.url}/embeddings", json={"input": source})
    assert answer.status_code == 200, answer.text
    return answer.json()["embedding"]


def embed_v1(running: Running, given: Any, **more: Any) -> Vectors:
    answer = httpx2.post(f"{running.url}/v1/embeddings", json={"input": given, **more})
    assert answer.status_code == 200, answer.text
    return np.array([each["embedding"] for each in answer.json()["data"]], np.float32)


def refusal(running: Running, path: str, **body: Any) -> tuple[int, str]:
    answer = httpx2.post(f"{running.url}{path}", json=body)
    told = answer.json()
    return answer.status_code, str(told.get("error", {}).get("message") or told.get("detail"))


# ── CN-CLIP ──


@pytest.fixture(scope="module", params=["torch", pytest.param("openvino", marks=pytest.mark.slow)])
def cn_clip(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    use = {"EMBEDDING_USE_OV": str(request.param == "openvino"), "EMBEDDING_DEVICE": "cpu"}
    with serve(tmp_path_factory.mktemp("cn-clip"), CN_CLIP, **use) as running:
        current = httpx2.get(f"{running.url}/model/current").json()
        assert (current["model"], current["backend"]) == (f"tests/{CN_CLIP}", request.param)
        assert current["use_openvino"] == (request.param == "openvino")
        assert ("-torch-" in current["fingerprint"]) == (request.param == "torch")
        yield running


@pytest.fixture(scope="module")
def oracle() -> Oracle:
    arrays, config = small_checkpoint(CN_CLIP)
    assert config is not None
    return Oracle(config, arrays)


def wordpieces(texts: Sequence[str]) -> list[Any]:
    """By the transformers library's own tokenizer."""
    vocabulary = Path(__file__).parent.parent / "golden" / "tokenizers" / "vocab.txt"
    read = transformers.BertTokenizer(str(vocabulary))
    return [np.array(read(text)["input_ids"]) for text in texts]


def test_a_chinese_text_has_the_oracles_vector(cn_clip: Running, oracle: Oracle) -> None:
    expected = oracle.texts(wordpieces(CHINESE), 52, 0)
    actual = embed(cn_clip, {"type": "text", "text": CHINESE})
    assert cosine(np.array(actual), expected) >= MIN_COSINE
    alone = embed(cn_clip, {"type": "text", "text": CHINESE[0]})
    assert cosine(np.array([alone]), expected[:1]) >= MIN_COSINE


def test_a_picture_has_the_oracles_vector(cn_clip: Running, oracle: Oracle) -> None:
    images = [photo(seed=1), photo(seed=2)]
    side = oracle.model.config.vision_config.image_size
    rows = [ImageTransform(side, "squash", "bicubic", 4)(image) for image in images]
    files = [{"image": f"data:image/png;base64,{as_base64(image)}"} for image in images]
    assert cosine(embed_v1(cn_clip, files), oracle.images(rows)) >= MIN_COSINE


def as_base64(image: Any) -> str:
    return base64.b64encode(write_image("png", image)).decode()


def test_dimensions_are_refused_where_the_model_was_not_trained_for_them(cn_clip: Running) -> None:
    whole = embed_v1(cn_clip, CHINESE[0])
    size = whole.shape[1]
    assert np.array_equal(embed_v1(cn_clip, CHINESE[0], dimensions=size), whole)
    for wrong in (size // 2, size + 1):
        status, said = refusal(cn_clip, "/v1/embeddings", input="x", dimensions=wrong)
        assert (status, f"only {size}" in said) == (400, True), said


# ── QwenText ──


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with serve(tmp_path_factory.mktemp("qwen"), QWEN) as running:
        yield running


@pytest.fixture(scope="module")
def ask() -> Any:
    """Texts, as they are written -> transformers' vectors at the last token."""
    arrays, config = small_checkpoint(QWEN)
    model: Any = transformers.Qwen3Model(transformers.Qwen3Config.from_dict(config or {}))
    model.load_state_dict({name: torch.tensor(widen(array)) for name, array in arrays.items()})
    vocabulary = qwen_tokenizer()

    def answer(*texts: str) -> Vectors:
        rows = [torch.tensor([vocabulary.encode(text).ids]) for text in texts]
        assert all(row[0, -1] == vocabulary.token_to_id("<|endoftext|>") for row in rows)
        assert max(int(row.max()) for row in rows) < QWEN_ENTRIES
        with torch.inference_mode():
            last = [model(row).last_hidden_state[0, -1] for row in rows]
        return np.asarray(torch.stack(last).numpy())

    return answer


def test_a_single_text_is_a_query_and_a_list_holds_documents(qwen: Running, ask: Any) -> None:
    wrapped, plain = ask(f"Instruct: {TASK}\nQuery:what is rain?", "what is rain?")
    assert cosine(wrapped[None] / np.linalg.norm(wrapped), plain[None]) < 0.999
    query = embed(qwen, {"type": "text", "text": "what is rain?"})
    documents = embed(qwen, {"type": "text", "text": ["what is rain?"]})
    assert cosine(np.array([query]), wrapped[None]) >= MIN_COSINE
    assert cosine(np.array(documents), plain[None]) >= MIN_COSINE


def test_v1_wraps_nothing_unless_it_is_told(qwen: Running, ask: Any) -> None:
    text = "what is rain?"
    own = "Find the song"
    plain, query, sung = ask(
        text, f"Instruct: {TASK}\nQuery:{text}", f"Instruct: {own}\nQuery:{text}"
    )
    for given in ({}, {"input_type": "document"}, {"input_type": "passage"}):
        assert cosine(embed_v1(qwen, text, **given), plain[None]) >= MIN_COSINE
    assert cosine(embed_v1(qwen, text, input_type="query"), query[None]) >= MIN_COSINE
    told = {"input_type": "query", "instruction": own}
    assert cosine(embed_v1(qwen, [text], **told), sung[None]) >= MIN_COSINE


def test_dimensions_are_cut_and_brought_to_length_again(qwen: Running, ask: Any) -> None:
    (whole,) = ask("Rain is water.")
    for size in (32, 100, 128):
        actual = embed_v1(qwen, "Rain is water.", dimensions=size)
        assert actual.shape == (1, size)
        assert cosine(actual, whole[None, :size]) >= MIN_COSINE
    for wrong in (31, 129):
        status, said = refusal(qwen, "/v1/embeddings", input="x", dimensions=wrong)
        assert (status, "32 to 128" in said) == (400, True), said


def test_a_picture_on_a_model_of_texts_is_a_400_that_says_so(qwen: Running) -> None:
    image = as_base64(photo())
    source = {"type": "image_base64", "image_base64": image}
    for path, given in (
        ("/embeddings", {"input": source}),
        ("/v1/embeddings", {"input": [{"image": image}]}),
    ):
        status, said = refusal(qwen, path, **given)
        assert status == 400
        assert f"the model tests/{QWEN} does not embed image input, only text" in said
    shown = httpx2.get(f"{qwen.url}/model/capabilities").json()
    assert (shown["modalities"], shown["supports_image"]) == (["text"], False)
