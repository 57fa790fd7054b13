"""Which checkpoints are recognized, from which layouts and configurations, and which are not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from multimodal_embedding_serving.catalog import resolve
from multimodal_embedding_serving.checkpoints.layouts import LAYOUTS, detect, rename
from multimodal_embedding_serving.checkpoints.weights import Weights
from multimodal_embedding_serving.errors import CheckpointError
from multimodal_embedding_serving.families import find_family
from multimodal_embedding_serving.families.recognition import recognize_checkpoint
from tests.families.hollow import HollowOps, hollow_tensor, hollow_weights, unused_tensors
from tests.parity.small import (
    ROWS,
    draw,
    model_type,
    read_layout,
    small_arrays,
    small_config,
)
from tests.parity.towers import strip

OTHERS = {"clip": "open_clip", "chinese_clip": "cn_clip", "siglip": "open_clip"}
FILES = [(model, "transformers") for model in ROWS] + [
    (model, OTHERS[model_type(model)]) for model in ROWS if model_type(model) in OTHERS
]


@pytest.mark.parametrize(("model", "layout"), FILES)
def test_a_row_of_true_size_is_opened_without_any_config(model: str, layout: str) -> None:
    spec = resolve(model)
    family, checkpoint = recognize_checkpoint(hollow_weights(model, layout), None, spec)
    assert family == spec.family
    image, text = find_family(family).plan(checkpoint)
    assert image.dimension == text.dimension == spec.dimension
    assert image.inputs == {"pixels": spec.image_size}
    assert text.transform["max_length"] == spec.text_length


@pytest.mark.parametrize(("model", "layout"), FILES)
def test_every_tensor_of_a_checkpoint_is_used(model: str, layout: str) -> None:
    family, checkpoint = recognize_checkpoint(hollow_weights(model, layout), None, resolve(model))
    assert not unused_tensors(family, checkpoint)


def test_data_parallel_names_are_unwrapped() -> None:
    weights = hollow_weights("cn-clip-vit-b-16", "cn_clip", prefix="module.")
    family, _ = recognize_checkpoint(weights, None, resolve("cn-clip-vit-b-16"))
    assert family == "CN-CLIP"


EXTRA: dict[tuple[str, str], dict[str, tuple[int, ...]]] = {
    ("clip-vit-b-16", "transformers"): {
        "text_model.embeddings.position_ids": (1, 77),
        "vision_model.embeddings.position_ids": (1, 197),
    },
    ("clip-vit-b-16", "open_clip"): {
        "input_resolution": (),
        "context_length": (),
        "vocab_size": (),
        "attn_mask": (77, 77),
    },
    ("cn-clip-vit-b-16", "transformers"): {
        "text_model.embeddings.position_ids": (1, 512),
        "vision_model.embeddings.position_ids": (1, 197),
    },
    ("cn-clip-vit-b-16", "cn_clip"): {
        "bert.pooler.dense.weight": (768, 768),
        "bert.pooler.dense.bias": (768,),
    },
}


@pytest.mark.parametrize(("model", "layout"), EXTRA)
def test_what_older_files_hold_besides_is_ignored(model: str, layout: str) -> None:
    weights = hollow_weights(model, layout, extra=EXTRA[model, layout])
    _, checkpoint = recognize_checkpoint(weights, None, resolve(model))
    assert not any("position_ids" in name or "pooler" in name for name in checkpoint.weights)


def test_splits_and_transposes_are_views_of_the_file() -> None:
    arrays = small_arrays("clip-vit-b-16", "open_clip")
    weights = Weights(
        {name: as_tensor(name, array) for name, array in arrays.items()}, file="m.bin"
    )
    layout = detect(weights)
    assert layout is not None
    renamed = rename(weights, layout)
    fused = arrays["visual.transformer.resblocks.1.attn.in_proj_weight"]
    parts = [
        renamed[f"vision_model.encoder.layers.1.self_attn.{name}_proj.weight"].data
        for name in "qkv"
    ]
    assert np.array_equal(np.concatenate(parts), fused)
    assert all(np.shares_memory(part, fused) for part in parts)
    projection = renamed["visual_projection.weight"]
    assert projection.shape == projection.data.shape == (64, 96)
    assert np.shares_memory(projection.data, arrays["visual.proj"])


def as_tensor(name: str, array: Any) -> Any:
    tensor = hollow_tensor(name, array.shape)
    return type(tensor)(name, "F32", array.shape, array, "m.bin")


# What is refused, and how.

Change = Callable[[dict[str, Any]], object]


def small_weights(model: str, layout: str = "transformers", layers: int = 2) -> Weights:
    arrays = small_arrays(model, layout, layers=layers)
    return Weights(
        {name: as_tensor(name, array) for name, array in arrays.items()}, file="model.safetensors"
    )


CONTRADICTIONS: list[tuple[str, Change, str]] = [
    ("clip-vit-b-16", lambda c: c["vision_config"].update(num_hidden_layers=3), "2 layers under"),
    ("clip-vit-b-16", lambda c: c["text_config"].update(hidden_size=72), "expected 600x72"),
    ("clip-vit-b-16", lambda c: c["text_config"].update(vocab_size=49408), "expected 49408x64"),
    ("clip-vit-b-16", lambda c: c["text_config"].update(num_attention_heads=7), "7 heads"),
    ("clip-vit-b-16", lambda c: c["vision_config"].update(patch_size=32), "expected 96x3x32x32"),
    ("clip-vit-b-16", lambda c: c["vision_config"].update(image_size=64), "expected 17x96"),
    ("clip-vit-b-16", lambda c: c["vision_config"].update(image_size=[32, 48]), "is not valid"),
    (
        "clip-vit-b-16",
        lambda c: c.update(vision_config=[]) or c.update(text_config=7),
        "must be an object",
    ),
    ("clip-vit-b-16", lambda c: c.update(model_type="siglip"), r"those of 'clip'.*says 'siglip'"),
    ("clip-vit-b-16", lambda c: c["vision_config"].update(patch_size=0), "patch_size = '0'"),
    ("clip-vit-b-16", lambda c: c["text_config"].update(hidden_size="64"), "hidden_size = '64'"),
    ("clip-vit-b-16", lambda c: c["text_config"].update(hidden_act=7), "hidden_act = '7'"),
    (
        "clip-vit-b-16",
        lambda c: c["text_config"].update(layer_norm_eps=[]),
        r"layer_norm_eps = '\[\]'",
    ),
    ("siglip2-vit-b-16", lambda c: c["vision_config"].update(intermediate_size=5), "expected 5x96"),
    ("cn-clip-vit-b-16", lambda c: c["text_config"].update(max_position_embeddings=9), "9x96"),
    ("blip2_transformers", lambda c: c["qformer_config"].update(num_hidden_layers=1), "2 layers"),
]


@pytest.mark.parametrize(("model", "change", "message"), CONTRADICTIONS)
def test_a_config_that_contradicts_the_tensors_is_refused(
    model: str, change: Change, message: str
) -> None:
    config = strip(small_config(model))
    recognize_checkpoint(small_weights(model), config, None)
    change(config)
    with pytest.raises(CheckpointError, match=message):
        recognize_checkpoint(small_weights(model), config, None)


@pytest.mark.parametrize("model", ROWS)
def test_a_missing_tensor_is_named_as_the_file_would_name_it(model: str) -> None:
    layout = OTHERS.get(model_type(model), "transformers")
    whole = small_weights(model, layout)
    config = small_config(model)
    for name in whole:
        if name in ("logit_scale", "logit_bias") or name.startswith("itm_head"):
            continue
        rest = Weights({n: t for n, t in whole.items() if n != name}, file="model.safetensors")
        with pytest.raises(CheckpointError) as caught:
            recognize_checkpoint(rest, config, None)
        told = caught.value.message
        assert name in told or "not recognized" in told or "layers" in told or "layer 0" in told


def test_an_unknown_part_is_refused_rather_than_left_out() -> None:
    weights = small_weights("clip-vit-b-16", "open_clip")
    added = hollow_tensor("visual.attn_pool.query", (1, 96))
    more = Weights({**weights, "visual.attn_pool.query": added}, file="model.safetensors")
    with pytest.raises(CheckpointError, match=r"attn_pool.query' is not part of a 'clip' model"):
        recognize_checkpoint(more, small_config("clip-vit-b-16"), None)


def test_layers_of_unlike_shape_are_refused() -> None:
    weights = dict(small_weights("clip-vit-b-16"))
    name = "text_model.encoder.layers.1.mlp.fc1.weight"
    weights[name] = as_tensor(name, draw(name, (200, 64), 0))
    with pytest.raises(CheckpointError, match=r"layers.1.mlp.fc1.weight' has shape 200x64"):
        recognize_checkpoint(Weights(weights, file="m"), small_config("clip-vit-b-16"), None)


def test_a_stranger_is_told_what_is_recognized() -> None:
    stranger = Weights({"conv1.weight": hollow_tensor("conv1.weight", (64, 3, 7, 7))}, file="r.bin")
    with pytest.raises(CheckpointError) as caught:
        recognize_checkpoint(stranger, {"model_type": "resnet"}, None)
    for word in ("r.bin", "resnet", "clip", "chinese_clip", "siglip", "blip-2", "open_clip"):
        assert word in caught.value.message


def test_an_empty_file_is_a_stranger_too() -> None:
    with pytest.raises(CheckpointError, match="not recognized"):
        recognize_checkpoint(Weights({}, file="empty.bin"), None, None)


def test_a_checkpoint_of_another_family_than_the_row_is_refused() -> None:
    weights = small_weights("siglip2-vit-b-16")
    with pytest.raises(CheckpointError, match="CLIP/clip-vit-b-16 is of the family CLIP"):
        recognize_checkpoint(weights, small_config("siglip2-vit-b-16"), resolve("clip-vit-b-16"))


def test_without_a_config_or_a_row_the_sizes_are_not_guessed() -> None:
    with pytest.raises(CheckpointError, match=r"no config\.json beside it"):
        recognize_checkpoint(small_weights("clip-vit-b-16"), None, None)


def test_no_two_layouts_are_mistaken_for_each_other() -> None:
    for model, layout in FILES:
        names = dict(read_layout(model, layout))
        marked = [each for each in LAYOUTS if set(each.marks) <= set(names)]
        assert [(each.model_type, each.name) for each in marked] == [(model_type(model), layout)]


@pytest.mark.parametrize("every", [1, 3])
def test_cross_attention_in_other_layers_than_told_is_refused(every: int) -> None:
    config = small_config("blip2_transformers", layers=4)
    config["qformer_config"]["cross_attention_frequency"] = every
    with pytest.raises(CheckpointError, match="cross-attention"):
        recognize_checkpoint(small_weights("blip2_transformers", layers=4), config, None)


@pytest.mark.parametrize("model", ["clip-vit-b-16", "cn-clip-vit-b-16", "blip2_transformers"])
def test_an_unknown_activation_is_refused_with_the_known_ones(model: str) -> None:
    config = small_config(model)
    section = config.get("text_config") or config["qformer_config"]
    section["hidden_act"] = "snake"
    family, checkpoint = recognize_checkpoint(small_weights(model), config, None)
    _, text = find_family(family).plan(checkpoint)
    with pytest.raises(CheckpointError, match=r"unknown activation 'snake'; known: gelu"):
        text.build(HollowOps(), dict.fromkeys(text.inputs, HollowOps()))
