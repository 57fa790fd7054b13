"""What the routes share: the settings, the engine once it is open, and how far opening is."""

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
from multimodal_embedding_serving.errors import EmbeddingError, NotReady, UnknownModel
from multimodal_embedding_serving.monitoring.metrics import Metrics
from multimodal_embedding_serving.monitoring.progress import show_stages
from multimodal_embedding_serving.monitoring.request import MemoryQuota
from multimodal_embedding_serving.settings import Settings
from multimodal_embedding_serving.types import Progress

log = logging.getLogger(__name__)

EngineFactory = Callable[[Settings, Progress, Metrics], Engine]


def open_engine(settings: Settings, progress: Progress, metrics: Metrics) -> Engine:
    """Open the engine; a person at the terminal sees how far it is, as /ready does."""
    with show_stages() as show:

        def tell(stage: str, share: float) -> None:
            progress(stage, share)
            show(stage, share)

        return Engine.open(settings=settings, progress=tell, metrics=metrics)


@dataclass(slots=True)
class Service:
    """The state of one server. Changed by its opening and its stop, read by the routes."""

    settings: Settings
    metrics: Metrics = field(default_factory=Metrics)
    engine: Engine | None = None
    stage: str = "starting"
    share: float = 0.0
    failure: str | None = None
    """Why the model can't be opened."""
    draining: bool = False
    names: frozenset[str] = frozenset()
    """What clients may call the loaded model, in lower case."""
    created: int = 0
    """When the model was opened: Unix time."""
    active: int = 0
    """Requests that are being answered."""
    begun: bool = False
    """Opening has been started."""
    opened: threading.Event = field(default_factory=threading.Event)
    """Set when opening has ended, well or not."""
    memory_quota: MemoryQuota = field(init=False)
    """What the requests that are being answered hold in memory."""

    def __post_init__(self) -> None:
        self.memory_quota = MemoryQuota(self.settings.max_pending_mb << 20)

    def note(self, stage: str, share: float) -> None:
        """Record how far opening is, for /ready; `open_engine` shows and logs it.

        Called from the opening thread.
        """
        self.stage, self.share = stage, min(max(share, 0.0), 1.0)

    def open_in_background(self, factory: EngineFactory) -> None:
        """Open the engine on a thread; a daemon, because a conversion can't be interrupted."""
        self.begun = True
        threading.Thread(target=self._open, args=(factory,), name="opening", daemon=True).start()

    def _open(self, factory: EngineFactory) -> None:
        failure: str | None = "an unexpected error; the log has it"
        try:
            engine = factory(self.settings, self.note, self.metrics)
            self.names = spellings_of(engine, self.settings)
            self.engine = engine
            self.created, failure = int(time.time()), None
        except EmbeddingError as error:
            failure = error.message
            log.error("the model can't be opened: %s", failure)
        finally:
            self.failure = failure
            self.opened.set()

    @property
    def unready(self) -> str | None:
        """Why no request can be answered now, or None."""
        if self.draining:
            return "the server is stopping"
        if self.failure is not None:
            return f"the model can't be opened: {self.failure}"
        if self.engine is None:
            return f"the model is not open yet: {self.stage}, {self.share:.0%}"
        return None if self.engine.healthy else "the model failed its self-test; it is reopened"

    def ready_engine(self) -> Engine:
        """The engine. Raises NotReady with the reason."""
        reason = self.unready
        if reason is not None or self.engine is None:
            raise NotReady(reason or "the model is not open yet")
        return self.engine

    def require(self, model: str | None) -> None:
        """Raises UnknownModel where `model` is no spelling of the loaded model."""
        if not self.accepts(model):
            loaded = self.ready_engine().info.id
            message = f"The model '{model}' does not exist here; this server has '{loaded}'"
            raise UnknownModel(message, param="model")

    def accepts(self, model: str | None) -> bool:
        """Whether `model` is a spelling of the loaded model; None or "" means the loaded one."""
        return not model or model.strip().lower() in self.names


def spellings_of(engine: Engine, settings: Settings) -> frozenset[str]:
    """Every name of the loaded model, in lower case."""
    names = {engine.info.id, settings.model, *settings.aliases}
    for name in (engine.info.id, settings.model):
        with suppress(UnknownModel):
            names.update(spellings(resolve(name)))
    return frozenset(name.lower() for name in names)


@dataclass(frozen=True, slots=True, kw_only=True)
class Listening:
    """How to listen, beyond what the environment says."""

    root_path: str = ""
    """Where a proxy in front has mounted the service."""
    certificate: Path | None = None
    private_key: Path | None = None
