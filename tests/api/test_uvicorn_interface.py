"""api/connection.py overrides private parts of uvicorn: they are still as it expects them."""

from __future__ import annotations

import inspect
import re
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from uvicorn.protocols.http import httptools_impl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from multimodal_embedding_serving.api.connection import Connection
from multimodal_embedding_serving.api.request_parser import RequestParser

ROOT = Path(__file__).parent.parent.parent
INSTALLED = version("uvicorn")
ADVICE = (
    f"uvicorn {INSTALLED} has changed what api/connection.py relies on. Compare "
    "uvicorn/protocols/http/httptools_impl.py with that of a version that passes, adapt "
    "api/connection.py, run tests/api/test_connections.py, then set the range of uvicorn in "
    "pyproject.toml to the minor versions that pass."
)

OVERRIDDEN = {
    "connection_made": ["self", "transport"],
    "connection_lost": ["self", "exc"],
    "data_received": ["self", "data"],
    "on_headers_complete": ["self"],
    "on_message_complete": ["self"],
    "on_response_complete": ["self"],
    "pause_writing": ["self"],
    "shutdown": ["self"],
    "_start_asgi_task": ["self", "cycle", "app"],
}
"""Methods of HttpToolsProtocol and their parameters."""

CALLS = {
    "on_headers_complete": [
        "self._start_asgi_task(self.cycle",
        "on_response=self.on_response_complete",
    ],
    "on_response_complete": ["self._start_asgi_task(cycle"],
}
"""What these methods call, without which an override would never run."""


def test_the_installed_uvicorn_is_one_that_was_tested() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    requirements = {each.name: each for each in map(Requirement, project["dependencies"])}
    allowed = requirements["uvicorn"].specifier
    assert INSTALLED in allowed, f"uvicorn {INSTALLED} is not in the tested range {allowed}"


@pytest.mark.parametrize("name", OVERRIDDEN)
def test_an_overridden_method_takes_the_same_parameters(name: str) -> None:
    method = vars(HttpToolsProtocol).get(name)
    assert method is not None, f"HttpToolsProtocol.{name} is gone. {ADVICE}"
    parameters = list(inspect.signature(method).parameters)
    assert parameters == OVERRIDDEN[name], f"HttpToolsProtocol.{name}{parameters}. {ADVICE}"


def test_every_override_is_listed_here() -> None:
    methods = {name for name, each in vars(Connection).items() if inspect.isfunction(each)}
    assert methods & vars(HttpToolsProtocol).keys() == {"__init__", *OVERRIDDEN}


@pytest.mark.parametrize("name", CALLS)
def test_uvicorn_still_calls_the_overrides(name: str) -> None:
    source = inspect.getsource(vars(HttpToolsProtocol)[name])
    missing = [call for call in CALLS[name] if call not in source]
    assert not missing, f"HttpToolsProtocol.{name} no longer has {missing}. {ADVICE}"


def test_the_stand_in_for_the_parser_has_what_uvicorn_calls() -> None:
    source = inspect.getsource(HttpToolsProtocol)
    used = set(re.findall(r"self\.parser\.(\w+)", source)) - {"set_dangerous_leniencies"}
    instance = set(RequestParser.__dict__) | set(RequestParser._start.__code__.co_names)
    assert used <= instance, f"RequestParser has no {used - instance}. {ADVICE}"
    callbacks = {name for name in vars(HttpToolsProtocol) if name.startswith("on_")}
    passed_on = set(RequestParser.__dict__) | set(RequestParser.__init__.__code__.co_names)
    missing = callbacks - passed_on - {"on_response_complete"}  # which no parser calls
    assert not missing, f"RequestParser does not pass on {missing}. {ADVICE}"


def test_the_attributes_that_are_read_still_exist() -> None:
    protocol = set(HttpToolsProtocol.__init__.__code__.co_names)
    missing = {"client", "connections", "cycle", "transport", "loop"} - protocol
    assert not missing, f"HttpToolsProtocol has no {missing}. {ADVICE}"
    cycle = set(RequestResponseCycle.__init__.__code__.co_names)
    missing = {"response_complete", "disconnected", "message_event", "more_body"} - cycle
    assert not missing, f"RequestResponseCycle has no {missing}. {ADVICE}"
    status_lines = getattr(httptools_impl, "STATUS_LINE", {})
    assert {408, 431, 503} <= status_lines.keys(), f"STATUS_LINE is gone or changed. {ADVICE}"
