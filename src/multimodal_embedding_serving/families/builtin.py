"""Builtin/mini: words by a small BERT, images as a mixture of the words for what they show.

Text is all-MiniLM-L6-v2 (Wang et al. 2020, arXiv 2002.10957), less a constant mean vector. A
image goes through EfficientNet-Lite2 (Tan & Le 2019, arXiv 1905.11946; without squeeze and
excitation, with relu6), and the 1000 classes' probabilities weigh the classes' text vectors, which
puts it among the words of what it shows: ConSE (Norouzi et al. 2013, arXiv 1312.5650). Nothing is
trained; `scripts/build_builtin.py` brings the parts together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from multimodal_embedding_serving.checkpoints.weights import Weights
from multimodal_embedding_serving.families import Checkpoint, Family, TowerSpec
from multimodal_embedding_serving.graph.layers import bert_block, norm
from multimodal_embedding_serving.graph.ops import Ops, T

SIDE, MIDDLE = 260, (0.5, 0.5, 0.5)
"""Side of the image in pixels; its mean and its standard deviation, each channel's."""
TEMPERATURE = 1.5
"""Flattens the classes' probabilities, so that an image lies among several words."""
STAGES = ((1, 1), (3, 2), (3, 2), (4, 2), (4, 1), (5, 2), (1, 1))
"""Blocks of a stage, and the stride of its first: Lite0's, deepened by 1.2 but for the ends."""
BATCH_NORM_EPS = 1e-3
FEATURES = 9 * 9
"""Places of the last feature map: what an image costs."""

LENGTH, PAD = 256, 0
LAYERS, HEADS, BERT_EPS = 6, 12, 1e-12


def plan(checkpoint: Checkpoint) -> Sequence[TowerSpec]:
    """The weights hold `image.*`, `text.*`, `classes` [1000, W] and `mean` [W]."""
    w = checkpoint.weights
    dimension = w["mean"].shape[0]
    return (
        TowerSpec(
            "image",
            {"pixels": SIDE},
            lambda ops, x: embed_image(ops, w, x["pixels"]),
            {"size": SIDE, "resize": "square_crop", "resample": "bicubic", "patches": FEATURES},
            dimension,
        ),
        TowerSpec(
            "text",
            {"input_ids": None, "attention_mask": None},
            lambda ops, x: embed_text(ops, w, x["input_ids"], x["attention_mask"]),
            {"max_length": LENGTH, "pad_id": PAD},
            dimension,
            storage={"embedding": "i4"},
        ),
    )


FAMILY = Family(plan=plan, precision="int8-weights")


# ── text ──
def minilm(ops: Ops[T], w: Weights, ids: T, mask: T) -> T:
    """ids, mask int32 [B, L] -> all-MiniLM-L6-v2's own unit vectors [B, W]: mean over tokens."""
    tables = w.sub("embeddings.")
    # There is one sentence: its token type is part of every position.
    places = tables["position_embeddings.weight"].float32()[:LENGTH]
    places = places + tables["token_type_embeddings.weight"].float32()[0]
    x = ops.embedding(ids, tables["word_embeddings.weight"])
    x = norm(ops, ops.add(x, ops.head_rows(places, x)), tables.sub("LayerNorm."), BERT_EPS)
    for layer in range(LAYERS):
        x = bert_block(ops, x, w.sub(f"encoder.layer.{layer}."), HEADS, mask, BERT_EPS)
    return ops.l2_normalize(ops.masked_mean(x, mask))


def embed_text(ops: Ops[T], w: Weights, ids: T, mask: T) -> T:
    x = minilm(ops, w.sub("text."), ids, mask)
    return ops.l2_normalize(ops.subtract(x, ops.constant(w["mean"])))


# ── image ──
def embed_image(ops: Ops[T], w: Weights, pixels: T) -> T:
    logits = efficientnet(ops, w.sub("image."), ops.pixels(pixels, MIDDLE, MIDDLE))
    shares = ops.softmax(ops.scale(logits, 1 / TEMPERATURE))
    return ops.l2_normalize(ops.project(shares, w["classes"]))


def efficientnet(ops: Ops[T], w: Weights, x: T) -> T:
    """Normalized pixels [B, 3, SIDE, SIDE] -> the logits of ImageNet's classes [B, 1000]."""
    x = ops.relu6(convolve(ops, x, w, "_conv_stem", "_bn0", stride=2, side=SIDE))
    side = halve(SIDE)
    for number, stride in enumerate(strides()):
        block = w.sub(f"_blocks.{number}.")
        x = inverted_bottleneck(ops, x, block, stride, side)
        side = halve(side) if stride == 2 else side
    x = ops.relu6(convolve(ops, x, w, "_conv_head", "_bn1"))
    return ops.linear(ops.mean(x, (2, 3)), w["_fc.weight"], w["_fc.bias"])


def strides() -> Iterator[int]:
    """The stride of every block."""
    for blocks, first in STAGES:
        yield first
        yield from [1] * (blocks - 1)


def inverted_bottleneck(ops: Ops[T], x: T, w: Weights, stride: int, side: int) -> T:
    """MBConv (Sandler et al. 2018, arXiv 1801.04381): expand, filter each channel, project."""
    expand = w.get("_expand_conv.weight")
    y = x if expand is None else ops.relu6(convolve(ops, x, w, "_expand_conv", "_bn0"))
    y = ops.relu6(convolve(ops, y, w, "_depthwise_conv", "_bn1", stride=stride, side=side))
    y = convolve(ops, y, w, "_project_conv", "_bn2")
    channels = w["_project_conv.weight"].shape[0]
    same_shape = stride == 1 and expand is not None and expand.shape[1] == channels
    return ops.add(x, y) if same_shape else y


def convolve(
    ops: Ops[T], x: T, w: Weights, conv: str, bn: str, *, stride: int = 1, side: int = 1
) -> T:
    """A convolution and the batch norm behind it, as one convolution."""
    kernel, bias = fold(w, conv, bn)
    size = kernel.shape[-1]
    groups = kernel.shape[0] if conv == "_depthwise_conv" else 1
    padding = same(side, size, stride) if size > 1 else 0
    return ops.conv2d(x, kernel, bias, stride=stride, padding=padding, groups=groups)


def fold(w: Weights, conv: str, bn: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(kernel, bias) of a convolution with its batch norm inside."""
    weight, bias, mean, variance = (
        w[f"{bn}.{name}"].float32() for name in ("weight", "bias", "running_mean", "running_var")
    )
    gain = weight / np.sqrt(variance + np.float32(BATCH_NORM_EPS))
    return w[f"{conv}.weight"].float32() * gain[:, None, None, None], bias - mean * gain


def halve(side: int) -> int:
    return -(-side // 2)


def same(side: int, kernel: int, stride: int) -> tuple[int, int, int, int]:
    """TensorFlow's padding, where the weights come from: an odd pixel goes right and below."""
    total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
    before = total // 2
    return before, before, total - before, total - before
