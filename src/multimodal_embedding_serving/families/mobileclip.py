"""MobileCLIP (Vasu et al. 2024, arXiv 2311.17049): fast towers, by convolution and attention.

S0, S1 and S2 see with MCi (a FastViT: Vasu et al. 2023, arXiv 2303.14189), B and B-LT with a
ViT-B/16 behind a convolutional stem. Checkpoints hold the form that was trained, with parallel
branches and BatchNorm; both are folded while the graph is built.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from multimodal_embedding_serving.catalog import ModelSpec
from multimodal_embedding_serving.checkpoints import mobileclip_names
from multimodal_embedding_serving.checkpoints.layouts import Layout, count_layers, rename
from multimodal_embedding_serving.checkpoints.mobileclip_config import read_mobileclip_config
from multimodal_embedding_serving.checkpoints.mobileclip_names import LAST, STAGES, check_row
from multimodal_embedding_serving.checkpoints.weights import Weights
from multimodal_embedding_serving.errors import CheckpointError
from multimodal_embedding_serving.families import Checkpoint, Family, TowerSpec, transforms
from multimodal_embedding_serving.graph.folding import (
    Affine,
    Convolution,
    convolve,
    doubles,
    fold_branches,
    fold_norm,
    read_norm,
)
from multimodal_embedding_serving.graph.layers import (
    Encoder,
    dense,
    encode,
    join_heads,
    norm,
    place,
    pre_norm_block,
    split_heads,
)
from multimodal_embedding_serving.graph.ops import Ops, T

HEAD = 64
"""Width of a head in every transformer block."""
MCI_HEAD = 32
"""Width of a head in MCi's last stage."""
MCI_STRIDE, MCI_SIDE = 32, 256
EPS = 1e-5
"""LayerNorm's eps in Apple's code; OpenCLIP's text towers have it too."""
TIMM_EPS = 1e-6
"""LayerNorm's eps in timm's ViT, which is OpenCLIP's image tower of B."""


