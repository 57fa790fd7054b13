"""The generated parts of setup.sh (models and allowed values) and of compose.yaml (settings)."""

from __future__ import annotations

import re
import textwrap
from dataclasses import Field, fields
from typing import Any

from multimodal_embedding_serving.catalog import MODELS
from multimodal_embedding_serving.settings import (
    BOOLEANS,
    DEVICE,
    PERFORMANCE_MODES,
    PRECISIONS,
    Settings,
)

PATTERNS = {
    "EMBEDDING_DEVICE": DEVICE.pattern,
    "EMBEDDING_USE_OV": "|".join(BOOLEANS),
    "EMBEDDING_PRECISION": "|".join(PRECISIONS),
    "OV_PERFORMANCE_MODE": "|".join([*PERFORMANCE_MODES, "CUMULATIVE"]),
    "EMBEDDING_SERVER_PORT": None,
    "INFER_BATCH_SIZE": None,
}
"""The settings that setup.sh checks -> their values in any case, or None for a whole number."""
BOUNDS = re.compile(r"(?P<low>\d+) to (?P<high>\d+)")


def setup_rules() -> str:
    """The list of models and the function with a rule for each setting, as POSIX shell."""
    settings = {name: each for each in fields(Settings) for name in each.metadata["names"]}
    cases = "".join(_case(name, pattern, settings[name]) for name, pattern in PATTERNS.items())
    return f"""_mmes_models="
{_models()}
"
_mmes_rule() {{ # name -> pattern, bounds of a number, and what a message says is allowed
  case "$1" in
{cases}  esac
}}
"""


CONTAINER_VARIABLES = {"EMBEDDING_HOST", "EMBEDDING_SERVER_PORT"}
"""Fixed inside the container: compose maps the port, and the address must be every one."""

CONTAINER_DEFAULTS = {"EMBEDDING_OV_MODELS_DIR": "/app/ov-models"}
"""What the image sets, and an empty value of compose would unset."""


def compose_environment() -> str:
    """Each setting of the service as a line of compose's environment: its value, or empty."""
    names = sorted(name for each in fields(Settings) for name in each.metadata["names"])
    return "".join(
        f"      {name}: ${{{name}:-{CONTAINER_DEFAULTS.get(name, '')}}}\n"
        for name in names
        if name not in CONTAINER_VARIABLES
    )


def _models() -> str:
    """Ids, and aliases with their family: setup.sh accepts both without the family, too."""
    names = [f"{each.family}/{name}" for each in MODELS for name in (each.name, *each.aliases)]
    return textwrap.fill(" ".join(names), 100, break_long_words=False, break_on_hyphens=False)


def _case(name: str, pattern: str | None, setting: Field[Any]) -> str:
    allowed = _allowed(setting)
    if pattern is not None:
        facts = {"pattern": pattern.replace(r"\d", "[0-9]")}
    elif bounds := BOUNDS.search(allowed):
        facts = {"pattern": "[0-9]{1,18}", **bounds.groupdict()}
    else:
        raise SystemExit(f"setup.sh: {name} needs a pattern in scripts/setup_rules.py: {allowed}")
    lines = [f"_mmes_{key}='{value}'" for key, value in {**facts, "allowed": allowed}.items()]
    return f"    {name})\n" + "".join(f"      {line}\n" for line in lines) + "      ;;\n"


def _allowed(setting: Field[Any]) -> str:
    """The allowed values, from the setting's own parser."""
    try:
        setting.metadata["parse"]("\0")
    except ValueError as error:
        return str(error)
    return ""
