"""The SDK names over a fake engine: programs written for MME run unchanged."""

from __future__ import annotations

import base64
import hashlib
import inspect
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

import multimodal_embedding_serving as mme
from multimodal_embedding_serving import errors
from multimodal_embedding_serving.compat import handlers
from multimodal_embedding_serving.inputs.kinds import FramesBatchInput
from multimodal_embedding_serving.media.sampling import Segment, choose
from multimodal_embedding_serving.types import Vectors

DIMENSION = 6
FRAMES = 10
"""Of the fake engine's videos."""


def vectors_of(contents: Sequence[str]) -> Vectors:
    rows = [
        np.frombuffer(hashlib.sha256(each.encode()).digest()[:DIMENSION], np.uint8) - 128.0
        for each in contents
    ]
    return np.asarray([row / np.linalg.norm(row) for row in rows], np.float32)


def names(value: Any) -> str:
    """An image by its content, so that equal images have equal vectors."""
    if isinstance(value, bytes):
        value = Image.open(io.BytesIO(value))
    if isinstance(value, Image.Image):
        value = np.asarray(value)
    return str(value.tolist()) if isinstance(value, np.ndarray) else str(value)


class FakeEngine:
    """An engine whose vectors follow from its arguments; it records how it was opened."""

    opened: list[dict[str, Any]] = []  # noqa: RUF012
    without_torch: Exception | None = None
    """What opening with torch raises."""

    def __init__(self, modalities: tuple[str, ...] = ("image", "text")) -> None:
        self.info = SimpleNamespace(modalities=modalities, dimension=DIMENSION, text_length=77)
        self.calls: list[dict[str, Any]] = []

    @classmethod
    def open(cls, model: str | None = None, **overrides: Any) -> FakeEngine:
        cls.opened.append({"model": model, **overrides})
        if overrides.get("use_openvino") is False and cls.without_torch:
            raise cls.without_torch
        return cls(("text",) if model and model.startswith("QwenText") else ("image", "text"))

    def embed(self, **source: Any) -> Vectors:
        self.calls.append(source)
        if "texts" in source:
            return vectors_of(source["texts"])
        if "images" in source:
            images = source["images"]
            if isinstance(images[0], np.ndarray) and images[0].ndim == 2:
                raise errors.InvalidInput("expected an array of three axes")
            return vectors_of(
                [names(e) for e in (images if isinstance(images, list) else [images])]
            )
        if source["video"] == b"broken":
            raise errors.InvalidInput("the video can't be decoded")
        segment = source["segment"] or {}
        if isinstance(segment, Segment):
            return vectors_of([f"frame {n}" for n in choose(segment, FRAMES, 25)])
        return vectors_of([f"frame {n}" for n in range(segment.get("num_frames", 64))])

    def preprocess_image(self, image: Any) -> Any:
        return np.asarray(image)

    async def embed_inputs(self, inputs: Sequence[FramesBatchInput]) -> list[Any]:
        (source,) = inputs
        if "missing" in source.frames_manifest_path:
            raise errors.NotFound("no such file")
        if "bad" in source.frames_manifest_path:
            raise errors.InvalidInput("the manifest is not valid JSON")
        return [SimpleNamespace(vectors=vectors_of(["a", "b"]))]

    def close(self) -> None:
        """Nothing is open."""


@pytest.fixture(autouse=True)
def fake_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handlers, "Engine", FakeEngine)
    monkeypatch.setattr(FakeEngine, "opened", [])
    monkeypatch.setattr(FakeEngine, "without_torch", None)
    monkeypatch.setattr(mme.ModelFactory, "handlers", {})


@pytest.fixture
def handler() -> mme.BaseEmbeddingModel:
    handler = mme.get_model_handler("CLIP/clip-vit-b-32")
    handler.load_model()
    return handler


@pytest.fixture
def model(handler: mme.BaseEmbeddingModel) -> mme.EmbeddingModel:
    return mme.EmbeddingModel(handler)


def image(shade: int = 0) -> Image.Image:
    return Image.new("RGB", (2, 2), (shade, shade, shade))


def as_base64(shade: int = 0) -> str:
    file = io.BytesIO()
    image(shade).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


