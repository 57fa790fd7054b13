from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multimodal_embedding_serving.checkpoints import read_pickle
from multimodal_embedding_serving.errors import CheckpointError
from tests.checkpoints.files import (
    NAMES,
    PARAMETER,
    REBUILD,
    Call,
    Name,
    Persistent,
    TorchFile,
    pickled,
    storage,
    tensor,
    write_pickle,
)

GOLDEN = Path(__file__).parent.parent / "golden" / "checkpoints"


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        read_pickle(path)
    message = str(caught.value)
    assert message.startswith(f"{path.name}: ")
    assert str(path.parent) not in message
    return message


@pytest.mark.parametrize("name", ["every_kind.pt", "every_kind_protocol_4.pt"])
def test_a_file_of_torch_reads_as_it_was_saved(name: str) -> None:
    expected = json.loads((GOLDEN / "expected.json").read_text())["every_kind"]
    weights = read_pickle(GOLDEN / name)
    assert list(weights) == list(expected)
    for key, values in expected.items():
        array = np.array(values, np.float32)
        assert weights[key].data.shape == weights[key].shape
        assert array.size == 0 or weights[key].shape == array.shape
        np.testing.assert_array_equal(weights[key].float32().reshape(array.shape), array)
    assert {key: stored.dtype for key, stored in weights.items()} == {
        "f32": "F32", "f64": "F64", "f16": "F16", "bf16": "BF16", "i64": "I64", "i32": "I32",
        "i16": "I16", "i8": "I8", "u8": "U8", "bool": "BOOL", "scalar": "F32", "empty": "F32",
        "transposed": "F32", "every_second_column_of_the_last_rows": "F32", "parameter": "F32",
    }  # fmt: skip


def test_a_training_checkpoint_gives_what_is_under_state_dict() -> None:
    expected = json.loads((GOLDEN / "expected.json").read_text())["training"]
    weights = read_pickle(GOLDEN / "training.pt")
    assert list(weights) == list(expected)
    for key, values in expected.items():
        np.testing.assert_array_equal(weights[key].float32(), np.array(values, np.float32))


def test_a_whole_module_is_refused_by_its_name() -> None:
    message = refusal(GOLDEN / "whole_module.pt")
    assert "names 'torch.nn.modules.linear.Linear'" in message


def test_a_file_of_an_old_torch_is_refused_with_what_to_do() -> None:
    assert "save files of torch before 1.6 again" in refusal(GOLDEN / "before_1_6.pt")


def test_tensors_are_mapped_out_of_the_archive(tmp_path: Path) -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    weights = read_pickle(write_pickle(tmp_path / "x.pt", {"w": array}))
    assert not weights["w"].data.flags.owndata
    assert not weights["w"].data.flags.writeable
    np.testing.assert_array_equal(weights["w"].data, array)


def test_every_dtype_of_the_hand_made_archive_reads_back(tmp_path: Path) -> None:
    arrays = {name: np.array([[0, 1], [1, 0]]).astype(name) for name in NAMES}
    weights = read_pickle(write_pickle(tmp_path / "x.pt", arrays))
    for name, array in arrays.items():
        assert weights[name].dtype == NAMES[name][0]
        np.testing.assert_array_equal(weights[name].data, array)


def test_state_dicts_of_all_wrappings_are_found(tmp_path: Path) -> None:
    arrays = {"module.w": np.ones(2, np.float32)}
    wrappings: list[Any] = [
        dict,
        OrderedDict,
        lambda state: {"state_dict": state, "epoch": 1, "loss": 0.5, "tags": ["a", (1, None)]},
        lambda state: {"state_dict": OrderedDict(state), "optimizer": {"state": {0: {}, 1: {}}}},
        lambda state: {name: Call(PARAMETER, (t, True, {})) for name, t in state.items()},
        lambda state: Call(Name("collections", "OrderedDict"), (), None) and state,
    ]
    for around in wrappings:
        weights = read_pickle(write_pickle(tmp_path / "x.pt", arrays, around))
        assert list(weights) == ["module.w"]
        assert weights["module.w"].data.tolist() == [1, 1]


EVIL = [
    ("os", "system"),
    ("posix", "system"),
    ("builtins", "eval"),
    ("builtins", "getattr"),
    ("__builtin__", "exec"),
    ("subprocess", "Popen"),
    ("torch", "load"),
    ("torch.nn.modules.linear", "Linear"),
    ("torch._utils", "_rebuild_sparse_tensor"),
    ("numpy.core.multiarray", "scalar"),
    ("__torch__", "Model"),
    ("collections", "OrderedDict.__init__"),
    ("a", "b\x1b[31m" + "c" * 5000),
]


@pytest.mark.parametrize(("module", "name"), EVIL)
def test_a_name_of_anything_but_tensors_is_refused_by_name(
    tmp_path: Path, module: str, name: str
) -> None:
    marker = tmp_path / "executed"
    call = Call(Name(module, name), (f"touch {marker}",))
    message = refusal(TorchFile().write(tmp_path / "evil.pt", {"w": call}))
    assert f"names '{module}.{name[:1]}" in message
    assert len(message) < 300
    assert message.isprintable()
    assert not marker.exists()


