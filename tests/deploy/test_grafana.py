"""The dashboard queries metrics that the service exports."""

from __future__ import annotations

import json
import re
from pathlib import Path

from multimodal_embedding_serving.monitoring.metrics import Metrics

DASHBOARD = Path(__file__).parent.parent.parent / "deploy" / "grafana" / "dashboard.json"


def test_every_metric_of_the_dashboard_exists_and_every_metric_is_shown() -> None:
    panels = json.loads(DASHBOARD.read_text("utf-8"))["panels"]
    queried = {
        re.sub(r"_(total|bucket|sum|count)$", "", name)
        for panel in panels
        for target in panel["targets"]
        for name in re.findall(r"\b(?:mmes|process)_\w+", target["expr"])
    }
    body, _ = Metrics().render()
    known = {
        name.removesuffix("_total") for name in re.findall(r"^# HELP (\w+)", body.decode(), re.M)
    }
    assert queried - known == set()
    assert {name for name in known if name.startswith("mmes_")} - queried == set()


def test_panels_do_not_lie_over_each_other() -> None:
    panels = json.loads(DASHBOARD.read_text("utf-8"))["panels"]
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}
    assert len(places) == len(panels) == len({panel["id"] for panel in panels})
