"""The Helm chart, linted and rendered by Helm's own library: valid, and with Intel's values."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import pytest
import yaml

from multimodal_embedding_serving.settings import Settings
from tests.deploy.helm_process import HelmError, lint_chart, render_chart
from tests.lazy import lazy

kubernetes_validate = lazy("kubernetes_validate")
pytestmark = pytest.mark.skipif(
    find_spec("helm_python") is None, reason="helm-python-sdk is not installed"
)

MODEL = {"embeddingModelName": "CLIP/clip-vit-b-32"}
DEVICE_PLUGIN = {"GPU": "gpu.intel.com/i915", "NPU": "npu.intel.com/accel"}

INTELS_VALUES = """
global:
  volumeHostPath: ""
  usePvc: true
  keepPvc: true
  sharedPvcName: vss-shared-pvc
  commonTag: ""
  proxy: {no_proxy: localhost, http_proxy: "", https_proxy: ""}
  devices: {multimodalEmbedding: {device: GPU, key: gpu.intel.com/i915}}
  env: {EMBEDDING_MODEL_NAME: CLIP/clip-vit-b-16, DEVICE: CPU}
  anotherChartsValue: 1
replicaCount: 1
image:
  cpu: {repository: example.com/serving}
  gpu: {repository: example.com/serving-gpu}
  pullPolicy: IfNotPresent
  tag: "1.3.2"
imagePullSecrets: []
nameOverride: ""
fullnameOverride: ""
podAnnotations: {a: b}
podLabels: {c: d}
podSecurityContext: {fsGroup: 10001}
securityContext: {readOnlyRootFilesystem: true}
containerPort: 8000
containerPortName: mm-embed-port
service: {type: ClusterIP, port: 8000, portName: http}
resources: {}
modelPvc: {enabled: true, existingClaim: "", storageClassName: fast, size: 9Gi}
livenessProbe: {httpGet: {path: /health, port: mm-embed-port}, initialDelaySeconds: 10}
readinessProbe: {httpGet: {path: /health, port: mm-embed-port}, initialDelaySeconds: 5}
startupProbe: {httpGet: {path: /health, port: mm-embed-port}, failureThreshold: 180}
nodeSelector: {disk: ssd}
tolerations: [{operator: Exists}]
affinity: {}
podAffinity:
  requiredDuringSchedulingIgnoredDuringExecution:
    - labelSelector: {matchLabels: {app.kubernetes.io/name: vdmsdataprep}}
      topologyKey: kubernetes.io/hostname
embeddingDevice: CPU
embeddingUseOV: true
embeddingOVModelsDir: /app/ov_models
defaultStartOffsetSec: 0
defaultClipDuration: -1
defaultNumFrames: 64
ovPerformanceMode: THROUGHPUT
inferBatchSize: 16
preprocessWorkers: 8
videoFrameBatchSize: 64
videoFrameQueueSize: 32
videoFrameShmPoolBlockSize: 6220800
videoFrameShmPoolBlocksMultiplier: 2
videoFrameLogLevel: INFO
"""
"""Every value that Intel's chart of this name reads."""


def render(values: dict[str, Any]) -> dict[str, Any]:
    """The resources by kind, each valid by the schemas of the API."""
    texts = render_chart(values)
    resources = [each for text in texts.values() for each in yaml.safe_load_all(text) if each]
    for each in resources:
        kubernetes_validate.validate(each, "1.31", strict=True)
    return {each["kind"]: each for each in resources}


@pytest.mark.parametrize("values", [MODEL, yaml.safe_load(INTELS_VALUES)])
def test_the_chart_is_linted(values: dict[str, Any]) -> None:
    report = lint_chart(values)
    serious = [each for each in report["messages"] if each["severity"] > 1]
    assert (serious, report["errors"]) == ([], [])


def test_the_linter_would_find_a_fault() -> None:
    report = lint_chart({**MODEL, "inferBatchSise": 3})
    assert any("inferBatchSise" in each["error"] for each in report["messages"])


