"""The arguments of a Ray Serve deployment, and what becomes of them."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from multimodal_embedding_serving.scale.replicas import MIN_ONGOING_LIMIT, Replicas


def test_names_are_those_of_ray_and_the_former_ones_still_work() -> None:
    """`serve run` passes strings; a file of Ray Serve may hold numbers."""
    former: dict[str, Any] = {
        "cpus": "1",
        "gpus": 1,
        "least": "2",
        "most": 4,
        "ongoing": "3",
        "patience": 5,
    }
    replicas = Replicas.model_validate(former)
    assert replicas == Replicas(
        num_cpus=1,
        num_gpus=1,
        min_replicas=2,
        max_replicas=4,
        target_ongoing_requests=3,
        upscale_delay_s=5,
    )
    with pytest.raises(ValidationError, match="mots"):
        Replicas.model_validate({"mots": 4})


def test_the_scaling_is_as_ray_takes_it() -> None:
    words = {"min_replicas": "3", "max_replicas": "2", "target_ongoing_requests": "20"}
    replicas = Replicas.model_validate(words)
    assert replicas.autoscaling_config() == {
        "min_replicas": 3,
        "max_replicas": 3,
        "target_ongoing_requests": 20,
        "upscale_delay_s": 10,
    }
    assert replicas.max_ongoing_requests() == 80
    assert Replicas().max_ongoing_requests() == MIN_ONGOING_LIMIT
