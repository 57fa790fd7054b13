from __future__ import annotations

import pytest

from multimodal_embedding_serving.checkpoints.selection import (
    select_config,
    select_tokenizer,
    select_weights,
)
from multimodal_embedding_serving.errors import CheckpointError

INDEX = "model.safetensors.index.json"
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


@pytest.mark.parametrize(
    ("names", "weights", "layout"),
    [
        # What the catalog's repositories hold.
        (["pytorch_model.bin", "config.json"], ["pytorch_model.bin"], "transformers"),
        (
            ["model.safetensors", "open_clip_model.safetensors", "open_clip_pytorch_model.bin"],
            ["model.safetensors"],
            "transformers",
        ),
        (["open_clip_pytorch_model.bin"], ["open_clip_pytorch_model.bin"], "open_clip"),
        (["pytorch_model.bin", "clip_cn_vit-b-16.pt"], ["pytorch_model.bin"], "transformers"),
        (["clip_cn_vit-h-14.pt", "config.json"], ["clip_cn_vit-h-14.pt"], "cn_clip"),
        ([INDEX, *SHARDS, "config.json"], [INDEX], "transformers"),
        ([*SHARDS, "config.json"], [*SHARDS], "transformers"),
        (["mobileclip_s0.pt"], ["mobileclip_s0.pt"], "apple"),
        (["open_clip_model.safetensors"], ["open_clip_model.safetensors"], "open_clip"),
        # Safetensors before pickles, whole files before shards.
        (["model.safetensors", INDEX, *SHARDS], ["model.safetensors"], "transformers"),
        (
            ["open_clip_model.safetensors", "pytorch_model.bin"],
            ["open_clip_model.safetensors"],
            "open_clip",
        ),
        (
            ["open_clip_pytorch_model.bin", "open_clip_model.safetensors", "x.pt"],
            ["open_clip_model.safetensors"],
            "open_clip",
        ),
        (["weights.safetensors", "pytorch_model.bin"], ["weights.safetensors"], "transformers"),
        (
            ["a.safetensors", "open_clip_config.json", "b.pt"],
            ["a.safetensors"],
            "open_clip",
        ),
        (["a.safetensors", "b.safetensors", "x.pt"], ["x.pt"], "transformers"),
        (
            ["pytorch_model.bin.index.json", "pytorch_model-00001-of-00001.bin"],
            ["pytorch_model.bin.index.json"],
            "transformers",
        ),
    ],
)
def test_the_weights_are_chosen_in_the_order_of_the_docs(
    names: list[str], weights: list[str], layout: str
) -> None:
    for listing in (names, names[::-1]):
        selection = select_weights(listing, "org/name")[0]
        assert list(selection.weights) == weights
        assert selection.layout == layout


@pytest.mark.parametrize(
    "names",
    [
        [],
        ["README.md"],
        ["onnx/model.safetensors"],
        ["a.pt", "b.pt"],
        ["model-00001-of-00002.safetensors", "model-00002-of-00003.safetensors"],
        ["model-00001-of-00003.safetensors", "model-00003-of-00003.safetensors"],
        ["tf_model.h5", "flax_model.msgpack"],
    ],
)
def test_when_nothing_fits_the_error_lists_what_was_found(names: list[str]) -> None:
    with pytest.raises(CheckpointError) as caught:
        select_weights(names, "org/name")
    message = str(caught.value)
    assert message.startswith("org/name has no readable checkpoint; expected one of model.saf")
    for name in names:
        assert name in message or "in folders" in message


def test_a_long_listing_is_cut_and_hostile_names_are_escaped() -> None:
    with pytest.raises(CheckpointError) as caught:
        select_weights([f"f{number:03}\x1b" for number in range(500)], "org/name")
    message = str(caught.value)
    assert len(message) < 900
    assert message.isprintable()
    assert "476 more" in message


def test_the_config_is_that_of_the_layout() -> None:
    both = ["config.json", "open_clip_config.json"]
    assert select_config(both, "transformers") == "config.json"
    assert select_config(both, "open_clip") == "open_clip_config.json"
    assert select_config(both[:1], "open_clip") == "config.json"
    assert select_config([], "apple") is None


def test_a_tokenizer_is_its_json_or_else_its_vocabulary() -> None:
    settings = ["tokenizer_config.json", "special_tokens_map.json"]
    vocabulary = ["vocab.json", "merges.txt"]
    assert select_tokenizer(["tokenizer.json", *vocabulary, *settings]) == (
        "tokenizer.json",
        *settings,
    )
    assert select_tokenizer([*vocabulary, "tokenizer_config.json"]) == (
        *vocabulary,
        "tokenizer_config.json",
    )
    assert select_tokenizer(["vocab.txt"]) == ("vocab.txt",)
    assert select_tokenizer(["vocab.json", *settings]) == ()