def test_a_real_exploit_by_stack_global_is_refused_by_name(tmp_path: Path) -> None:
    class Exploit:
        def __reduce__(self) -> tuple[Any, ...]:
            return (os.system, (f"touch {tmp_path / 'executed'}",))

    for protocol in range(6):
        stream = pickle.dumps({"w": Exploit()}, protocol)
        message = refusal(TorchFile().write(tmp_path / "evil.pt", stream))
        assert "names 'posix.system'" in message or "opcode" in message
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("stream", "reason"),
    [
        (b"", "corrupt"),
        (b"\x80\x02}", "corrupt"),
        (b"\x80\x02.", "corrupt"),
        (b"\x80\x02)R.", "corrupt"),
        (b"\x80\x02}}R.", "calls an object that is not a function"),
        (b"\x80\x02ctorch\nFloatStorage\n)R.", "calls 'torch.FloatStorage'"),
        (b"\x80\x02}}b.", "contains no tensors"),
        (b"\x80\x02]}b.", "fills an object that is not a dict"),
        (b"\x80\x02}K\x01a.", "fills an object that is not a list"),
        (b"\x80\x02}(K\x01u.", "corrupt"),
        (b"\x80\x02}))s.", "a key that is neither text nor number"),
        (b"\x80\x02h\x07.", "corrupt"),
        (b"\x80\x02}r\xff\xff\xff\x7f.", "contains no tensors"),
        (b"\x80\x02\x82\x01.", "the opcode EXT1"),
        (b"\x80\x02}\x81.", "the opcode NEWOBJ"),
        (b"\x80\x05\x96\xff\xff\xff\xff\xff\xff\xff\x7f.", "corrupt"),
        (b"\x80\x02\x8b\xff\xff\xff\x7f.", "corrupt"),
        (b"\x80\x02}K\x01K\x02\x93.", "without a name"),
        (b"\x80\x02}X\x01\x00\x00\x00aQ.", "an object that is not a storage"),
        (b"\xff", "corrupt"),
        (b"\x80\x02].", "not a dict of tensors"),
        (b"\x80\x02}.", "contains no tensors"),
        (b"\x80\x02" + b"}0" * 100, "the opcode POP"),
        (b"\x80\x02" + b"N" * 4_000_001 + b".", "takes more than"),
    ],
)
def test_a_corrupt_or_wasteful_pickle_is_refused(
    tmp_path: Path, stream: bytes, reason: str
) -> None:
    assert reason in refusal(TorchFile().write(tmp_path / "bad.pt", stream))


def test_nested_tuples_that_double_cost_nothing(tmp_path: Path) -> None:
    double = b"".join(b"q%ch%c\x86" % (level, level) for level in range(200))
    stream = b"\x80\x02})" + double + b"}s."
    message = refusal(TorchFile().write(tmp_path / "bomb.pt", stream))
    assert "neither text nor number" in message


FOUR = np.arange(4, dtype=np.float32)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (tensor(storage("0", 4), 0, (5,), (1,)), "'w' reaches outside its storage"),
        (tensor(storage("0", 4), 3, (2,), (1,)), "'w' reaches outside its storage"),
        (tensor(storage("0", 4), 0, (2, 2), (3, 1)), "'w' reaches outside its storage"),
        (tensor(storage("0", 4), 0, (1 << 40,), (0,)), "'w' reaches outside its storage"),
        (tensor(storage("0", 4), 1 << 61, (1,), (1,)), "'w' reaches outside its storage"),
        (tensor(storage("0", 5), 0, (5,), (1,)), "'w' is truncated"),
        (tensor(storage("7", 4), 0, (4,), (1,)), "'w' has no storage"),
        (tensor(storage("../data.pkl", 4), 0, (4,), (1,)), "'w' has no storage"),
        (tensor(storage("\ud800", 4), 0, (4,), (1,)), "'w' has no storage"),
        (tensor(storage("0", 4), 0, (1,) * 20, (1,) * 20), "'w' has 20 dimensions"),
        (tensor(storage("0", 4), 0, (0, 1 << 61, 9), (1, 1, 1)), "'w' has an invalid shape"),
        (tensor(storage("0", 4), -1, (4,), (1,)), "invalid arguments"),
        (tensor(storage("0", 4), 0, (4,), (-1,)), "invalid arguments"),
        (tensor(storage("0", 4), 0, (-4,), (1,)), "invalid arguments"),
        (tensor(storage("0", 4), 0, (True,), (1,)), "invalid arguments"),
        (tensor(storage("0", 4), 0, (4,), (1, 1)), "invalid arguments"),
        (tensor(storage("0", 4), 0, (1 << 80,), (1,)), "invalid arguments"),
        (tensor("0", 0, (4,), (1,)), "invalid arguments"),
        (tensor(storage("0", 4), 0, (4,), (1,), {"neg": True}), "invalid arguments"),
        (Call(REBUILD, ()), "invalid arguments"),
        (Call(PARAMETER, (4,)), "not a tensor"),
        (Call(Name("collections", "OrderedDict"), ([("a", 1)],)), "OrderedDict from arguments"),
        (Call(Name("torch", "Size"), (4,)), "not a tuple"),
        (storage("0", -1), "not a storage"),
        (storage("0", "4"), "not a storage"),
        (storage("0", 4, "_utils._rebuild_parameter"), "not a storage"),
        (storage("0", 4, "ComplexFloatStorage"), "names 'torch.ComplexFloatStorage'"),
        (Persistent(("storage", 1, "0", "cpu", 4)), "not a storage"),
    ],
)
def test_an_impossible_tensor_is_refused(tmp_path: Path, value: object, reason: str) -> None:
    file = TorchFile()
    file.add(FOUR)
    assert reason in refusal(file.write(tmp_path / "bad.pt", {"w": value}))


