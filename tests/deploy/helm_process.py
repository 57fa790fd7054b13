"""Helm's own library in a process of its own: its Go runtime aborts a test process that has many
threads and other native libraries."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

CHART = Path(__file__).parent.parent.parent / "deploy" / "helm" / "multimodal-embedding-ms"


class HelmError(Exception):
    """What Helm reports of values that the chart rejects."""


def lint_chart(values: dict[str, Any]) -> dict[str, Any]:
    report: dict[str, Any] = _run("lint", values)
    return report


def render_chart(values: dict[str, Any]) -> dict[str, str]:
    """Template name -> YAML. Raises HelmError."""
    texts: dict[str, str] = _run("render", values)
    return texts


def _run(action: str, values: dict[str, Any]) -> Any:
    command = [sys.executable, "-m", "tests.deploy.helm_process", action]
    root = Path(__file__).parent.parent.parent
    done = subprocess.run(
        command, input=json.dumps(values), capture_output=True, text=True, cwd=root, check=True
    )
    answer = json.loads(done.stdout)
    if "error" in answer:
        raise HelmError(answer["error"])
    return answer["result"]


def main(action: str, values: dict[str, Any]) -> None:
    import helm_python as helm

    try:
        if action == "lint":
            result = helm.lint(CHART, values, strict=True)
        else:
            chart = helm.Chart.load(CHART)
            result = chart.render(values=values, name="release", namespace="default")
        print(json.dumps({"result": result}))  # noqa: T201  # read by the tests
    except helm.HelmError as error:
        print(json.dumps({"error": str(error)}))  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1], json.load(sys.stdin))
