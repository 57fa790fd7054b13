"""Against the stand-in hub, with the real client: nothing of huggingface_hub is replaced."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from multimodal_embedding_serving.checkpoints import read_weights
from multimodal_embedding_serving.checkpoints.hub import find_checkpoint, find_tokenizer
from multimodal_embedding_serving.checkpoints.sources import HubAccess
from multimodal_embedding_serving.errors import CheckpointError, RemoteFailed
from tests.checkpoints.expectations import CONFIG, REPO, RIGHT, Steps, refused, same
from tests.hub_standin import HubStandIn


def test_the_right_files_are_downloaded_and_no_others(
    hub: HubStandIn, access: HubAccess, files: dict[str, bytes | Path]
) -> None:
    repo = hub.add(REPO, files)
    found = find_checkpoint(REPO, access=access)
    assert same(found)
    assert found.layout == "transformers"
    assert found.config == CONFIG
    assert sorted(found.tokenizer) == ["tokenizer.json", "tokenizer_config.json"]
    assert (found.repo, found.revision) == (REPO, repo.commit)
    asked = {each.path.rsplit("/", 1)[-1] for each in hub.seen("HEAD")}
    wanted = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert asked == wanted
    assert len(hub.seen("GET")) == 1 + len(wanted)


def test_nothing_is_reported_to_the_hub(
    hub: HubStandIn, access: HubAccess, files: dict[str, bytes | Path]
) -> None:
    hub.add(REPO, files)
    find_checkpoint(REPO, access=access)
    for request in hub.requests:
        assert REPO in request.path or "/cdn/" in request.path, request
        agent = request.headers["user-agent"]
        assert "torch" not in agent
        assert "agent/" not in agent


def test_a_second_time_costs_one_listing(
    hub: HubStandIn, access: HubAccess, files: dict[str, bytes | Path]
) -> None:
    hub.add(REPO, files)
    first = find_checkpoint(REPO, access=access)
    before = len(hub.requests)
    assert find_checkpoint(f"hf:{REPO}", access=access) == first
    assert len(hub.requests) == before + 1


def test_shards_come_with_their_index(hub: HubStandIn, access: HubAccess, weights: bytes) -> None:
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    index = json.dumps({"weight_map": {"w": names[0], "v": names[1]}}).encode()
    second = weights.replace(b'"w"', b'"v"')
    shards = {names[0]: weights, names[1]: second, "model.safetensors.index.json": index}
    hub.add(REPO, shards)
    found = find_checkpoint(REPO, access=access)
    assert [path.name for path in found.weights] == ["model.safetensors.index.json", *names]
    assert sorted(read_weights(found.weights)) == ["v", "w"]
    assert found.config is None
    hub.add("org/partial", {name: shards[name] for name in shards if name != names[1]})
    with pytest.raises(
        CheckpointError, match=rf"org/partial is missing {names[1]}, which its index"
    ):
        find_checkpoint("org/partial", access=access)
    hostile = json.dumps({"weight_map": {"w": "../../outside.safetensors"}}).encode()
    hub.add("org/hostile", {"model.safetensors.index.json": hostile})
    with pytest.raises(CheckpointError, match="which is not a file name"):
        find_checkpoint("org/hostile", access=access)


def test_a_revision_is_pinned_by_tag_and_by_commit(
    hub: HubStandIn, access: HubAccess, files: dict[str, bytes | Path]
) -> None:
    repo = hub.add(REPO, files, tags=("v1.0",))
    for source, revision in [(REPO, "v1.0"), (f"{REPO}@v1.0", None), (REPO, repo.commit)]:
        found = find_checkpoint(source, revision=revision, access=access)
        assert found.revision == repo.commit
    message = refused(RemoteFailed, REPO, access, revision="v2.0")
    assert message == f"{REPO} at v2.0: it has no such revision (the hub responded with 404)"


def test_when_nothing_fits_the_error_lists_what_was_found(
    hub: HubStandIn, access: HubAccess
) -> None:
    hub.add(REPO, {"README.md": b"x", "model.gguf": b"x", "onnx/model.onnx": b"x"})
    message = refused(CheckpointError, REPO, access)
    assert message.endswith("found README.md, model.gguf, 1 in folders")
    assert not hub.seen("HEAD")


def test_a_tokenizer_comes_alone(
    hub: HubStandIn, access: HubAccess, files: dict[str, bytes | Path]
) -> None:
    hub.add(REPO, files)
    found = find_tokenizer(REPO, access=access)
    assert sorted(found) == ["tokenizer.json", "tokenizer_config.json"]
    assert not hub.seen("HEAD", "model.safetensors")
    hub.add(REPO, {"model.safetensors": files["model.safetensors"]})
    with pytest.raises(CheckpointError, match=rf"{REPO} has no tokenizer; .* found model\.safe"):
        find_tokenizer(REPO, access=access)


def test_progress_counts_bytes_to_the_end(
    hub: HubStandIn, access: HubAccess, files: dict[str, bytes | Path]
) -> None:
    hub.add(REPO, files)
    steps = Steps()
    find_checkpoint(REPO, access=access, progress=steps.note)
    steps.check()


def run_alone(hub: HubStandIn, folder: Path, source: str, **environment: str) -> tuple[str, str]:
    """What a process with this environment prints: stdout, stderr."""
    script = (
        "import sys\n"
        "from multimodal_embedding_serving.checkpoints.hub import find_checkpoint\n"
        "from multimodal_embedding_serving.errors import EmbeddingError\n"
        "try:\n"
        "    found = find_checkpoint(sys.argv[1])\n"
        "    print(found.revision)\n"
        "except EmbeddingError as error:\n"
        "    print(type(error).__name__, error)\n"
        "heavy = {'torch', 'transformers', 'huggingface_hub'} & set(sys.modules)\n"
        "print(sorted(heavy))\n"
    )
    clean = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    variables = {"HF_ENDPOINT": hub.url, "HF_HOME": str(folder), "NO_PROXY": "*"} | environment
    done = subprocess.run(
        [sys.executable, "-c", script, source],
        env=clean | variables,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout, done.stderr


def test_the_environment_of_the_client_rules(
    hub: HubStandIn, tmp_path: Path, files: dict[str, bytes | Path]
) -> None:
    """HF_ENDPOINT, HF_HOME, HF_TOKEN and HF_HUB_OFFLINE are read by the client itself."""
    repo = hub.add(REPO, files, token=RIGHT)
    home = tmp_path / "home"
    offline, _ = run_alone(hub, home, REPO, HF_HUB_OFFLINE="1")
    assert f"RemoteFailed {REPO}: not in the cache, and the hub's client is offline" in offline
    assert not hub.requests
    online, _ = run_alone(hub, home, REPO, HF_TOKEN=RIGHT)
    assert repo.commit in online
    assert (home / "hub").is_dir()
    before = len(hub.requests)
    offline, shown = run_alone(hub, home, REPO, HF_HUB_OFFLINE="1")
    assert repo.commit in offline
    assert shown == ""
    assert len(hub.requests) == before


def test_an_empty_variable_of_the_client_counts_as_unset(
    hub: HubStandIn, tmp_path: Path, files: dict[str, bytes | Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `${HF_ENDPOINT:-}` in a compose file leaves it, whoever imported the client first."""
    repo = hub.add(REPO, files)
    home = tmp_path / "home"
    empty = dict.fromkeys(("HF_HOME", "HF_HUB_CACHE", "HF_TOKEN", "HF_HUB_OFFLINE"), "")
    monkeypatch.chdir(tmp_path)
    printed, _ = run_alone(hub, home, REPO, **empty, XDG_CACHE_HOME=str(home))
    assert repo.commit in printed
    assert (home / "huggingface" / "hub").is_dir()
    assert {each.name for each in tmp_path.iterdir()} == {"home", "w.safetensors"}
    unset = {"HF_ENDPOINT": "", "HF_HOME": "", "XDG_CACHE_HOME": "", "HOME": str(tmp_path / "user")}
    shown = (
        "from multimodal_embedding_serving.checkpoints.hub import describe_client as d; print(d())"
    )
    for first in ("", "import huggingface_hub; "):
        done = subprocess.run(
            [sys.executable, "-c", first + shown],
            env=os.environ | unset,
            capture_output=True,
            text=True,
            check=True,
        )
        assert "endpoint='https://huggingface.co'" in done.stdout
        cache = tmp_path / "user" / ".cache" / "huggingface" / "hub"
        assert str(cache) in done.stdout


