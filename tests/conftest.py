"""Fixtures of every test: the running server, and the figures that a run prints at its end."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants
from hypothesis import settings

from multimodal_embedding_serving.checkpoints.sources import HubAccess
from tests.hub_standin import HubStandIn
from tests.serving import Running, serving

ROOT = Path(__file__).parent.parent
FIGURES = pytest.StashKey[list[str]]()

Figure = Callable[[str], None]

# A slow machine is no failure: timing never decides.
settings.register_profile("steady", deadline=None)
settings.load_profile("steady")


@pytest.fixture(scope="session")
def figure(request: pytest.FixtureRequest) -> Figure:
    """Note a measured figure: it is printed at the end of the run."""
    return request.config.stash.setdefault(FIGURES, []).append


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """A worker of pytest-xdist has ended: take over its figures."""
    sent = getattr(node, "workeroutput", {}).get("figures", [])
    node.config.stash.setdefault(FIGURES, []).extend(sent)


def pytest_sessionfinish(session: pytest.Session) -> None:
    output = getattr(session.config, "workeroutput", None)
    if output is not None:  # in a worker
        output["figures"] = session.config.stash.get(FIGURES, [])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    noted = terminalreporter.config.stash.get(FIGURES, [])
    if noted:
        terminalreporter.section("figures")
        for line in noted:
            terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def samples() -> Path:
    """The folder of the photos and the video that the package ships."""
    return ROOT / "src" / "multimodal_embedding_serving" / "builtin" / "samples"


@pytest.fixture(scope="session")
def server() -> Iterator[Running]:
    """`mmes serve` with the embedded model on a free port, ready to answer."""
    command = [sys.executable, "-m", "multimodal_embedding_serving", "serve", "--port", "0"]
    with serving(command) as running:
        yield running


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubStandIn]:
    """A hub of its own for each test, and a client untouched by the machine's environment."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("NO_PROXY", "*")
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    # A session keeps the proxies that it was opened with; those of clients before 1.0 do not.
    end_session = getattr(huggingface_hub, "close_session", lambda: None)
    end_session()
    with HubStandIn() as standin:
        yield standin
    end_session()


@pytest.fixture
def access(hub: HubStandIn, tmp_path: Path) -> HubAccess:
    return HubAccess(endpoint=hub.url, cache=tmp_path / "cache")