@dataclass(frozen=True, slots=True)
class Seeing:
    """What the image tower's tensors don't tell."""

    side: int
    """Pixels."""
    eps: float
    stem_padding: int
    """Of the ViT stem's first convolution: Apple pads it by 1, timm does not."""
    mean: Sequence[float]
    std: Sequence[float]

    @property
    def grid(self) -> int:
        """Places along a side of MCi's last map; each of its five steps rounds up."""
        return -(-self.side // MCI_STRIDE)


def read_mobileclip(
    weights: Weights, layout: Layout, config: Mapping[str, Any] | None, spec: ModelSpec | None
) -> Checkpoint:
    """Tensors under this project's names, and the few facts that they don't tell.

    Raises CheckpointError where the tensors are those of another row.
    """
    w = rename(weights, layout)
    if spec is not None:
        check_row(w, spec.architecture, spec.id)
    apple, vit = layout.name == "apple", "image.class_token" in w
    told = read_mobileclip_config(config or {}, layout)
    side = spec.image_size if spec else told.get("side")
    facts = {
        "model_type": layout.model_type,
        "side": side or (_vit_side(w) if vit else MCI_SIDE),
        "eps": EPS if apple else TIMM_EPS,
        "stem_padding": int(apple),
        "mean": told.get("mean", (0.0, 0.0, 0.0)),
        "std": told.get("std", (1.0, 1.0, 1.0)),
        "heads": told.get("heads", w["text.positions"].shape[1] // HEAD),
        "causal": told.get("causal", vit),
    }
    if vit and facts["side"] != _vit_side(w):
        raise CheckpointError(
            f"{weights.file}: its positions are for images of {_vit_side(w)} pixels, "
            f"not of {facts['side']}"
        )
    return Checkpoint(w, facts, spec)


def _vit_side(w: Weights) -> int:
    places = w["image.positions"].shape[0]
    stride = int(np.prod([w[f"image.stem.{k}.weight"].shape[-1] for k in range(3)]))
    return int(places**0.5) * stride


def plan(checkpoint: Checkpoint) -> Sequence[TowerSpec]:
    w, facts = checkpoint.weights, checkpoint.config
    see, read = w.sub("image."), w.sub("text.")
    transforms.reject_modules(checkpoint)
    scale = transforms.pixel_scale(checkpoint, facts["mean"], facts["std"])
    pixels = Seeing(facts["side"], facts["eps"], facts["stem_padding"], *scale)
    vit, causal, heads = "class_token" in see, facts["causal"], facts["heads"]
    look = see_by_transformer if vit else see_by_convolution
    patches = see["positions"].shape[0] if vit else pixels.grid**2
    longest = read["positions"].shape[0]
    return (
        TowerSpec(
            "image",
            {"pixels": pixels.side},
            lambda ops, x: project(ops, look(ops, see, pixels, x["pixels"]), see),
            transforms.image_transform(
                checkpoint, pixels.side, patches, resize="short_side", resample="bilinear"
            ),
            see["projection.weight"].shape[0],
        ),
        TowerSpec(
            "text",
            {"input_ids": None},
            lambda ops, x: project(ops, read_text(ops, read, heads, causal, x["input_ids"]), read),
            transforms.text_transform(
                checkpoint,
                {"max_length": longest, "pad_id": 0, "eos_kept": True, "fixed_length": not causal},
                read["token_embedding.weight"].shape[0],
            ),
            read["projection.weight"].shape[0],
        ),
    )


FAMILY = Family(
    plan=plan, model_type="mobileclip", layouts=mobileclip_names.LAYOUTS, read=read_mobileclip
)


def project(ops: Ops[T], x: T, w: Weights) -> T:
    return ops.l2_normalize(dense(ops, x, w.sub("projection.")))


# ── text ──


def read_text(ops: Ops[T], w: Weights, heads: int, causal: bool, ids: T) -> T:
    """ids [B, L] -> the row of EOT, which is the largest id, [B, W].

    Where it is not causal every place sees the padding, and L is always the longest.
    """
    x = ops.add(ops.embedding(ids, w["token_embedding.weight"]), ops.head_rows(w["positions"], ids))
    for layer in range(count_layers(w, "encoder.layers.")):
        block = w.sub(f"encoder.layers.{layer}.")
        if "mixer.conv.weight" in block:
            x = mix_text(ops, x, block)
        else:
            x = pre_norm_block(ops, x, block, heads, "gelu", EPS, causal)
    return norm(ops, ops.take_place(x, ops.max_place(ids)), w.sub("norm."), EPS)


def mix_text(ops: Ops[T], x: T, w: Weights) -> T:
    """A RepMixer block over x [B, L, W] as an image one pixel high."""
    width = w["norm.weight"].shape[0]
    row = ops.reshape(ops.transpose(x, (0, 2, 1)), (0, width, 1, -1))
    row = mix(ops, row, w)
    return ops.transpose(ops.reshape(row, (0, width, -1)), (0, 2, 1))


# ── images, by convolution ──


def see_by_convolution(ops: Ops[T], w: Weights, see: Seeing, pixels: T) -> T:
    """MCi0, MCi1, MCi2 -> [B, W]."""
    x = ops.pixels(pixels, see.mean, see.std)
    x = unit(ops, x, w.sub("stem.0."), 3, stride=2)
    width = w["stem.0.conv.weight"].shape[0]
    x = unit(ops, x, w.sub("stem.1."), width, stride=2)
    x = unit(ops, x, w.sub("stem.2."), width)
    for stage in range(STAGES):
        if stage:
            x = step_down(ops, x, w.sub(f"stages.{stage}.down."), width)
            width = w[f"stages.{stage}.down.large.weight"].shape[0]
        if stage == LAST:
            x = ops.add(x, convolve_plain(ops, x, w.sub("positions.")))
        for number in range(count_layers(w, f"stages.{stage}.blocks.")):
            block = w.sub(f"stages.{stage}.blocks.{number}.")
            x = attend(ops, x, block, see.grid) if stage == LAST else mix(ops, x, block)
    return ops.mean(unit(ops, x, w.sub("expand."), width), (2, 3))


def unit(ops: Ops[T], x: T, w: Weights, channels: int, *, stride: int = 1) -> T:
    """Parallel branches summed, squeeze-and-excitation where it has one, gelu."""
    return finish(ops, convolve(ops, x, fold_branches(w), channels, stride=stride), w)


def step_down(ops: Ops[T], x: T, w: Weights, channels: int) -> T:
    """Half the side, twice the channels."""
    folded = fold_norm(w.sub("large.")) + fold_norm(w.sub("small."))
    x = finish(ops, convolve(ops, x, folded, channels, stride=2), w)
    return unit(ops, x, w.sub("merge."), folded.bias.shape[0])


def finish(ops: Ops[T], x: T, w: Weights) -> T:
    """Squeeze-and-excitation (Hu et al. 2018, arXiv 1709.01507), if any, then gelu."""
    if "se.fc1.weight" in w:
        gate = ops.mean(x, (2, 3), keep=True)
        gate = ops.relu(ops.conv2d(gate, w["se.fc1.weight"], w["se.fc1.bias"]))
        gate = ops.conv2d(gate, w["se.fc2.weight"], w["se.fc2.bias"])
        x = ops.multiply(x, ops.sigmoid(gate))
    return ops.gelu(x)


def mix(ops: Ops[T], x: T, w: Weights) -> T:
    """x + scale * (mixer(x) - norm(x)), all of it one depth-wise convolution; then the MLP."""
    mixer = fold_branches(w.sub("mixer."))
    width = mixer.bias.shape[0]
    normed = mixer.unit(read_norm(w.sub("norm.")))
    change = mixer + normed.scaled(np.full(width, -1.0))
    same = mixer.unit(Affine(np.ones(width), np.zeros(width)))
    folded = change.scaled(doubles(w, "mixer_scale").reshape(-1)) + same
    return conv_mlp(ops, convolve(ops, x, folded, width), w)


def attend(ops: Ops[T], x: T, w: Weights, grid: int) -> T:
    """Attention over all places of x [B, W, grid, grid], then the MLP, each with a learned scale.

    The BatchNorm before it goes into the matrices of q, k and v, the scale into the last one.
    """
    normal, weight = read_norm(w.sub("norm.")), doubles(w, "qkv.weight")
    width = weight.shape[1]
    heads = width // MCI_HEAD
    matrices = np.split((weight * normal.gain).astype(np.float32), 3)
    biases = np.split((weight @ normal.shift).astype(np.float32), 3)
    places = ops.transpose(ops.reshape(x, (0, width, -1)), (0, 2, 1))
    q, k, v = (
        split_heads(ops, ops.linear(places, matrix, bias), heads, MCI_HEAD)
        for matrix, bias in zip(matrices, biases, strict=True)
    )
    y = join_heads(ops, ops.attention(q, k, v), heads, MCI_HEAD)
    scale = doubles(w, "attention_scale").reshape(-1)
    matrix = (doubles(w, "proj.weight") * scale[:, None]).astype(np.float32)
    y = ops.linear(y, matrix, (doubles(w, "proj.bias") * scale).astype(np.float32))
    y = ops.reshape(ops.transpose(y, (0, 2, 1)), (0, width, grid, -1))
    return conv_mlp(ops, ops.add(x, y), w)


def conv_mlp(ops: Ops[T], x: T, w: Weights) -> T:
    """x + scale * fc2(gelu(fc1(convolution(x)))), the scale folded into fc2."""
    folded = fold_norm(w.sub("mlp.conv."))
    y = convolve(ops, x, folded, folded.bias.shape[0])
    y = ops.gelu(ops.conv2d(y, w["mlp.fc1.weight"], w["mlp.fc1.bias"]))
    last = Convolution(doubles(w, "mlp.fc2.weight"), doubles(w, "mlp.fc2.bias"))
    last = last.scaled(doubles(w, "mlp_scale").reshape(-1))
    return ops.add(x, convolve(ops, y, last, last.kernel.shape[1]))


def convolve_plain(ops: Ops[T], x: T, w: Weights) -> T:
    weight = w["weight"]
    padding = weight.shape[2] // 2
    return ops.conv2d(x, weight, w["bias"], padding=padding, groups=weight.shape[0])


# ── images, by transformer ──


def see_by_transformer(ops: Ops[T], w: Weights, see: Seeing, pixels: T) -> T:
    """ViT-B/16 whose patches come of three convolutions -> the class token [B, W]."""
    x = ops.pixels(pixels, see.mean, see.std)
    for number in range(2):
        folded = fold_norm(w.sub(f"stem.{number}."))
        kernel, bias = folded.kernel.astype(np.float32), folded.bias.astype(np.float32)
        padding = 0 if number else see.stem_padding
        x = ops.gelu(ops.conv2d(x, kernel, bias, stride=kernel.shape[-1], padding=padding))
    last = w["stem.2.weight"]
    x = ops.conv2d(x, last, w["stem.2.bias"], stride=last.shape[-1])
    width = last.shape[0]
    x = ops.transpose(ops.reshape(x, (0, width, -1)), (0, 2, 1))
    x = ops.add(x, ops.constant(w["positions"]))
    # The class token has no position.
    x = ops.concat([ops.tile_batch(w["class_token"].float32().reshape(1, -1), x), x], 1)
    layers = count_layers(w, "encoder.layers.")
    x = encode(ops, x, w, Encoder(layers, width // HEAD, "gelu", see.eps))
    return norm(ops, place(ops, x, 0), w.sub("norm."), see.eps)