def test_a_folder_is_read_in_place_and_without_the_client(
    hub: HubStandIn, tmp_path: Path, files: dict[str, bytes | Path]
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for name, content in files.items():
        if "/" not in name and isinstance(content, bytes):
            (folder / name).write_bytes(content)
    for source in (folder, str(folder)):
        found = find_checkpoint(source)
        assert found.weights == (folder / "model.safetensors",)
        assert found.config == CONFIG
        assert (found.repo, found.revision) == (None, None)
    printed, _ = run_alone(hub, tmp_path / "home", str(folder))
    assert printed == "None\n[]\n"
    assert not hub.requests


def test_a_folder_without_a_checkpoint_lists_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(CheckpointError, match=r"^the folder '.*' has no .*; found notes\.txt$"):
        find_checkpoint(tmp_path)


@pytest.mark.parametrize("source", ["nowhere", "/no/such/folder", "a/b/c", "", "hf:x", "a b/c"])
def test_what_is_neither_folder_nor_repository_is_refused(source: str) -> None:
    with pytest.raises(CheckpointError, match="is neither a folder nor a repository"):
        find_checkpoint(source)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a": NaN'])
def test_a_broken_config_is_named(tmp_path: Path, weights: bytes, text: str) -> None:
    (tmp_path / "model.safetensors").write_bytes(weights)
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"^config\.json: not "):
        find_checkpoint(tmp_path)
