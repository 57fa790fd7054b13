"""BatchNorm and parallel branches as one convolution (RepVGG: Ding et al. 2021, arXiv 2101.03697).

Computed in float64 while a graph is built, so that the stored weights are rounded only once. `w` is
a view of the checkpoint below one prefix: a convolution is `weight` [out, in / groups, h, w], and
the BatchNorm after it `norm.*`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from multimodal_embedding_serving.checkpoints.weights import Weights
from multimodal_embedding_serving.graph.ops import Ops, T

EPS = 1e-5
"""BatchNorm's eps in all checkpoints of these models."""

Doubles = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Affine:
    """A BatchNorm as x * gain + shift, both [C]."""

    gain: Doubles
    shift: Doubles


@dataclass(frozen=True, slots=True)
class Convolution:
    """A kernel [out, in / groups, h, w], odd sides, and its bias [out]."""

    kernel: Doubles
    bias: Doubles

    def __add__(self, other: Convolution) -> Convolution:
        """The sum of both on the same input: the smaller kernel is centered in the larger one."""
        kernel, small = self.kernel.copy(), other.kernel
        top, left = ((kernel.shape[k] - small.shape[k]) // 2 for k in (2, 3))
        kernel[:, :, top : top + small.shape[2], left : left + small.shape[3]] += small
        return Convolution(kernel, self.bias + other.bias)

    def scaled(self, factor: Doubles) -> Convolution:
        """Multiply each output channel by its factor [out]."""
        return Convolution(self.kernel * factor[:, None, None, None], self.bias * factor)

    def unit(self, channels: Affine) -> Convolution:
        """A lone BatchNorm as a 1 x 1 convolution with the groups of this one."""
        out, inner = self.kernel.shape[:2]
        kernel = np.zeros((out, inner, 1, 1))
        each = np.arange(out)
        kernel[each, each % inner, 0, 0] = channels.gain
        return Convolution(kernel, channels.shift)


def doubles(w: Weights, name: str) -> Doubles:
    return w[name].float32().astype(np.float64)


def read_norm(w: Weights) -> Affine:
    gain = doubles(w, "weight") / np.sqrt(doubles(w, "running_var") + EPS)
    return Affine(gain, doubles(w, "bias") - doubles(w, "running_mean") * gain)


def fold_norm(w: Weights) -> Convolution:
    """Fold a convolution without bias and the BatchNorm after it."""
    norm = read_norm(w.sub("norm."))
    return Convolution(doubles(w, "weight") * norm.gain[:, None, None, None], norm.shift)


def fold_branches(w: Weights) -> Convolution:
    """Sum `conv` and, if present, `scale` (1 x 1) and `skip` (a lone BatchNorm)."""
    folded = fold_norm(w.sub("conv."))
    if "scale.weight" in w:
        folded += fold_norm(w.sub("scale."))
    if "skip.weight" in w:
        folded += folded.unit(read_norm(w.sub("skip.")))
    return folded


def convolve(ops: Ops[T], x: T, folded: Convolution, channels: int, *, stride: int = 1) -> T:
    """Apply to x [B, channels, h, w], padded so that stride 1 preserves h and w."""
    kernel = folded.kernel.astype(np.float32)
    padding = kernel.shape[2] // 2, kernel.shape[3] // 2
    bias = folded.bias.astype(np.float32)
    groups = channels // kernel.shape[1]
    return ops.conv2d(x, kernel, bias, stride=stride, padding=padding, groups=groups)
