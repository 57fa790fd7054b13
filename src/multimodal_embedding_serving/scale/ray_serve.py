"""The same server as a Ray Serve deployment: replicas on the machines of a cluster.

    serve run multimodal_embedding_serving.scale.ray_serve:build model=CLIP/clip-vit-b-32

A replica is one server with one model. It accepts requests once its model is open. Ray Serve adds
replicas while each has more than `target_ongoing_requests`, and replaces a replica that reports
itself unhealthy or whose machine is lost.
"""

from __future__ import annotations

from typing import Any

from multimodal_embedding_serving.api.app import create_app
from multimodal_embedding_serving.api.service import Service, open_engine
from multimodal_embedding_serving.errors import MissingExtra, NotReady
from multimodal_embedding_serving.scale.replicas import Replicas
from multimodal_embedding_serving.scale.resources import node_settings
from multimodal_embedding_serving.settings import Settings

try:
    from ray import serve
except ModuleNotFoundError as error:
    raise MissingExtra("Ray", "ray") from error

MAX_START_SECONDS = 3600.0
"""A replica's first start on a machine may download and convert the model."""


@serve.ingress()
class Replica:
    """One server; its model is open once the constructor returns."""

    def __init__(self, environment: dict[str, str], cpus: float) -> None:
        self._service = Service(node_settings(environment, cpus))
        self._service.open_in_background(open_engine)
        self._service.opened.wait(MAX_START_SECONDS)
        self.check_health()

    def __serve_build_asgi_app__(self) -> Any:
        return create_app(self._service.settings, service=self._service)

    def check_health(self) -> None:
        """Called by Ray Serve at intervals. Raises NotReady if the model cannot recover."""
        service = self._service
        if service.engine is None or service.engine.dead:
            raise NotReady(service.unready or "the model could not be loaded")


def build(arguments: Replicas | dict[str, Any]) -> serve.Application:
    """The application for `serve run`, whose arguments come as strings.

    Raises pydantic.ValidationError.
    """
    replicas = Replicas.model_validate(arguments)
    environment = Settings.merge(Settings.variables(), replicas.environment)
    if replicas.model is not None:
        environment["EMBEDDING_MODEL_NAME"] = replicas.model
    deployment = serve.deployment(
        Replica,
        name="multimodal-embedding-ms",
        ray_actor_options={"num_cpus": replicas.num_cpus, "num_gpus": replicas.num_gpus},
        max_ongoing_requests=replicas.max_ongoing_requests(),
        autoscaling_config=replicas.autoscaling_config(),
        health_check_period_s=5,
        graceful_shutdown_timeout_s=30,
    )
    return deployment.bind(environment, replicas.num_cpus)
