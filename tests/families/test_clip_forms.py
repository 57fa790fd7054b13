"""The forms in which CLIP and SigLIP are published: image settings, folders, vocabularies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

from multimodal_embedding_serving.checkpoints import read_weights
from multimodal_embedding_serving.checkpoints.layouts import detect, rename
from multimodal_embedding_serving.conversion.blueprint import Blueprint
from multimodal_embedding_serving.transforms.image import ImageTransform
from multimodal_embedding_serving.transforms.text import TextTransform
from tests.families.forms import Tested
from tests.families.test_other_checkpoints import siglip
from tests.families.test_published_forms import (
    least_cosine,
    message_of,
    open_folder,
    text_tower,
    write_json,
)
from tests.lazy import lazy
from tests.parity.oracles import Oracle
from tests.parity.small import ENTRIES, small_arrays, small_config
from tests.parity.towers import compile_plan, cosine
from tests.small_clip import write_clip

torch = lazy("torch")
transformers = lazy("transformers")

MODEL = "clip-vit-b-32"
SIDE = 64
SQUARE = {"height": SIDE, "width": SIDE}
TEXTS = ("a photo of a cat", "two red cars", "x")
DIFFERENT = 0.9999
"""Two ways to prepare an image differ by more than this: else the tests could not fail."""


def images() -> list[Image.Image]:
    """Noise, for which the filters differ most."""
    noise = np.random.RandomState(6).randint(0, 256, (128, 200, 3)).astype(np.uint8)
    return [Image.fromarray(noise), Image.fromarray(noise[:, 20:84].copy())]


def image_vectors(blueprint: Blueprint, path: Path) -> Any:
    tower = next(plan for plan in blueprint.plans if plan.modality == "image")
    transform = ImageTransform.from_manifest(tower.transform)
    return compile_plan(tower, path)([transform(image) for image in images()])


def upstream_vectors(model: Any, processor: Any) -> Any:
    pixels = processor(images=images(), return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        return model.get_image_features(pixel_values=torch.as_tensor(pixels)).pooler_output.numpy()


def clip() -> Any:
    """transformers' model of what `write_clip` writes."""
    return Oracle(small_config(MODEL), small_arrays(MODEL, "transformers"))


def clip_processor(**changes: Any) -> Any:
    usual = {"size": {"shortest_edge": SIDE}, "crop_size": SQUARE}
    return transformers.CLIPImageProcessor(**{**usual, **changes})


def least_of_texts(blueprint: Blueprint, oracle: Any, path: Path) -> float:
    """Each text alone and in a batch with the others."""
    assert blueprint.tokenizer is not None
    tower = text_tower(blueprint)
    rows = [
        each.row for each in TextTransform(blueprint.tokenizer, tower.transform).prepare_many(TEXTS)
    ]
    graph, expected = compile_plan(tower, path), oracle.texts(rows, 77, 0)
    alone = np.concatenate([graph([row]) for row in rows])
    return min(least_cosine(alone, expected), least_cosine(graph(rows), expected))


@pytest.mark.parametrize(
    ("change", "form"),
    [
        (
            {"size": SQUARE, "do_center_crop": False},
            "squashed without a crop (`preprocessor_config.json`)",
        ),
        ({"resample": 2}, "resized bilinearly (`preprocessor_config.json`)"),
        ({"do_normalize": False}, "pixels not normalized (`preprocessor_config.json`)"),
    ],
)
def test_clips_image_processor_is_obeyed(
    change: dict[str, Any], form: str, tmp_path: Path, tested: Tested
) -> None:
    folder, model, processor = write_clip(tmp_path / "m"), clip().model, clip_processor(**change)
    processor.save_pretrained(folder)
    expected = upstream_vectors(model, processor)
    tested(form, least_cosine(image_vectors(open_folder(folder), tmp_path / "i-f32.xml"), expected))
    usual = upstream_vectors(model, clip_processor())
    usual /= np.linalg.norm(usual, axis=1, keepdims=True)
    assert cosine(usual, expected) < DIFFERENT


def test_a_short_side_beyond_the_crop_is_rejected(tmp_path: Path, tested: Tested) -> None:
    folder = write_clip(tmp_path / "m")
    clip_processor(size={"shortest_edge": SIDE + 16}).save_pretrained(folder)
    message = message_of(folder)
    assert message.startswith("preprocessor_config.json: size = ")
    tested("a short side larger than the crop", message)


