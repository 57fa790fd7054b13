"""The dashboard queries metrics that the service exports."""

from __future__ import annotations

import json
import re
from pathlib import Path

from multimodal_embedding_serving.monitoring.admission import QueueBound
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


def test_every_query_is_of_the_chosen_jobs_and_instances() -> None:
    dashboard = json.loads(DASHBOARD.read_text("utf-8"))
    names = {each["name"] for each in dashboard["templating"]["list"]}
    assert names == {"datasource", "job", "instance"}
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            selectors = re.findall(r"(?:mmes|process)_\w+\{([^}]*)\}", target["expr"])
            assert selectors, target["expr"]
            for selector in selectors:
                assert 'job=~"$job",instance=~"$instance"' in selector


def test_every_label_that_the_dashboard_groups_by_exists() -> None:
    metrics = Metrics()
    metrics.describe_model("m", "CPU", "openvino", "f16", 8, "fa4e")
    metrics.stage_times("text")("wait", 0.1)
    metrics.count_response("/embeddings", 200, 0.1)
    metrics.count_error("busy")
    metrics.count_items("text", 1, 1)
    metrics.count_media("image", 1)
    metrics.cache_lookups("text")(True)
    metrics.batch_sizes("text")(1)
    metrics.watch_bound("items", QueueBound(1))
    labels = set(re.findall(r'[{,](\w+)="', metrics.render()[0].decode())) | {"instance"}
    panels = json.loads(DASHBOARD.read_text("utf-8"))["panels"]
    grouped = {
        label
        for panel in panels
        for target in panel["targets"]
        for names in re.findall(r"by \(([^)]*)\)", target["expr"])
        for label in names.split(", ")
    }
    assert grouped
    assert grouped <= labels


def test_panels_do_not_lie_over_each_other() -> None:
    panels = json.loads(DASHBOARD.read_text("utf-8"))["panels"]
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}
    assert len(places) == len(panels) == len({panel["id"] for panel in panels})
