"""From unit vectors to scores: the probabilities of labels, and the order of documents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from multimodal_embedding_serving.errors import InvalidInput
from multimodal_embedding_serving.types import Vectors

Activation = Literal["softmax", "sigmoid"]
Scores = NDArray[np.float64]

DEFAULT_SCALE = 100.0
"""For models without a scale of their own: CLIP's, of which training rarely leaves the bound."""
SLOT = "{}"
"""Where a template takes the label."""
TEXT_TEMPLATE, IMAGE_TEMPLATE = SLOT, f"a photo of a {SLOT}"
"""The templates of labels for text inputs, and for images and videos."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """What a model learned to multiply a cosine by, and to add to it."""

    scale: float | None = None
    bias: float | None = None

    @property
    def learned(self) -> bool:
        """Whether the probabilities are those that the model was trained for."""
        return self.scale is not None

    @property
    def activation(self) -> Activation:
        """The model's own: sigmoid (SigLIP) if it learned a bias, else softmax (CLIP)."""
        return "softmax" if self.bias is None else "sigmoid"

    def probabilities(
        self, inputs: Vectors, labels: Vectors, activation: Activation | None = None
    ) -> Scores:
        """Unit vectors [inputs, dimension] and [labels, dimension] -> [inputs, labels], 0 to 1.

        softmax: each row sums to 1. sigmoid: each label stands alone.
        """
        scale = DEFAULT_SCALE if self.scale is None else self.scale
        logits = cosines(inputs, labels) * scale + (self.bias or 0.0)
        if (activation or self.activation) == "sigmoid":
            return np.asarray(np.exp(-np.logaddexp(0, -logits)))  # can't overflow
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def cosines(rows: Vectors, columns: Vectors) -> Scores:
    """Unit vectors [n, dimension] and [m, dimension] -> their cosines [n, m], -1 to 1."""
    return np.clip(rows.astype(np.float64) @ columns.astype(np.float64).T, -1, 1)


def rank(scores: Scores, top: int | None = None) -> list[int]:
    """The indexes of the scores [n], highest first and equal ones by index.

    The first `top`; all of them if it is None or 0.
    """
    order: list[int] = np.argsort(-scores, kind="stable").tolist()
    return order[: top or None]


def pool(vectors: Vectors) -> Vectors:
    """Unit vectors [groups, n, dimension] -> their renormalized means [groups, dimension].

    Raises InvalidInput if the vectors of a group sum to zero.
    """
    if vectors.shape[1] == 1:
        return vectors[:, 0]
    means = vectors.astype(np.float64).mean(axis=1)
    norms = np.linalg.norm(means, axis=1, keepdims=True)
    if not norms.all():
        raise InvalidInput("the vectors to average sum to zero")
    return np.asarray(means / norms, np.float32)


def fill(labels: Sequence[str], templates: Sequence[str]) -> list[str]:
    """Each label in each template: all templates of the first label come first."""
    return [template.replace(SLOT, label) for label in labels for template in templates]


def pool_labels(vectors: Vectors, templates: Sequence[str]) -> Vectors:
    """The vectors of the texts of `fill` -> one per label [labels, dimension]."""
    return pool(vectors.reshape(-1, len(templates), vectors.shape[1]))


def read_labels(labels: Any) -> list[str]:
    """The labels. Raises InvalidInput, which names the one that is wrong."""
    return _read_strings("labels", labels)


def read_templates(template: Any) -> list[str] | None:
    """One template or several, as a list; None for the defaults. Raises InvalidInput."""
    if template is None:
        return None
    single = isinstance(template, str)
    templates = _read_strings("template", [template] if single else template)
    for index, each in enumerate(templates):
        if SLOT not in each:
            field = "template" if single else f"template[{index}]"
            message = f"{field}: must contain {SLOT}, where the label goes, as in {IMAGE_TEMPLATE}"
            raise InvalidInput(message, param="template")
    return templates


def _read_strings(field: str, values: Any) -> list[str]:
    if isinstance(values, str | bytes) or not isinstance(values, Sequence):
        raise InvalidInput(f"{field}: must be a list of strings", param=field)
    if not values:
        raise InvalidInput(f"{field}: must have at least one string", param=field)
    for index, value in enumerate(values):
        if not isinstance(value, str) or not value.strip():
            message = f"{field}[{index}]: must be a string that is not empty"
            raise InvalidInput(message, param=f"{field}.{index}")
    return list(values)
