"""docs/migration.md: each name of Intel's service has one row, and the row tells the truth."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, get_args

import pytest

import multimodal_embedding_serving as mmes
from multimodal_embedding_serving.inputs.kinds import KINDS, SegmentConfig
from multimodal_embedding_serving.settings import IGNORED_VARIABLES, REPLACED_VARIABLES, Settings
from tests.test_settings import DEFAULTS

ROOT = Path(__file__).parent.parent
FACTS = json.loads((ROOT / "tests" / "golden" / "mme" / "interface.json").read_text("utf-8"))
PAGE = (ROOT / "docs" / "migration.md").read_text("utf-8").partition("\n## Every name\n")[2]
VERDICTS = {"same", "different", "ignored", "rejected", "absent"}
PROXIES = {"http_proxy", "https_proxy", "no_proxy"}
"""What the hub's client reads, not the settings."""


class Row(NamedTuple):
    verdict: str
    note: str


def rows() -> Iterator[tuple[str, Row]]:
    for name, verdict, note in re.findall(
        r"^\| `(.+?)` \| (\w+) \| (.*?) ?\|$", PAGE, re.MULTILINE
    ):
        yield name, Row(verdict, note.strip())


TABLE = dict(rows())


def names(kind: str) -> list[str]:
    return list(FACTS[kind])


def test_every_name_has_one_row_and_no_other_has_one() -> None:
    listed = [name for name, _ in rows()]
    facts = [name for kind in FACTS if kind != "about" for name in names(kind)]
    assert sorted(listed) == sorted(facts)
    assert len(set(listed)) == len(listed)
    assert {row.verdict for row in TABLE.values()} <= VERDICTS
    assert all(row.note for row in TABLE.values() if row.verdict != "same")


@pytest.mark.parametrize("name", names("variables"))
def test_a_variable_does_what_its_row_says(name: str) -> None:
    verdict, note = TABLE[name]
    if verdict == "ignored":
        assert IGNORED_VARIABLES[name] == note
        return
    assert (verdict == "rejected") == (name in REPLACED_VARIABLES)
    if verdict == "rejected" or name in PROXIES:
        return
    field = next(
        each for each in Settings.__dataclass_fields__.values() if name in each.metadata["names"]
    )
    intels = FACTS["variables"][name]
    value = Settings.from_env({name: intels})
    if verdict == "same":
        assert getattr(value, field.name) == field.default
    elif intels and field.name != "app_name":
        assert getattr(value, field.name) != DEFAULTS.get(name, field.default)


def test_an_ignored_variable_is_a_row() -> None:
    ignored = {name for name in names("variables") if TABLE[name].verdict == "ignored"}
    assert ignored == set(IGNORED_VARIABLES)


@pytest.mark.parametrize("name", names("script"))
def test_a_variable_of_the_script_is_there(name: str) -> None:
    script = (ROOT / "setup.sh").read_text("utf-8")
    compose = (ROOT / "docker" / "compose.yaml").read_text("utf-8")
    assert re.search(rf"\b{name}\b", script)
    if f"${{{name}:-" in compose:
        (default,) = set(re.findall(rf"\$\{{{name}:-([^}}]*)\}}", compose))
        assert default == FACTS["script"][name] or name.endswith("_GROUP_ID")


@pytest.mark.parametrize("name", names("inputs"))
def test_an_input_is_there(name: str) -> None:
    assert TABLE[name].verdict in ("same", "different")
    key = name.removeprefix("segment_config.")
    if key == name:
        assert name in {get_args(each.model_fields["type"].annotation)[0] for each in KINDS}
    else:
        given: Any = [3] if key == "frame_indexes" else 3
        assert SegmentConfig.model_validate({key: given}) != SegmentConfig()


@pytest.mark.parametrize("name", names("endpoints"))
def test_an_endpoint_is_there(name: str) -> None:
    sources = (ROOT / "src" / "multimodal_embedding_serving" / "api").glob("*.py")
    assert any(f'"{name.split()[1]}"' in each.read_text("utf-8") for each in sources)


@pytest.mark.parametrize("name", names("sdk"))
def test_a_name_of_the_sdk_is_there(name: str) -> None:
    value: Any = mmes
    *parents, last = name.split(".")
    for part in parents:
        value = getattr(value, part)
    assert hasattr(value, last) == (TABLE[name].verdict != "absent")
