"""How far opening the model is: in the log, and for /ready."""

from __future__ import annotations

import io
import logging
import sys
from typing import Any

import pytest

from multimodal_embedding_serving.api.service import Service, open_engine
from multimodal_embedding_serving.engine import Engine
from multimodal_embedding_serving.settings import Settings
from multimodal_embedding_serving.types import Progress
from tests.api.fakes import DIMENSION, fake_engine
from tests.fakes import PATIENCE, FakeGraph


def test_each_stage_is_logged_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def open_slowly(*, settings: Settings, progress: Progress, **_: Any) -> Engine:
        progress("converting the model", 0.0)
        progress("converting the model", 0.5)
        progress("opening the model", 0.0)
        return fake_engine(settings, {"text": FakeGraph(DIMENSION)})

    monkeypatch.setattr(Engine, "open", open_slowly)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    service = Service(Settings.from_env({}))
    with caplog.at_level(logging.INFO):
        service.open_in_background(open_engine)
        assert service.opened.wait(PATIENCE)
    assert caplog.messages == ["converting the model", "opening the model"]
    assert (service.stage, service.share) == ("opening the model", 0.0)
    assert service.engine is not None
    service.engine.close()
