from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from multimodal_embedding_serving.checkpoints import Weights, read_weights
from multimodal_embedding_serving.errors import CheckpointError
from tests.checkpoints.files import (
    TorchFile,
    join_safetensors,
    pickled,
    storage,
    tensor,
    write_pickle,
    write_safetensors,
)

MEGABYTE = 1 << 20
A = np.arange(3, dtype=np.float32)
B = np.arange(4, dtype=np.float32)


def write_index(folder: Path, table: object) -> Path:
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps({"metadata": {"total_size": 28}, "weight_map": table}))
    return path


@pytest.fixture
def shards(tmp_path: Path) -> list[Path]:
    first = write_safetensors(tmp_path / "model-00001-of-00002.safetensors", {"a": A})
    second = write_safetensors(tmp_path / "model-00002-of-00002.safetensors", {"b": B, "c": A})
    return [first, second]


def whole_table(shards: list[Path]) -> dict[str, str]:
    return {"a": shards[0].name, "b": shards[1].name, "c": shards[1].name}


def test_shards_are_one_checkpoint_by_index_and_by_list(tmp_path: Path, shards: list[Path]) -> None:
    index = write_index(tmp_path, whole_table(shards))
    for paths in ([index], [index, *shards], shards):
        weights = read_weights(paths)
        assert sorted(weights) == ["a", "b", "c"]
        assert weights["b"].data.tolist() == [0, 1, 2, 3]
        assert weights["b"].file == shards[1].name


def test_sharded_pickles_are_read_by_their_index(tmp_path: Path) -> None:
    write_pickle(tmp_path / "pytorch_model-00001-of-00001.bin", {"a": A})
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "pytorch_model-00001-of-00001.bin"}}))
    assert read_weights([index])["a"].data.tolist() == [0, 1, 2]


def test_a_wrong_shape_in_a_shard_names_that_shard(shards: list[Path]) -> None:
    with pytest.raises(CheckpointError, match=r"^model-00002-of-00002\.safetensors: tensor 'b'"):
        read_weights(shards).tensor("b", (5,))


def test_a_missing_shard_is_named(tmp_path: Path, shards: list[Path]) -> None:
    index = write_index(tmp_path, whole_table(shards))
    shards[1].unlink()
    with pytest.raises(CheckpointError, match=r"^model-00002-of-00002\.safetensors: can't be read"):
        read_weights([index])


def test_a_tensor_that_is_not_where_the_index_says_is_named(
    tmp_path: Path, shards: list[Path]
) -> None:
    index = write_index(tmp_path, whole_table(shards) | {"a": shards[1].name})
    with pytest.raises(CheckpointError, match="tensor 'a' is missing, though the index"):
        read_weights([index])


def test_a_tensor_in_two_shards_is_refused(tmp_path: Path, shards: list[Path]) -> None:
    third = write_safetensors(tmp_path / "third.safetensors", {"a": A})
    with pytest.raises(CheckpointError, match=r"^third\.safetensors: tensor 'a' is in model-00001"):
        read_weights([*shards, third])


@pytest.mark.parametrize("shard", ["../x", "/etc/passwd", "a/b.safetensors", "..", "", "x\0"])
def test_an_index_can_not_leave_its_folder(tmp_path: Path, shard: str) -> None:
    with pytest.raises(CheckpointError, match="which is not a file name"):
        read_weights([write_index(tmp_path, {"a": shard})])


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"weight_map": {}}', '{"weight_map": {"a": 1}}'])
def test_a_broken_index_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(text)
    with pytest.raises(CheckpointError, match=r"^model\.safetensors\.index\.json: "):
        read_weights([path])


def test_no_files_or_two_indexes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint files"):
        read_weights([])
    with pytest.raises(CheckpointError, match="more than one index"):
        read_weights([tmp_path / "a.index.json", tmp_path / "b.index.json"])


def private_bytes() -> int:
    """Memory that is this process's own: pages backed by a file are not, clean or just written.

    (Private_Dirty would count a file's pages until the kernel has written them to the disk.)
    """
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Anonymous:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("the kernel tells nothing of anonymous memory")


def touch(weights: Weights) -> float:
    """Every page of every tensor is read."""
    return sum(float(stored.data.ravel(order="K").sum()) for stored in weights.values())


def write_large_safetensors(path: Path) -> Path:
    size = 128 * MEGABYTE
    header = {"w": {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]}}
    path.write_bytes(join_safetensors(header))
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size + size)
    return path


def write_large_pickle(path: Path) -> Path:
    count = 32 * MEGABYTE
    file = TorchFile({"0": bytes(4 * count)})
    return file.write(path, pickled({"w": tensor(storage("0", count), 0, (count,), (1,))}))


def test_mapping_128_megabytes_adds_less_than_5_of_private_memory(tmp_path: Path) -> None:
    for write, name in [
        (write_large_safetensors, "model.safetensors"),
        (write_large_pickle, "model.bin"),
    ]:
        path = write(tmp_path / name)
        before = private_bytes()
        weights = read_weights([path])
        assert touch(weights) == 0
        added = private_bytes() - before
        assert weights["w"].data.nbytes == 128 * MEGABYTE
        assert added < 5 * MEGABYTE, f"{name}: {added / MEGABYTE:.1f} MB"
