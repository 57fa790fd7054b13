"""The image and compose.yaml: linted, valid by the schema, and consistent with the service."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from multimodal_embedding_serving.settings import Settings
from tests.lazy import lazy

compose_spec = lazy("compose_spec")

ROOT = Path(__file__).parent.parent.parent
DOCKERFILE = (ROOT / "docker" / "Dockerfile").read_text("utf-8")
COMPOSE = (ROOT / "docker" / "compose.yaml").read_text("utf-8")
HADOLINT = Path(sys.executable).with_name("hadolint")


@pytest.mark.skipif(not HADOLINT.exists(), reason="hadolint is not installed")
def test_the_image_is_built_by_the_rules() -> None:
    path = ROOT / "docker" / "Dockerfile"
    done = subprocess.run([str(HADOLINT), str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def interpolate(text: str, environ: Mapping[str, str]) -> Any:
    """compose.yaml as compose reads it: ${NAME:-default}, where empty counts as unset."""
    filled = re.sub(r"\$\{(\w+):-([^}]*)\}", lambda match: environ.get(match[1]) or match[2], text)
    assert "${" not in filled, "a variable without a default"
    return yaml.safe_load(filled)


@pytest.mark.parametrize(
    "environ", [{}, {"EMBEDDING_DEVICE": "GPU", "TARGET": "gpu", "DRI_MOUNT_PATH": "/dev/dri"}]
)
def test_compose_is_valid_with_and_without_variables(environ: dict[str, str]) -> None:
    document = interpolate(COMPOSE, environ)
    compose_spec.PyCompose.from_yaml(yaml.safe_dump(document)).validate()
    (service,) = document["services"].values()
    assert service["build"]["target"] in re.findall(r"^FROM \S+ AS (\S+)$", DOCKERFILE, re.M)
    assert service["read_only"] is True
    assert service["ports"] == ["9777:8000"]
    assert {"ov-models", "data-prep"} <= {each["name"] for each in document["volumes"].values()}


def test_the_schema_would_find_a_fault() -> None:
    document = interpolate(COMPOSE, {})
    document["services"]["multimodal-embedding-serving"]["imag"] = "x"
    with pytest.raises(ValueError, match="imag"):
        compose_spec.PyCompose.from_yaml(yaml.safe_dump(document))


def test_the_service_takes_the_environment_of_the_container() -> None:
    (service,) = interpolate(COMPOSE, {})["services"].values()
    block = re.search(r"^ENV PATH.*?(?=^\w)", DOCKERFILE, re.M | re.DOTALL)
    assert block
    environ = dict(re.findall(r"(\w+)=(\S+)", block[0]))
    environ |= {name: str(value or "") for name, value in service["environment"].items()}
    settings = Settings.from_env(environ)
    assert settings.models_dir == Path("/app/ov-models")
    assert (settings.host, settings.port) == ("0.0.0.0", 8000)
    assert settings.model == "Builtin/mini"
    known = {
        name for each in Settings.__dataclass_fields__.values() for name in each.metadata["names"]
    }
    own_to_container = {"EMBEDDING_HOST", "EMBEDDING_SERVER_PORT"}
    passed = set(service["environment"])
    assert known - passed == own_to_container
    assert passed - known == {
        "HF_ENDPOINT", "HF_HUB_OFFLINE", "HF_TOKEN", "http_proxy", "https_proxy", "no_proxy"
    }  # fmt: skip


def test_compose_passes_on_what_the_shell_sets() -> None:
    exported = {name: f"value of {name}" for name in re.findall(r"\$\{(\w+):-", COMPOSE)}
    (service,) = interpolate(COMPOSE, exported)["services"].values()
    assert all(value == exported[name] for name, value in service["environment"].items())
    assert service["devices"] == [
        "value of DRI_MOUNT_PATH:/dev/dri",
        "value of ACCEL_MOUNT_PATH:/dev/accel/accel0",
    ]
    assert service["group_add"] == ["value of VIDEO_GROUP_ID", "value of RENDER_GROUP_ID"]


def test_what_the_container_writes_to_is_what_may_be_written() -> None:
    (service,) = interpolate(COMPOSE, {})["services"].values()
    mounted = {each.split(":")[1] for each in service["volumes"]}
    written = {"/app/ov-models", "/app/ov_models", "/app/hub"}  # the second: Intel's volume
    assert written <= mounted
    (made,) = re.findall(r"install --directory --owner=mmes --group=mmes \\\n(.+)\n", DOCKERFILE)
    assert written <= set(made.split())


@pytest.mark.slow
def test_the_images_install_steps_give_a_server_without_torch(tmp_path: Path) -> None:
    """Without Docker: run the RUN lines of the Dockerfile's build stage in a clean folder."""
    stage = re.search(r"^FROM \S+ AS build$(.*?)^FROM", DOCKERFILE, re.M | re.DOTALL)
    assert stage
    source, opt = tmp_path / "source", tmp_path / "opt"
    source.mkdir()
    for arguments in re.findall(r"^COPY (.+)$", stage[1], re.M):
        *names, target = arguments.split()
        for name in names:
            path = ROOT / name
            place = source / (target if path.is_dir() else name)
            shutil.copytree(path, place) if path.is_dir() else shutil.copy(path, place)
    for line in re.findall(r"^RUN ((?:.+\\\n)*.+)$", stage[1], re.M):
        command = line.replace("/opt/mmes", str(opt)).replace(
            "python -m venv", f"{sys.executable} -m venv"
        )
        done = subprocess.run(["sh", "-ec", command], cwd=source, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    packages = next((opt / "lib").glob("python3*/site-packages"))
    assert not (packages / "torch").exists()
    assert not (packages / "pip").exists()
    size = sum(path.stat().st_size for path in packages.rglob("*") if path.is_file())
    assert size < 500e6
    done = subprocess.run(
        [str(opt / "bin" / "mmes"), "embed", "a cat"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert '"vector"' in done.stdout