def test_the_defaults_serve_where_intels_service_was() -> None:
    found = render(MODEL)
    assert set(found) == {"ConfigMap", "Deployment", "Service"}
    assert found["Service"]["metadata"]["name"] == "multimodal-embedding-ms"
    assert found["Service"]["spec"]["ports"][0]["port"] == 8000
    settings = Settings.from_env(found["ConfigMap"]["data"])
    assert (settings.model, settings.port) == ("CLIP/clip-vit-b-32", 8000)
    assert settings.workers == Settings().workers
    pod = found["Deployment"]["spec"]["template"]["spec"]
    assert "supplementalGroups" not in pod["securityContext"]
    (container,) = pod["containers"]
    assert container["image"] == "multimodal-embedding-serving:latest"
    mounted = {each["mountPath"] for each in container["volumeMounts"]}
    assert {str(settings.models_dir), "/app/hub", "/tmp", "/tmp/dataprep", "/dev/shm"} == mounted
    written = {each["name"] for each in pod["volumes"]}
    assert {each["name"] for each in container["volumeMounts"]} == written


@pytest.mark.parametrize("device", DEVICE_PLUGIN)
def test_an_accelerator_brings_its_resource_image_and_groups(device: str) -> None:
    key = DEVICE_PLUGIN[device]
    values = {"global": {"devices": {"multimodalEmbedding": {"device": device, "key": key}}}}
    found = render(MODEL | values)
    pod = found["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["resources"]["limits"] == {key: 1, "memory": "6Gi"}
    assert container["image"] == "multimodal-embedding-serving:gpu"
    assert 44 in pod["securityContext"]["supplementalGroups"]
    assert Settings.from_env(found["ConfigMap"]["data"]).device == device
    with pytest.raises(HelmError, match="device plugin's resource"):
        render({**MODEL, "embeddingDevice": f"{device}.0"})


def test_intels_values_are_obeyed() -> None:
    found = render(yaml.safe_load(INTELS_VALUES))
    data = found["ConfigMap"]["data"]
    settings = Settings.from_env(data)
    assert (settings.model, settings.device) == ("CLIP/clip-vit-b-16", "GPU")
    assert (settings.image_batch, settings.frame_queue, settings.workers) == (16, 32, 8)
    assert (settings.performance_mode, data["no_proxy"]) == ("THROUGHPUT", "localhost")
    claim = found["PersistentVolumeClaim"]
    assert claim["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    assert claim["spec"]["storageClassName"] == "fast"
    template = found["Deployment"]["spec"]["template"]
    assert template["metadata"]["annotations"]["a"] == "b"
    assert template["metadata"]["labels"]["c"] == "d"
    pod = template["spec"]
    assert pod["containers"][0]["image"] == "example.com/serving-gpu:1.3.2"
    assert (pod["nodeSelector"], pod["tolerations"]) == ({"disk": "ssd"}, [{"operator": "Exists"}])
    assert "podAffinity" in pod["affinity"]
    claims = {
        each["name"]: each["persistentVolumeClaim"]["claimName"]
        for each in pod["volumes"]
        if "persistentVolumeClaim" in each
    }
    assert claims == {
        "models-data": claim["metadata"]["name"],
        "volume-data": "vss-shared-pvc",
    }


def test_without_a_model_it_says_what_to_set() -> None:
    with pytest.raises(HelmError, match="Set embeddingModelName"):
        render({})


def test_any_setting_can_be_set_by_its_name() -> None:
    env: dict[str, Any] = {"EMBEDDING_MAX_TEXT_CHARS": 1_000_000, "EMBEDDING_PRECISION": "f32"}
    env |= {"OV_ENABLE_MODEL_CACHE": False, "EMBEDDING_USE_OV": False, "INFER_BATCH_SIZE": 8}
    env |= {"EMBEDDING_DRAIN_SEC": 2.5}
    found = render({**MODEL, "env": env})
    settings = Settings.from_env(found["ConfigMap"]["data"])
    assert (settings.use_openvino, settings.drain) == (False, 2.5)
    assert (settings.max_text_chars, settings.precision) == (1_000_000, "f32")
    assert (settings.model_cache, settings.image_batch) == (False, 8)
    secret = render({**MODEL, "envFromSecret": "keys"})["Deployment"]["spec"]["template"]["spec"]
    assert secret["containers"][0]["envFrom"][1] == {"secretRef": {"name": "keys"}}


def test_a_models_folder_of_a_node_is_mounted() -> None:
    found = render({**MODEL, "global": {"volumeHostPath": "/srv/models"}})
    volumes = found["Deployment"]["spec"]["template"]["spec"]["volumes"]
    assert volumes[0]["hostPath"] == {"path": "/srv/models", "type": "DirectoryOrCreate"}
