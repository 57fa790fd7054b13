"""Progress bars on a terminal, log lines elsewhere."""

from __future__ import annotations

import io
import logging
import re
import sys

import pytest

from multimodal_embedding_serving.monitoring.logs import TerminalLog
from multimodal_embedding_serving.monitoring.progress import Work, show_stages, show_work
from multimodal_embedding_serving.types import Portion
from tests.fakes import FakeClock


class Screen(io.StringIO):
    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


def plain(screen: Screen) -> str:
    """The text on the screen, without colors and cursor movements."""
    return re.sub(r"\x1b\[[^a-zA-Z]*[a-zA-Z]", "", screen.getvalue())


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
    text = screen.getvalue()
    last = text[text.rindex("downloading") :]
    assert "100%" in last.partition("building")[0]
    assert "25%" in last.partition("building")[2]


def test_nothing_is_shown_where_there_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen(terminal=False)
    monkeypatch.setattr(sys, "stderr", screen)
    work()
    assert screen.getvalue() == ""


def test_a_download_has_its_size_and_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    screen, clock = Screen(terminal=True), FakeClock()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with show_stages(clock) as show:
        show("downloading", Portion(0, 500_000_000))
        clock.now += 4
        show("downloading", Portion(100_000_000, 500_000_000))
    assert " 20% of 500.0 MB, 25.0 MB/s " in plain(screen)


def test_work_has_one_bar_with_a_rate_and_how_much_is_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    screen = Screen(terminal=True)
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with show_work("embedding") as show:
        show(Work(1))
        show(Work(30, 120, "2 failed"))
    last = plain(screen).rpartition("embedding")[2]
    assert re.search(r"30 of 120 .*2 failed .*elapsed \d:\d\d:\d\d remaining", last)


def test_where_there_is_no_terminal_work_is_logged_now_and_then(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sys, "stderr", Screen(terminal=False))
    caplog.set_level(logging.INFO)
    clock = FakeClock()
    with show_work("embedding", clock) as show:
        for done in range(0, 3000, 100):
            clock.now += 1
            show(Work(done, 10_000 if done > 1500 else None, "1 failed" if done > 2500 else ""))
    assert caplog.messages == [
        "embedding: 900, 90.0/s",
        "embedding: 1,900 of 10,000, 95.0/s, 0:01:25 remaining",
        "embedding: 2,900 of 10,000, 96.7/s, 0:01:13 remaining; 1 failed",
    ]


def test_where_there_is_no_terminal_a_stage_is_logged_when_it_starts_and_now_and_then(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sys, "stderr", Screen(terminal=False))
    caplog.set_level(logging.INFO)
    clock = FakeClock()
    with show_stages(clock) as show:
        for share in range(15):
            clock.now += 1
            show("downloading", share / 20)
        show("fetching", Portion(200_000_000, 1_000_000_000))
        clock.now += 10
        show("fetching", Portion(500_000_000, 1_000_000_000))
        show("building", 0.0)
        show("building", 1.0)
    assert caplog.messages == [
        "downloading",
        "downloading: 50%",
        "fetching",
        "fetching: 50% of 1,000.0 MB, 30.0 MB/s",
        "building",
    ]


def test_the_log_follows_whoever_replaces_standard_error(monkeypatch: pytest.MonkeyPatch) -> None:
    log = TerminalLog()
    screen = Screen(terminal=True)
    monkeypatch.setattr(sys, "stderr", screen)
    log.handle(logging.makeLogRecord({"msg": "converted", "levelno": logging.INFO}))
    assert screen.getvalue() == "converted\n"
