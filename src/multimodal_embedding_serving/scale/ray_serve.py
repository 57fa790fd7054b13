"""The same server as a Ray Serve deployment: replicas on the machines of a cluster.

    serve run multimodal_embedding_serving.scale.ray_serve:build model=CLIP/clip-vit-b-32

A replica is one server with one model. It takes requests once its model is open, and Ray Serve
makes more of them while more requests are on their way than `ongoing` for each. Where a replica
says that it is not healthy, or its machine is lost, another takes its place.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from multimodal_embedding_serving.api.app import create_app
from multimodal_embedding_serving.api.service import Service, open_engine
from multimodal_embedding_serving.errors import MissingExtra, NotReady
from multimodal_embedding_serving.scale.resources import node_settings
from multimodal_embedding_serving.settings import Settings

try:
    from ray import serve
except ModuleNotFoundError as error:
    raise MissingExtra("Ray", "ray") from error

CONVERSION_SECONDS = 3600.0
"""A replica's first start on a machine may download and convert."""


class Replicas(BaseModel):
    """The words of the command line."""

    model_config = ConfigDict(extra="forbid")

    model: str | None = None
    """None: as EMBEDDING_MODEL_NAME says."""
    cpus: float = Field(default=2, gt=0)
    """Of one replica."""
    gpus: float = Field(default=0, ge=0)
    least: int = Field(default=1, ge=1)
    most: int = Field(default=8, ge=1)
    """Replicas."""
    ongoing: float = Field(default=16, gt=0)
    """Requests on their way for each replica, beyond which one more is made."""
    environment: dict[str, str] = {}
    """Settings, as variables, that win over those of each machine."""
    patience: float = Field(default=10, ge=0)
    """Seconds of such load before one more is made."""


@serve.ingress()
class Replica:
    """One server, whose model is open once this is made."""

    def __init__(self, environment: dict[str, str], cpus: float) -> None:
        self._service = Service(node_settings(environment, cpus))
        self._service.open_in_background(open_engine)
        self._service.opened.wait(CONVERSION_SECONDS)
        self.check_health()

    def __serve_build_asgi_app__(self) -> Any:
        return create_app(self._service.settings, service=self._service)

    def check_health(self) -> None:
        """Ray Serve asks from time to time. Raises NotReady where the model is beyond help."""
        service = self._service
        if service.engine is None or service.engine.dead:
            raise NotReady(service.unready or "the model can't be opened")


def build(words: Replicas | dict[str, Any]) -> serve.Application:
    """What `serve run` runs, with its words as they were typed. Raises pydantic.ValidationError."""
    replicas = Replicas.model_validate(words)
    told = {**Settings.variables(), **replicas.environment}
    if replicas.model is not None:
        told["EMBEDDING_MODEL_NAME"] = replicas.model
    deployment = serve.deployment(
        Replica,
        name="multimodal-embedding-ms",
        ray_actor_options={"num_cpus": replicas.cpus, "num_gpus": replicas.gpus},
        # A replica batches what comes at once, and has a bounded queue of its own.
        max_ongoing_requests=max(64, 4 * int(replicas.ongoing)),
        autoscaling_config={
            "min_replicas": replicas.least,
            "max_replicas": max(replicas.least, replicas.most),
            "target_ongoing_requests": replicas.ongoing,
            "upscale_delay_s": replicas.patience,
        },
        health_check_period_s=5,
        graceful_shutdown_timeout_s=30,
    )
    return deployment.bind(told, replicas.cpus)
