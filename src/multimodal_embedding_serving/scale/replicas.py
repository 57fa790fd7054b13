"""How many replicas Ray Serve runs, and when it adds one. Needs no Ray."""

from __future__ import annotations

from typing import Any

from pydantic import AliasChoices, BaseModel, ConfigDict, Field

MIN_ONGOING_LIMIT = 64
"""Requests that every replica accepts at a time, at least: it batches those that come together."""


def _names(*names: str) -> AliasChoices:
    return AliasChoices(*names)


class Replicas(BaseModel):
    """The arguments of `build`, named as Ray Serve names them.

    `cpus`, `gpus`, `least`, `most`, `ongoing` and `patience`, the names of version 0.1, still work.
    """

    model_config = ConfigDict(extra="forbid")

    model: str | None = None
    """None: the model of EMBEDDING_MODEL_NAME."""
    num_cpus: float = Field(default=2, gt=0, validation_alias=_names("num_cpus", "cpus"))
    """Of one replica."""
    num_gpus: float = Field(default=0, ge=0, validation_alias=_names("num_gpus", "gpus"))
    min_replicas: int = Field(default=1, ge=1, validation_alias=_names("min_replicas", "least"))
    max_replicas: int = Field(default=8, ge=1, validation_alias=_names("max_replicas", "most"))
    target_ongoing_requests: float = Field(
        default=16, gt=0, validation_alias=_names("target_ongoing_requests", "ongoing")
    )
    """Requests in flight for each replica, above which Ray Serve adds one."""
    upscale_delay_s: float = Field(
        default=10, ge=0, validation_alias=_names("upscale_delay_s", "patience")
    )
    """Seconds of such load before it does."""
    environment: dict[str, str] = {}
    """Settings, as variables, that override those of each machine."""

    def autoscaling_config(self) -> dict[str, Any]:
        """As `serve.deployment` takes it."""
        return {
            "min_replicas": self.min_replicas,
            "max_replicas": max(self.min_replicas, self.max_replicas),
            "target_ongoing_requests": self.target_ongoing_requests,
            "upscale_delay_s": self.upscale_delay_s,
        }

    def max_ongoing_requests(self) -> int:
        """Beyond which Ray's proxy holds requests back; a replica bounds its own queues, too."""
        return max(MIN_ONGOING_LIMIT, 4 * int(self.target_ongoing_requests))
