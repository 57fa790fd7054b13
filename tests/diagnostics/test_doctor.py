"""`mmes doctor` reports its findings, and by its status whether serving would fail."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from multimodal_embedding_serving.checkpoints.hub import find_checkpoint
from multimodal_embedding_serving.checkpoints.sources import HubAccess
from multimodal_embedding_serving.diagnostics import doctor
from multimodal_embedding_serving.diagnostics.doctor import Finding
from multimodal_embedding_serving.settings import Settings
from tests.cli.running import mmes
from tests.hub_standin import HubStandIn

FILES: dict[str, bytes | Path] = {
    "config.json": b'{"model_type": "clip"}',
    "model.safetensors": b"x" * 5000,
    "model.ckpt": b"y" * 100_000,
    "tokenizer.json": b"{}",
}
NEEDED = len(FILES["config.json"]) + 5000 + 2  # type: ignore[arg-type]


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {each.name: each for each in findings}


def test_the_shipped_model_on_this_machine_is_healthy(tmp_path: Path) -> None:
    environ = {"XDG_CACHE_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    environ |= {"HF_HOME": str(tmp_path / "hub"), "EMBEDDING_API_KEYS": "secret-key"}
    done = mmes("doctor", "--open", "--json", **environ)
    assert done.returncode == 0, done.stderr
    assert "secret-key" not in done.stdout
    report = json.loads(done.stdout)
    assert report["healthy"] is True
    findings = by_name([Finding(**each) for each in report["findings"]])
    assert "fingerprint" in findings["opens"].value
    assert findings["reachable"].value == "not checked: HF_HUB_OFFLINE is set"
    assert findings["EMBEDDING_API_KEYS"].value == "set"
    assert findings["models"].value.startswith(f"{tmp_path}/mmes/models: does not exist yet, ")
    assert "384 dimensions" in findings["Builtin/mini"].value
    assert findings["CPU"].state == "ok"
    assert findings["CPU"].value.partition(" (")[0]
    assert set(doctor.PACKAGES) <= set(findings)


def test_what_is_broken_is_marked_and_told_by_the_status(tmp_path: Path) -> None:
    environ = {"XDG_CACHE_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "EMBEDDING_DEVICE": "NPU.7"}
    done = mmes("doctor", "--model", "CLIP/clip-vit-b-32", **environ, HF_HOME=str(tmp_path))
    assert done.returncode == 1, done.stderr
    lines = done.stdout.splitlines()
    assert [
        line
        for line in lines
        if line.startswith("x EMBEDDING_DEVICE: NPU.7 is not available; OpenVINO finds ")
    ]
    assert [line for line in lines if line.startswith("x CLIP/clip-vit-b-32: ")]
    assert lines[-1].startswith("2 broken, ")


def test_a_setting_that_is_not_allowed_is_status_1() -> None:
    assert mmes("doctor", EMBEDDING_PRECISION="fp8").returncode == 1


def test_what_would_be_downloaded_is_told_and_not_downloaded(
    hub: HubStandIn, access: HubAccess, tmp_path: Path
) -> None:
    hub.add("org/small", FILES)
    settings = Settings(model="hf:org/small", models_dir=tmp_path)
    (finding,) = doctor.model(settings, access)
    size = f"{NEEDED / 1e6:,.1f} MB to download from hf:org/small; to be converted"
    assert (finding.value, finding.state) == (size, "ok")
    assert not hub.seen("HEAD")  # what the client asks before it downloads
    find_checkpoint("org/small", access=access)
    (finding,) = doctor.model(settings, access)
    assert finding.value == "hf:org/small is downloaded; to be converted"


def test_a_model_that_can_not_be_had_is_broken(hub: HubStandIn, access: HubAccess) -> None:
    (finding,) = doctor.model(Settings(model="hf:org/nothing"), access)
    assert finding.state == "broken"
    (finding,) = doctor.model(Settings(model="no-such-model"), access)
    assert finding.state == "broken"
    assert "no-such-model" in finding.value


def test_the_hub_is_asked_once_and_its_silence_is_told(
    hub: HubStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
    (finding,) = doctor.hub(Settings())
    assert finding.state == "ok"
    assert f"{hub.url}: status " in finding.value
    assert len(hub.requests) == 1
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    (finding,) = doctor.hub(Settings())
    assert (finding.value, finding.state) == (
        "http://127.0.0.1:9: no response (ConnectError)",
        "warning",
    )


def test_the_size_of_a_folder_is_told_with_the_room_beside_it(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b.bin").write_bytes(b"x" * 1_500_000)
    (tmp_path / "c.bin").write_bytes(b"x" * 500_000)
    finding = by_name(list(doctor.folders(Settings(models_dir=tmp_path))))["models"]
    assert finding.value.startswith(f"{tmp_path}: 2.0 MB, ")
    assert finding.value.endswith(" GB free")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_models_folder_that_can_not_be_written_is_broken(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    finding = by_name(list(doctor.folders(Settings(models_dir=tmp_path / "models"))))["models"]
    tmp_path.chmod(0o700)
    assert finding.state == "broken"


def test_a_models_folder_that_can_not_be_made_is_broken() -> None:
    """Access to /proc is granted to root, and yet nothing can be made there."""
    place = {"EMBEDDING_OV_MODELS_DIR": "/proc/models"}
    done = mmes("doctor", "--model", "CLIP/clip-vit-b-32", "--json", **place)
    assert done.returncode == 1
    findings = json.loads(done.stdout)["findings"]
    (broken,) = [each for each in findings if each["name"] == "mmes serve"]
    assert "cannot write to /proc/models" in broken["value"]
    assert "EMBEDDING_OV_MODELS_DIR" in broken["value"]


def test_what_is_allowed_but_often_a_mistake_is_a_warning(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    risky = Settings(host="0.0.0.0", media_roots=(tmp_path, missing))
    findings = list(doctor.cautions(risky))
    assert [(each.name, each.state) for each in findings] == [
        ("EMBEDDING_MEDIA_ROOTS", "warning"),
        ("EMBEDDING_API_KEYS", "warning"),
    ]
    assert str(missing) in findings[0].value
    for host in ("127.0.0.1", "::1", "localhost"):
        assert not list(doctor.cautions(Settings(host=host, media_roots=(tmp_path,))))
    assert not list(
        doctor.cautions(Settings(host="0.0.0.0", api_keys=("k",), media_roots=(tmp_path,)))
    )


@pytest.mark.parametrize(
    ("device", "broken"),
    [("CPU", False), ("AUTO", False), ("AUTO:GPU,CPU", False), ("AUTO:-CPU", False), ("GPU", True)],
)
def test_a_device_that_is_not_here_is_broken(device: str, broken: bool) -> None:
    states = [each.state for each in doctor.devices(Settings(device=device))]
    assert ("broken" in states) is (broken and not _has_gpu())


def _has_gpu() -> bool:
    return any(each.name.startswith("GPU") for each in doctor.devices(Settings()))


@pytest.mark.parametrize("allowed", [True, False])
def test_a_node_that_this_user_can_not_open_names_the_group(
    allowed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dri").mkdir()
    (tmp_path / "dri" / "renderD128").symlink_to("/dev/null")
    (tmp_path / "dri" / "renderD129").write_text("not a device")
    monkeypatch.setattr(doctor, "access", lambda node, mode: allowed)
    (found,) = doctor.accelerators(Settings(device="GPU"), tmp_path)
    group = Path("/dev/null").stat().st_gid
    assert found.name == str(tmp_path / "dri" / "renderD128")
    assert found.state == ("ok" if allowed else "warning")
    if not allowed:
        assert f"RENDER_GROUP_ID={group}" in found.value
        assert f"supplementalGroups: [{group}]" in found.value


@pytest.mark.parametrize(
    ("device", "missing"),
    [
        ("CPU", []),
        ("GPU.1", ["dri"]),
        ("NPU", ["accel"]),
        ("AUTO:-NPU,GPU", ["dri"]),
        ("HETERO:GPU,NPU", ["dri", "accel"]),
    ],
)
def test_a_configured_accelerator_without_a_node_is_a_warning(
    device: str, missing: list[str], tmp_path: Path
) -> None:
    found = list(doctor.accelerators(Settings(device=device), tmp_path))
    assert [each.name for each in found] == [str(tmp_path / name) for name in missing]
    assert all(each.state == "warning" and "compose.yaml" in each.value for each in found)


def test_a_variable_that_is_almost_a_setting_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMBEDDING_PORT", "80")
    monkeypatch.setenv("no_proxy_env", "x")
    findings = by_name(list(doctor.cautions(Settings())))
    assert findings["EMBEDDING_PORT"].value.endswith("did you mean EMBEDDING_SERVER_PORT?")
    assert findings["EMBEDDING_PORT"].state == "warning"
    assert findings["no_proxy_env"].value == "is ignored: use `no_proxy`"