def test_the_processor_of_transformers_5_is_obeyed(tmp_path: Path, tested: Tested) -> None:
    """It is one file, processor_config.json, with the image processor inside."""
    folder = write_clip(tmp_path / "m")
    half = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    processor = clip_processor(**half)
    write_json(folder / "processor_config.json", {"image_processor": processor.to_dict()})
    expected = upstream_vectors(clip().model, processor)
    found = image_vectors(open_folder(folder), tmp_path / "i-f32.xml")
    form = "mean and deviation in `processor_config.json` (transformers 5)"
    tested(form, least_cosine(found, expected))
    write_json(folder / "processor_config.json", {"image_processor": {"size": SIDE + 16}})
    assert f"size = {SIDE + 16} differs from" in message_of(folder)


def test_open_clips_resize_mode_is_obeyed(tmp_path: Path, tested: Tested) -> None:
    folder = write_clip(tmp_path / "m", layout="open_clip")
    path = folder / "open_clip_config.json"
    config = json.loads(path.read_text())
    config["preprocess_cfg"] |= {"resize_mode": "squash", "interpolation": "bicubic"}
    write_json(path, config)
    weights = read_weights([folder / "open_clip_model.safetensors"])
    layout = detect(weights)
    assert layout is not None
    named = {name: tensor.float32() for name, tensor in rename(weights, layout).items()}
    squashed = [
        np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BICUBIC)) for image in images()
    ]
    expected = Oracle(small_config(MODEL), named).images(squashed)
    found = image_vectors(open_folder(folder), tmp_path / "i-f32.xml")
    tested("OpenCLIP, `resize_mode: squash`", least_cosine(found, expected))


def test_siglip2_is_resized_by_the_filter_of_its_files(tmp_path: Path, tested: Tested) -> None:
    folder, half = tmp_path / "m", [0.5] * 3
    folder.mkdir()
    siglip(80)(folder)
    model = transformers.SiglipModel.from_pretrained(folder).eval()
    size = {"height": 80, "width": 80}
    expected = {}
    for resample in (2, 3):
        processor = transformers.SiglipImageProcessor(
            resample=resample, size=size, image_mean=half, image_std=half
        )
        processor.save_pretrained(folder)
        expected[resample] = upstream_vectors(model, processor)
        found = image_vectors(open_folder(folder), tmp_path / f"i{resample}-f32.xml")
        least = least_cosine(found, expected[resample])
        if resample == 2:
            tested("resized bilinearly, as SigLIP2's files say", least)
    assert cosine(found, expected[2]) < DIFFERENT


def test_an_old_end_token_in_a_larger_vocabulary(tmp_path: Path, tested: Tested) -> None:
    """As resize_token_embeddings leaves it: the table has more rows than the tokenizer has words,
    and transformers pools at the largest id where the config says 2."""
    folder = write_clip(tmp_path / "m")
    arrays = dict(load_file(folder / "model.safetensors"))
    name = "text_model.embeddings.token_embedding.weight"
    arrays[name] = np.concatenate([arrays[name], arrays[name][:6]])
    save_file(arrays, folder / "model.safetensors")
    config = small_config(MODEL)
    config["text_config"] |= {"eos_token_id": 2, "bos_token_id": 0, "vocab_size": ENTRIES + 6}
    write_json(folder / "config.json", config)
    least = least_of_texts(open_folder(folder), Oracle(config, arrays), tmp_path / "t-f32.xml")
    tested("end token 2 and a larger vocabulary", least)


def test_a_nested_clip_of_sentence_transformers_is_found(tmp_path: Path, tested: Tested) -> None:
    write_clip(tmp_path / "m" / "0_CLIPModel")
    listed = [{"path": "0_CLIPModel", "type": "sentence_transformers.models.CLIPModel"}]
    write_json(tmp_path / "m" / "modules.json", listed)
    least = least_of_texts(open_folder(tmp_path / "m"), clip(), tmp_path / "t-f32.xml")
    tested("sentence-transformers, in the folder `0_CLIPModel`", least)


def test_a_foreign_file_beside_a_checkpoint_is_passed_over(tmp_path: Path, tested: Tested) -> None:
    folder = write_clip(tmp_path / "m")
    (folder / "model.safetensors").rename(folder / "pytorch_model.safetensors")
    save_file({"conv1.weight": np.zeros((8, 3, 7, 7), np.float32)}, folder / "model.safetensors")
    least = least_of_texts(open_folder(folder), clip(), tmp_path / "t-f32.xml")
    tested("a foreign `model.safetensors` beside it", least)
