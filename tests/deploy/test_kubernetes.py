"""The Kubernetes manifests: valid by the API's schemas with every overlay's patches."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from multimodal_embedding_serving.monitoring.metrics import Metrics
from multimodal_embedding_serving.settings import Settings
from tests.lazy import lazy

kubernetes_validate = lazy("kubernetes_validate")

DEPLOY = Path(__file__).parent.parent.parent / "deploy" / "kubernetes"
OVERLAYS = sorted(path.name for path in (DEPLOY / "overlays").iterdir())
OPERATORS = {"ServiceMonitor"}
"""Kinds of the Prometheus operator, which the API's own schemas do not include."""
LABEL = {"app.kubernetes.io/name": "multimodal-embedding-ms"}


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text("utf-8"))


def base() -> list[dict[str, Any]]:
    """The base's resources, with the labels that its kustomization adds."""
    resources = [
        load(DEPLOY / "base" / name)
        for name in load(DEPLOY / "base/kustomization.yaml")["resources"]
    ]
    for each in resources:
        each["metadata"]["labels"] = dict(LABEL)
        match each["kind"]:
            case "Deployment":
                each["spec"]["selector"] = {"matchLabels": dict(LABEL)}
                each["spec"]["template"]["metadata"] = {"labels": dict(LABEL)}
            case "Service":
                each["spec"]["selector"] = dict(LABEL)
            case "PodDisruptionBudget":
                each["spec"]["selector"] = {"matchLabels": dict(LABEL)}
            case "NetworkPolicy":
                each["spec"]["podSelector"] = {"matchLabels": dict(LABEL)}
    return resources


def apply(resource: dict[str, Any], operation: dict[str, Any]) -> None:
    """One operation of RFC 6902, add or replace; a missing parent is an error."""
    *parents, last = [
        part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:]
    ]
    place: Any = resource
    for part in parents:
        place = place[int(part)] if isinstance(place, list) else place[part]
    if operation["op"] == "replace":
        assert last in place
    place[last] = operation["value"]


def overlaid(name: str) -> list[dict[str, Any]]:
    resources = copy.deepcopy(base())
    kustomization = load(DEPLOY / "overlays" / name / "kustomization.yaml")
    assert kustomization["resources"] == ["../../base"]
    for patch in kustomization.get("patches", ()):
        targets = [each for each in resources if each["kind"] == patch["target"]["kind"]]
        assert targets, patch
        operations = yaml.safe_load(patch["patch"])
        if isinstance(operations, dict):  # a strategic merge patch; the overlays only delete
            names = {each["metadata"]["name"] for each in targets}
            assert operations["$patch"] == "delete"
            assert names == {operations["metadata"]["name"]}
            resources = [each for each in resources if each not in targets]
            continue
        for operation in operations:
            for resource in targets:
                apply(resource, operation)
    return resources


@pytest.mark.parametrize("name", OVERLAYS)
def test_every_resource_is_valid(name: str) -> None:
    kinds = set()
    for resource in overlaid(name):
        kinds.add(resource["kind"])
        if resource["kind"] not in OPERATORS:
            kubernetes_validate.validate(resource, "1.31", strict=True)
    assert {"Deployment", "Service", "NetworkPolicy"} <= kinds
    needs_operators = {"HorizontalPodAutoscaler", "ServiceMonitor"}
    assert kinds & needs_operators == (set() if name == "simple" else needs_operators)


def test_the_schemas_would_find_a_fault() -> None:
    broken = next(each for each in base() if each["kind"] == "Deployment")
    broken["spec"]["template"]["spec"]["containers"][0]["livenessProbe"]["httpget"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, "1.31", strict=True)


@pytest.mark.parametrize("name", OVERLAYS)
def test_the_service_takes_the_settings(name: str) -> None:
    settings: dict[str, str] = {}
    for folder in (DEPLOY / "base", DEPLOY / "overlays" / name):
        for generator in load(folder / "kustomization.yaml").get("configMapGenerator", ()):
            settings |= dict(each.split("=", 1) for each in generator["literals"])
    assert Settings.from_env(settings).model == "CLIP/clip-vit-b-32"


def test_the_air_gapped_pod_may_reach_nothing() -> None:
    policy = next(each for each in overlaid("air-gapped") if each["kind"] == "NetworkPolicy")
    assert policy["spec"]["egress"] == []
    assert "Egress" in policy["spec"]["policyTypes"]


def test_a_gpu_pod_is_in_the_groups_of_its_device() -> None:
    pods = {
        name: next(each for each in overlaid(name) if each["kind"] == "Deployment")["spec"]
        for name in OVERLAYS
    }
    groups = {
        name: spec["template"]["spec"]["securityContext"].get("supplementalGroups")
        for name, spec in pods.items()
    }
    assert 44 in groups.pop("intel-gpu")
    assert set(groups.values()) == {None}


def test_the_service_is_where_intels_was() -> None:
    service = next(each for each in base() if each["kind"] == "Service")
    assert service["metadata"]["name"] == "multimodal-embedding-ms"
    assert service["spec"]["ports"][0]["port"] == 8000


def test_the_autoscalers_metric_is_one_that_we_have() -> None:
    scaler = next(each for each in base() if each["kind"] == "HorizontalPodAutoscaler")
    metric = scaler["spec"]["metrics"][0]["pods"]["metric"]["name"]
    body, _ = Metrics().render()
    assert re.search(rf"^# HELP {metric} ", body.decode(), re.MULTILINE)
