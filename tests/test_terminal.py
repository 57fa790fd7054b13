"""What a person at a terminal sees."""

from __future__ import annotations

import io
import logging
import sys

import pytest

from multimodal_embedding_serving.terminal import TerminalLog, show_stages


class Screen(io.StringIO):
    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


def work() -> None:
    with show_stages() as show:
        show("downloading", 0.0)
        show("downloading", 0.5)
        show("building", 0.25)


def test_each_stage_has_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen(terminal=True)
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    work()
    shown = screen.getvalue()
    last = shown[shown.rindex("downloading") :]
    assert "100%" in last.partition("building")[0]
    assert "25%" in last.partition("building")[2]


def test_nothing_is_shown_where_there_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen(terminal=False)
    monkeypatch.setattr(sys, "stderr", screen)
    work()
    assert screen.getvalue() == ""


def test_the_log_follows_whoever_replaces_standard_error(monkeypatch: pytest.MonkeyPatch) -> None:
    log = TerminalLog()
    screen = Screen(terminal=True)
    monkeypatch.setattr(sys, "stderr", screen)
    log.handle(logging.makeLogRecord({"msg": "converted", "levelno": logging.INFO}))
    assert screen.getvalue() == "converted\n"