MAKING = ["model_id", "device", "ov_models_dir", "use_openvino"]
HANDLER = {
    "load_model": [],
    "encode_text": ["texts"],
    "encode_image": ["images", "metrics_out"],
    "get_embedding_dim": [],
    "get_max_text_tokens": [],
    "convert_to_openvino": ["ov_models_dir"],
    "prepare_query": ["text"],
    "prepare_documents": ["texts"],
    "preprocess_image": ["image"],
    **{f"supports_{kind}": [] for kind in ("text", "image", "video")},
}
MODEL = {
    "embed_query": ["text"],
    "embed_documents": ["texts"],
    "get_embedding_length": [],
    "get_image_embedding_from_base64": ["image_base64"],
    "get_image_embedding_from_url": ["image_url"],
    "get_video_embeddings": ["frames_batch"],
    "get_video_embedding_from_base64": ["video_base64", "segment_config"],
    "get_video_embedding_from_url": ["video_url", "segment_config"],
    "get_video_embedding_from_file": ["video_path", "segment_config"],
    "get_video_embedding_from_frames_manifest": ["manifest_path"],
    "get_video_sampled_embeddings": ["video_path", "frame_interval"],
    "check_health": [],
    "get_supported_modalities": [],
    **{f"supports_{kind}": [] for kind in ("text", "image", "video")},
}
AWAITED = ("from_url", "from_file", "from_frames_manifest")


def parameters(function: Callable[..., Any]) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name != "self"]


@pytest.mark.parametrize(
    ("kind", "names"), [(mme.BaseEmbeddingModel, HANDLER), (mme.EmbeddingModel, MODEL)]
)
def test_the_methods_are_the_sdks(kind: type, names: dict[str, list[str]]) -> None:
    assert {name: parameters(getattr(kind, name)) for name in names} == names
    for name in names:
        awaited = inspect.iscoroutinefunction(getattr(kind, name))
        assert awaited == name.endswith(AWAITED), name


def test_the_functions_are_the_sdks() -> None:
    assert parameters(mme.get_model_handler) == MAKING
    assert parameters(mme.ModelFactory.create_model) == MAKING
    assert parameters(mme.register_model_handler) == ["name", "handler_class"]
    assert parameters(mme.list_available_models) == []


def test_a_handler_is_not_loaded_until_load_model(handler: mme.BaseEmbeddingModel) -> None:
    fresh = mme.get_model_handler("clip-vit-b-16", device="GPU", ov_models_dir="/m")
    assert len(FakeEngine.opened) == 1
    with pytest.raises(RuntimeError, match="load_model"):
        fresh.encode_text("a cat")
    fresh.load_model()
    assert FakeEngine.opened[1] == {
        "model": "CLIP/clip-vit-b-16",
        "device": "GPU",
        "models_dir": Path("/m"),
        "use_openvino": True,
    }


def test_without_a_name_the_environment_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMBEDDING_MODEL_NAME", "SigLIP/siglip2-vit-b-16")
    assert mme.get_model_handler().model_config["model_id"] == "SigLIP/siglip2-vit-b-16"
    monkeypatch.setenv("EMBEDDING_DEVICE", "GPU.1")
    monkeypatch.setenv("EMBEDDING_USE_OV", "false")
    monkeypatch.setenv("EMBEDDING_OV_MODELS_DIR", "/volume")
    handler = mme.get_model_handler()
    assert (handler.device, handler.use_openvino) == ("GPU.1", False)
    assert handler.ov_models_dir == "/volume"
    assert not mme.EmbeddingModel(handler).use_openvino
    assert mme.get_model_handler(use_openvino=True).use_openvino
    monkeypatch.delenv("EMBEDDING_MODEL_NAME")
    assert mme.get_model_handler().model_config["model_id"] == mme.ModelFactory.get_default()
    with pytest.raises(errors.SettingsError, match="device"):
        mme.get_model_handler(device="no such device")


def test_modalities_are_known_before_loading() -> None:
    qwen = mme.get_model_handler("QwenText/qwen3-embedding-0.6b")
    assert (qwen.supports_text(), qwen.supports_image(), qwen.supports_video()) == (
        True,
        False,
        False,
    )
    assert mme.EmbeddingModel(qwen).get_supported_modalities() == ["text"]


def test_vectors_behave_like_torch_tensors(handler: mme.BaseEmbeddingModel) -> None:
    rows = handler.encode_text(["a", "b"])
    assert rows.shape == (2, DIMENSION)
    assert rows.dtype == np.float32
    assert type(rows.numpy()) is np.ndarray
    assert rows[0].detach().cpu().numpy().tolist() == rows.tolist()[0]
    unit = rows / rows.norm(dim=-1, keepdim=True)
    assert np.allclose(unit.detach().cpu().float().numpy(), rows.numpy())
    assert np.allclose(rows.norm(2, dim=1), 1)
    assert rows.to("cpu").norm() == pytest.approx(2**0.5)
    assert handler.encode_text("a").shape == (1, DIMENSION)


