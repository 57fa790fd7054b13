"""`mmes serve` names variables that look like settings and have no effect."""

from __future__ import annotations

import re
import sys
import time

import pytest

from multimodal_embedding_serving.api import server
from multimodal_embedding_serving.cli.serve import serve
from tests.cli.running import COMMAND, mmes
from tests.serving import PATIENCE, serving


def test_a_variable_that_is_almost_a_setting_is_named_at_start(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(server, "serve", lambda settings, listening: None)
    monkeypatch.setattr(sys.modules[serve.__module__], "set_up_logging", lambda *_: None)
    monkeypatch.setenv("EMBEDDING_PORT", "80")
    monkeypatch.setenv("VIDEO_FRAME_LOG_LEVEL", "INFO")
    with pytest.raises(SystemExit) as stop:
        serve()
    assert stop.value.code == 0
    assert "did you mean EMBEDDING_SERVER_PORT?" in caplog.text
    assert "VIDEO_FRAME_LOG_LEVEL is ignored: use `EMBEDDING_LOG_LEVEL`" in caplog.text


def test_the_log_says_where_to_look_once_the_model_is_there() -> None:
    with serving([*COMMAND, "serve", "--port", "0", "--root-path", "/mm"]) as running:
        until = time.monotonic() + PATIENCE
        while not (ready := [line for line in running.log if "ready: open" in line]):
            assert time.monotonic() < until, running.log
            time.sleep(0.05)
    (line,) = ready
    described = r"\(Builtin/mini on CPU, int8-weights, computed in \w+, [\d,]+ MB of memory\)"
    assert re.search(rf"ready: open {re.escape(running.url)}/mm {described}", line), line


def test_the_other_commands_name_it_too() -> None:
    done = mmes("models", EMBEDDING_MODEL="CLIP/clip-vit-b-32")
    assert done.returncode == 0
    assert done.stderr == (
        "mmes: warning: EMBEDDING_MODEL is not a setting and has no effect; "
        "did you mean EMBEDDING_MODEL_NAME?\n"
    )
    assert mmes("models").stderr == ""
