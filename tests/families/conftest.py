"""Collects what became of each form of checkpoint; scripts/tested_table.py writes it down."""

from __future__ import annotations

from typing import Any

import pytest

from tests.families.forms import FORMS, OUTCOMES, Outcome, Outcomes, Tested


def add(table: Outcomes, form: str, outcome: Outcome) -> None:
    """The least figure of a form, or its message."""
    before = table.get(form, outcome)
    if isinstance(before, float) and isinstance(outcome, float):
        outcome = min(before, outcome)
    table[form] = outcome


@pytest.fixture(scope="session")
def tested(request: pytest.FixtureRequest) -> Tested:
    table = request.config.stash.setdefault(OUTCOMES, {})

    def write(form: str, outcome: Outcome) -> None:
        assert isinstance(outcome, str) == (FORMS[form].against is None), form
        add(table, form, outcome)

    return write


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """A worker of pytest-xdist has ended: take over what it found."""
    table = node.config.stash.setdefault(OUTCOMES, {})
    for form, outcome in getattr(node, "workeroutput", {}).get("forms", {}).items():
        add(table, form, outcome)


def pytest_sessionfinish(session: pytest.Session) -> None:
    output = getattr(session.config, "workeroutput", None)
    if output is not None:  # in a worker
        output["forms"] = session.config.stash.get(OUTCOMES, {})