def test_images_alone_or_listed_and_with_their_time(handler: mme.BaseEmbeddingModel) -> None:
    one, two = image(1), np.asarray(image(2))
    assert handler.encode_image(one).shape == (1, DIMENSION)
    both = handler.encode_image([one, two], metrics_out=True)
    assert both["embeddings"].shape == (2, DIMENSION)
    assert both["inference_time_s"] >= 0
    assert both["processed_images"] == 2
    assert np.array_equal(handler.encode_image(two)[0], both["embeddings"][1])


def test_a_query_is_wrapped_for_qwen_and_no_one_else(handler: mme.BaseEmbeddingModel) -> None:
    assert handler.prepare_query("a cat") == "a cat"
    qwen = mme.get_model_handler("qwen3-embedding-0.6b")
    assert qwen.prepare_query("a cat") == (
        "Instruct: Given a web search query, retrieve relevant passages that answer the query\n"
        "Query:a cat"
    )
    assert qwen.prepare_documents(["a cat"]) == ["a cat"]
    qwen.load_model()
    vector = mme.EmbeddingModel(qwen).embed_query("a cat")
    assert vector == vectors_of([qwen.prepare_query("a cat")])[0].tolist()


def test_the_application_model_answers_lists(model: mme.EmbeddingModel) -> None:
    assert model.embed_query("a") == vectors_of(["a"])[0].tolist()
    assert model.embed_documents(["a", "b"]) == vectors_of(["a", "b"]).tolist()
    assert model.get_embedding_length() == DIMENSION
    assert model.check_health()
    assert model.get_supported_modalities() == ["image", "text"]
    assert (model.supports_text(), model.supports_image(), model.supports_video()) == (True,) * 3


async def test_an_image_by_base64_and_by_url(model: mme.EmbeddingModel) -> None:
    expected = model.handler.encode_image(image(5))[0].tolist()
    assert model.get_image_embedding_from_base64(as_base64(5)) == expected
    url = "https://example.com/cat.jpg"
    assert await model.get_image_embedding_from_url(url) == vectors_of([url])[0].tolist()


async def test_a_video_by_base64_url_file_and_frames(
    model: mme.EmbeddingModel, tmp_path: Path
) -> None:
    file = tmp_path / "c.mp4"
    file.write_bytes(b"clip")
    three = vectors_of([f"frame {n}" for n in range(3)]).tolist()
    segment = {"num_frames": 3, "startOffsetSec": 1}
    data = base64.b64encode(b"clip").decode()
    assert model.get_video_embedding_from_base64(data, segment) == three
    assert await model.get_video_embedding_from_url("http://e.com/c.mp4", segment) == three
    assert await model.get_video_embedding_from_file(str(file), segment) == three
    engine: Any = model.handler.model
    sources = [call["video"] for call in engine.calls]
    assert sources == [b"clip", "http://e.com/c.mp4", file]
    assert len(model.get_video_embedding_from_base64(data)) == 64
    frames: list[list[Any]] = [[image(1), np.asarray(image(2))], [image(3)]]
    assert len(model.get_video_embeddings(frames)) == 3
    assert model.get_video_embeddings([[]]) == []


async def test_a_manifest_and_its_errors(model: mme.EmbeddingModel) -> None:
    by_manifest = model.get_video_embedding_from_frames_manifest
    assert await by_manifest("/tmp/videoQnA/m.json") == vectors_of(["a", "b"]).tolist()
    with pytest.raises(FileNotFoundError):
        await by_manifest("/tmp/videoQnA/missing.json")
    with pytest.raises(ValueError, match="not valid JSON"):
        await by_manifest("/tmp/videoQnA/bad.json")


