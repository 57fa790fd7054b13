"""What the routes share: the settings, the engine once the model is loaded, and the progress."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from multimodal_embedding_serving.catalog import resolve, spellings
from multimodal_embedding_serving.engine import Engine
from multimodal_embedding_serving.errors import (
    EmbeddingError,
    ModelMismatch,
    NotReady,
    UnknownModel,
)
from multimodal_embedding_serving.monitoring.metrics import Metrics
from multimodal_embedding_serving.monitoring.progress import show_stages
from multimodal_embedding_serving.monitoring.request import MemoryQuota
from multimodal_embedding_serving.settings import Settings
from multimodal_embedding_serving.types import Progress

log = logging.getLogger(__name__)

LATEST = ":latest"

EngineFactory = Callable[[Settings, Progress, Metrics], Engine]
StartupCheck = Callable[[Settings], None]
"""Raises what can be known to fail before the server listens."""


def open_engine(settings: Settings, progress: Progress, metrics: Metrics) -> Engine:
    """Load the model; shows progress on /ready and, at a terminal, on standard error."""
    with show_stages() as show:

        def report(stage: str, share: float) -> None:
            progress(stage, share)
            show(stage, share)

        return Engine.open(settings=settings, progress=report, metrics=metrics)


@dataclass(slots=True)
class Service:
    """The state of one server: changed at startup and shutdown, read by the routes."""

    settings: Settings
    metrics: Metrics = field(default_factory=Metrics)
    engine: Engine | None = None
    stage: str = "starting"
    share: float = 0.0
    failure: str | None = None
    """Why the model could not be loaded."""
    draining: bool = False
    names: frozenset[str] = frozenset()
    """All names of the loaded model that clients may send, in lower case."""
    created: int = 0
    """When the model was loaded, in Unix time."""
    active: int = 0
    """Requests in progress."""
    opening_started: bool = False
    checked: threading.Event = field(default_factory=threading.Event)
    """Set when the checks that precede listening have passed, or loading has failed."""
    opened: threading.Event = field(default_factory=threading.Event)
    """Set when loading has ended, whether it succeeded or failed."""
    memory_quota: MemoryQuota = field(init=False)
    """Memory that the requests in progress hold."""

    def __post_init__(self) -> None:
        self.memory_quota = MemoryQuota(self.settings.max_pending_mb << 20)
        self.metrics.watch_bound("memory", self.memory_quota)
        self.metrics.watch_readiness(lambda: self.unready is None)

    def note(self, stage: str, share: float) -> None:
        """Record the progress of loading, for /ready; `open_engine` shows and logs it.

        Called from the opening thread.
        """
        self.stage, self.share = stage, min(max(share, 0.0), 1.0)
        self.metrics.note_loading(self.share)

    def open_in_background(self, factory: EngineFactory, check: StartupCheck | None = None) -> None:
        """Load the model on a thread; a daemon, because a conversion can't be interrupted."""
        self.opening_started = True
        arguments = factory, check
        threading.Thread(target=self._open, args=arguments, name="opening", daemon=True).start()

    def _open(self, factory: EngineFactory, check: StartupCheck | None) -> None:
        failure: str | None = "unexpected error (see the server log)"
        started = time.perf_counter()
        try:
            if check is not None:
                check(self.settings)
            self.checked.set()
            engine = factory(self.settings, self.note, self.metrics)
            self.names = spellings_of(engine, self.settings)
            self.engine = engine
            self.created, failure = int(time.time()), None
            self.metrics.note_loaded(time.perf_counter() - started)
        except EmbeddingError as error:
            failure = error.message
            log.error("could not load the model: %s", failure)
        finally:
            self.failure = failure
            self.checked.set()
            self.opened.set()

    @property
    def unready(self) -> str | None:
        """Why the server can't take requests now; None if it can."""
        if self.draining:
            return "the server is shutting down"
        if self.failure is not None:
            return f"could not load the model: {self.failure}"
        if self.engine is None:
            return f"the model is still loading: {self.stage}, {self.share:.0%}"
        return (
            None if self.engine.healthy else "the model failed its self-test and is being reloaded"
        )

    def ready_engine(self) -> Engine:
        """The engine. Raises NotReady with the reason."""
        reason = self.unready
        if reason is not None or self.engine is None:
            raise NotReady(reason or "the model is still loading")
        return self.engine

    def serves(self, application: str) -> bool:
        """Whether EMBEDDING_DIALECTS has the application."""
        return application in self.settings.dialects

    def require(self, model: str | None) -> None:
        """Raise UnknownModel unless `model` is a name of the loaded model."""
        if not self.accepts(model):
            loaded = self.ready_engine().info.id
            message = (
                f"The model '{model}' does not exist; this server serves '{loaded}': send that "
                "name, or none"
            )
            raise UnknownModel(message, param="model")

    def require_native(self, model: str | None) -> None:
        """Raise ModelMismatch, the native API's error, unless `model` names the loaded model."""
        if not self.accepts(model):
            raise ModelMismatch(
                f"Model mismatch: requested model '{model}' does not match the currently "
                f"loaded model '{self.ready_engine().info.id}'. Send the loaded model's name, or "
                "none.",
                param="model",
            )

    def accepts(self, model: str | None) -> bool:
        """Whether `model` is a name of the loaded model; None and "" mean the loaded one.

        Clients of Ollama append `:latest` to any name.
        """
        name = (model or "").strip().lower()
        return not name or name in self.names or name.removesuffix(LATEST) in self.names


def spellings_of(engine: Engine, settings: Settings) -> frozenset[str]:
    """Every name of the loaded model, in lower case."""
    names = {engine.info.id, settings.model, *settings.aliases}
    for name in (engine.info.id, settings.model):
        with suppress(UnknownModel):
            names.update(spellings(resolve(name)))
    return frozenset(name.lower() for name in names)


@dataclass(frozen=True, slots=True, kw_only=True)
class Listening:
    """How to listen, beyond the settings."""

    root_path: str = ""
    """The path under which a reverse proxy exposes the service."""
    certificate: Path | None = None
    private_key: Path | None = None
