"""Every help has examples that work, and names the nearest of a misspelled name."""

from __future__ import annotations

import shlex
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from multimodal_embedding_serving.cli import app
from multimodal_embedding_serving.cli.help import EXAMPLES

PROGRAM: Any = typer.main.get_command(app)


@pytest.mark.parametrize("name", PROGRAM.commands)
@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_has_examples_and_no_type_for_flags(name: str, option: str) -> None:
    done = CliRunner(env={"COLUMNS": "150"}).invoke(app, [name, option])
    assert done.exit_code == 0
    for example in EXAMPLES[name]:
        assert example in done.stdout
    assert "<bool>" not in done.stdout


def test_the_programs_own_help_groups_the_commands() -> None:
    done = CliRunner(env={"COLUMNS": "150"}).invoke(app, ["-h"])
    assert "<bool>" not in done.stdout
    places = [done.stdout.index(f"─ {group} ─") for group in ("Make vectors", "Search", "Models")]
    assert places == sorted(places)


@pytest.mark.parametrize("example", [line for lines in EXAMPLES.values() for line in lines])
def test_an_example_is_right_usage(example: str) -> None:
    program, name, *arguments = shlex.split(example)
    assert program == "mmes"
    PROGRAM.commands[name].make_context(name, arguments)  # raises for wrong usage


def test_a_misspelled_command_or_option_is_answered_with_the_nearest() -> None:
    assert "Did you mean 'search'?" in CliRunner().invoke(app, ["serach"]).stderr
    assert "--frames" in CliRunner().invoke(app, ["embed", "--frame", "3", "x"]).stderr


def test_an_option_that_is_given_twice_is_wrong_usage() -> None:
    done = CliRunner().invoke(app, ["serve", "--model", "A/b", "-m", "C/d"])
    assert done.exit_code == 2
    assert "--model takes one value" in done.stderr
    texts = CliRunner().invoke(app, ["embed", "--text", "a", "--text", "b", "--json", "--json"])
    assert len(texts.stdout.splitlines()) == 2