async def test_a_file_name_is_looked_up_below_the_media_roots(
    model: mme.EmbeddingModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    roots = [tmp_path / "first", tmp_path / "second"]
    for root in roots:
        (root / "videos").mkdir(parents=True)
    monkeypatch.setenv("EMBEDDING_MEDIA_ROOTS", f"{roots[0]}:{roots[1]}")
    (roots[1] / "videos" / "c.mp4").write_bytes(b"clip")
    assert len(await model.get_video_embedding_from_file("videos/c.mp4")) == 64
    assert model.get_video_sampled_embeddings("videos/c.mp4")
    engine: Any = model.handler.model
    assert {call["video"] for call in engine.calls} == {roots[1] / "videos" / "c.mp4"}
    for kind in (FileNotFoundError, RuntimeError):
        with pytest.raises(kind, match="no video file 'videos/d"):
            await model.get_video_embedding_from_file("videos/d.mp4")


@pytest.mark.parametrize(
    ("interval", "numbers"), [(1, range(10)), (3, [0, 3, 6, 9]), (10, [0]), (99, [0])]
)
def test_every_nth_frame_is_sampled(
    model: mme.EmbeddingModel, tmp_path: Path, interval: int, numbers: Sequence[int]
) -> None:
    (tmp_path / "c.mp4").write_bytes(b"clip")
    expected = vectors_of([f"frame {n}" for n in numbers]).tolist()
    assert model.get_video_sampled_embeddings(str(tmp_path / "c.mp4"), interval) == expected
    with pytest.raises(ValueError, match="frame_interval must be at least 1"):
        model.get_video_sampled_embeddings(str(tmp_path / "c.mp4"), 0)


def test_an_image_is_preprocessed_like_a_tensor(handler: mme.BaseEmbeddingModel) -> None:
    pixels = handler.preprocess_image(image(51))
    assert pixels.shape == (3, 2, 2)
    assert pixels.dtype == np.float32
    assert np.allclose(pixels, 0.2)
    assert pixels.unsqueeze(0).shape == (1, 3, 2, 2)
    assert handler.preprocess == handler.preprocess_image
    assert mme.get_model_handler("clip-vit-b-16").preprocess is None


@pytest.mark.parametrize(
    "error", [errors.MissingExtra("torch", "torch"), errors.SettingsError("torch cannot serve it")]
)
def test_without_torch_the_sdks_old_default_uses_openvino_with_a_warning(
    error: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(FakeEngine, "without_torch", error)
    handler = mme.get_model_handler("clip-vit-b-32", use_openvino=False)
    model = mme.EmbeddingModel(handler)
    handler.load_model()
    assert [each["use_openvino"] for each in FakeEngine.opened] == [False, True]
    assert handler.use_openvino
    assert model.use_openvino
    assert f"{error}; using OpenVINO instead of torch" in caplog.text
    with pytest.raises(type(error)):
        mme.get_model_handler("clip-vit-b-32", device="cuda", use_openvino=False).load_model()


def test_what_fails_is_a_runtime_error(model: mme.EmbeddingModel) -> None:
    for kind in (RuntimeError, ValueError):
        with pytest.raises(kind, match="can't be decoded"):
            model.get_video_embedding_from_base64(base64.b64encode(b"broken").decode())
    with pytest.raises(RuntimeError, match="can't be decoded"):
        model.get_video_embedding_from_base64(base64.b64encode(b"broken").decode())
    with pytest.raises(RuntimeError):
        model.get_image_embedding_from_base64("%%%")
    with pytest.raises(RuntimeError, match="three axes"):
        model.get_video_embeddings([[np.zeros((2, 2), np.uint8)]])
    assert not mme.EmbeddingModel(mme.get_model_handler("clip-vit-b-16")).check_health()


def test_the_models_are_listed_by_family() -> None:
    models = mme.list_available_models()
    assert models == mme.ModelFactory.list_models()
    assert models["CLIP"][0] == "clip-vit-b-32"
    assert mme.ModelFactory.is_model_supported("Blip2/blip2")
    assert not mme.ModelFactory.is_model_supported("nobody/knows")
    with pytest.raises(
        ValueError, match=r"unknown model 'nobody/knows'; list_available_models\(\)"
    ):
        mme.get_model_handler("nobody/knows")


def test_a_checkpoint_beyond_the_catalog_is_taken(tmp_path: Path) -> None:
    for name in ("hf:org/name", str(tmp_path)):
        assert mme.get_model_handler(name).model_config["model_id"] == name


def test_a_registered_handler_takes_over_its_model_its_family_or_a_new_name() -> None:
    class Own(mme.BaseEmbeddingModel):
        """A program's own handler."""

    mme.register_model_handler("clip", Own)
    mme.register_model_handler("qwen3-embedding-0.6b", Own)
    mme.register_model_handler("my/model", Own)
    own = ("CLIP/clip-vit-l-14", "QwenText/qwen3-embedding-0.6b", "my/model")
    assert all(isinstance(mme.get_model_handler(name), Own) for name in own)
    assert not isinstance(mme.get_model_handler("QwenText/qwen3-embedding-4b"), Own)