def test_strides_and_offsets_are_kept(tmp_path: Path) -> None:
    file = TorchFile()
    file.add(np.arange(12, dtype=np.float32))
    value = tensor(storage("0", 12), 1, (2, 3), (1, 4))
    stored = read_pickle(file.write(tmp_path / "x.pt", {"w": value}))["w"]
    assert stored.data.tolist() == [[1, 5, 9], [2, 6, 10]]
    assert stored.float32() is stored.data


def test_a_compressed_tensor_is_refused(tmp_path: Path) -> None:
    file = TorchFile()
    root = {"w": file.add(np.zeros(1000, np.float32))}
    path = file.write(tmp_path / "x.pt", root, packed=zipfile.ZIP_DEFLATED)
    assert "tensor 'w' is compressed" in refusal(path)


def write_zip(path: Path, entries: dict[str, bytes], packed: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", packed) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return path


def test_archives_that_torch_never_writes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    empty = pickled({})
    assert "without torch's data.pkl" in refusal(write_zip(path, {"a/b": b""}))
    two = {"a/data.pkl": empty, "b/data.pkl": empty}
    assert "without torch's data.pkl" in refusal(write_zip(path, two))
    big = {"a/data.pkl": empty, "a/byteorder": b"big"}
    assert "not little endian" in refusal(write_zip(path, big))
    packed = write_zip(path, {"a/data.pkl": empty}, zipfile.ZIP_BZIP2)
    assert "in a way that torch never uses" in refusal(packed)
    bomb = write_zip(path, {"a/data.pkl": bytes(20 << 20)}, zipfile.ZIP_DEFLATED)
    assert "data.pkl is larger than" in refusal(bomb)
    path.write_bytes(b"PK\x03\x04" + b"x" * 200)
    assert "truncated or corrupt zip archive" in refusal(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_archive_with_two_entries_of_one_name_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.pt", "w") as archive:
        archive.writestr("a/data.pkl", pickled({}))
        archive.writestr("a/data.pkl", pickled({"w": 1}))
    assert "two entries of one name" in refusal(tmp_path / "x.pt")


def test_an_entry_whose_local_header_disagrees_is_refused(tmp_path: Path) -> None:
    path = write_pickle(tmp_path / "x.pt", {"w": FOUR})
    content = bytearray(path.read_bytes())
    at = content.find(b"archive/data/0")
    content[at : at + 1] = b"b"
    path.write_bytes(content)
    assert "tensor 'w' has a corrupt entry" in refusal(path)


def test_a_truncated_file_is_refused_at_every_length(tmp_path: Path) -> None:
    whole = (GOLDEN / "linear.bin").read_bytes()
    path = tmp_path / "linear.bin"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        refusal(path)


@settings(deadline=None)  # time decides nothing
@given(st.data())
def test_a_mutated_archive_reads_or_is_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from(["linear.bin", "training.pt", "every_kind_protocol_4.pt"]))
    content = bytearray((GOLDEN / name).read_bytes())
    for _ in range(data.draw(st.integers(1, 8))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=4))
    path = tmp_path_factory.getbasetemp() / "mutated.pt"
    path.unlink(missing_ok=True)
    path.write_bytes(content)
    read_or_refuse(path)


@settings(deadline=None)  # time decides nothing
@given(st.data())
def test_a_mutated_pickle_in_a_sound_archive_reads_or_is_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """The archive's checksum hides most mutations from the interpreter; here it is right."""
    file = TorchFile()
    arrays = {"a": FOUR, "b": FOUR.reshape(2, 2)}
    root = {"state_dict": {name: file.add(array) for name, array in arrays.items()}, "n": 1}
    stream = bytearray(pickled(root))
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(stream) - 1))
        stream[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=3))
    read_or_refuse(file.write(tmp_path_factory.getbasetemp() / "stream.pt", bytes(stream)))


def read_or_refuse(path: Path) -> None:
    try:
        weights = read_pickle(path)
    except CheckpointError:
        return
    for stored in weights.values():
        assert stored.data.shape == stored.shape
        stored.data.tobytes()


def test_the_readers_import_neither_torch_nor_safetensors() -> None:
    script = (
        "import sys, multimodal_embedding_serving.checkpoints\n"
        "bad = {'torch', 'safetensors', 'huggingface_hub', 'openvino'} & set(sys.modules)\n"
        "assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
