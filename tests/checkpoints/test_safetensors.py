from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multimodal_embedding_serving.checkpoints import read_safetensors
from multimodal_embedding_serving.errors import CheckpointError
from tests.checkpoints.files import join_safetensors, write_safetensors

GOLDEN = Path(__file__).parent.parent / "golden" / "checkpoints"


def entry(begin: int, end: int, shape: list[int], dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def refusal(path: Path, content: bytes) -> str:
    file = path / "bad.safetensors"
    file.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        read_safetensors(file)
    message = str(caught.value)
    assert message.startswith("bad.safetensors: ")
    assert str(path) not in message
    return message


def test_a_file_of_the_safetensors_package_reads_as_it_was_written() -> None:
    expected = json.loads((GOLDEN / "expected.json").read_text())["every_kind"]
    weights = read_safetensors(GOLDEN / "every_kind.safetensors")
    assert set(weights) == set(expected)
    assert weights.metadata == {"format": "pt"}
    for name, values in expected.items():
        array = np.array(values, np.float32).reshape(weights[name].shape)
        np.testing.assert_array_equal(weights[name].float32(), array)
    assert {name: weights[name].dtype for name in ("f16", "bf16", "i64", "bool", "u8")} == {
        "f16": "F16", "bf16": "BF16", "i64": "I64", "bool": "BOOL", "u8": "U8",
    }  # fmt: skip
    assert weights["empty"].shape == (0, 3)
    assert weights["scalar"].shape == ()


def test_our_own_writer_and_the_package_agree(tmp_path: Path) -> None:
    theirs = read_safetensors(GOLDEN / "every_kind.safetensors")
    arrays = {name: stored.data for name, stored in theirs.items()}
    ours = read_safetensors(write_safetensors(tmp_path / "copy.safetensors", arrays))
    assert {(n, t.dtype, t.shape) for n, t in ours.items()} == {
        (n, t.dtype, t.shape) for n, t in theirs.items()
    }


def test_tensors_share_the_mapped_file(tmp_path: Path) -> None:
    arrays = {"a": np.zeros(4, np.float32), "b": np.ones((2, 2), np.float32)}
    weights = read_safetensors(write_safetensors(tmp_path / "x.safetensors", arrays))
    assert not weights["a"].data.flags.owndata
    first = weights["a"].data.__array_interface__["data"][0]
    assert weights["b"].data.__array_interface__["data"][0] == first + 16


def test_a_header_of_any_length_is_fine_though_the_data_is_not_aligned(tmp_path: Path) -> None:
    for spaces in range(8):
        header = json.dumps({"a": entry(0, 8, [2])}).encode() + b" " * spaces
        file = tmp_path / "odd.safetensors"
        file.write_bytes(join_safetensors(header, np.array([3, 4], np.float32).tobytes()))
        assert read_safetensors(file)["a"].data.tolist() == [3, 4]


def test_a_missing_file_is_named_without_its_folder(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        read_safetensors(tmp_path / "gone.safetensors")
    assert str(caught.value) == "gone.safetensors: can't be read (No such file or directory)"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b"\x05\0\0", "truncated, 3 bytes"),
        (join_safetensors({}, length=100), "truncated inside its header"),
        (join_safetensors({}, length=(1 << 64) - 1), "allowed"),
        (join_safetensors({}, length=(16 << 20) + 1), "a header of 16777217 bytes"),
        (join_safetensors(b"{'a'"), "not valid JSON"),
        (join_safetensors(b"\xff\xfe{}"), "not valid JSON"),
        (join_safetensors(b"[" * 100_000), "not valid JSON"),
        (join_safetensors(b"[]"), "not a JSON object"),
        (join_safetensors(b'{"a": NaN}'), "NaN is not a number"),
        (join_safetensors(b'{"a": 1, "a": 1}'), "'a' appears twice"),
        (join_safetensors(b'{"a": {"shape": [], "shape": []}}'), "'shape' appears twice"),
        (join_safetensors({"__metadata__": {"a": 1}}), "__metadata__ must map strings to strings"),
        (join_safetensors({"__metadata__": []}), "__metadata__ must map strings to strings"),
        (join_safetensors({}, b"1234"), "4 bytes after the last tensor"),
    ],
)
def test_a_file_with_a_bad_header_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    assert reason in refusal(tmp_path, content)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (7, "lacks a dtype"),
        ({"dtype": "F32", "shape": [2]}, "lacks a dtype"),
        ({"dtype": "F32", "shape": [2], "data_offsets": [0, 4, 8]}, "lacks a dtype"),
        (entry(0, 8, [2], "F8_E4M3"), "unknown dtype 'F8_E4M3'"),
        (entry(0, 8, [3]), "has 8 bytes, its shape needs 12"),
        (entry(0, 12, [3]), "lies outside the file"),
        (entry(-8, 0, [2]), "invalid offsets"),
        (entry(8, 0, [2]), "invalid offsets"),
        (entry(0, 8, [-2]), "not a list of sizes"),
        (entry(0, 8, [True, 2]), "not a list of sizes"),
        ({"dtype": "F32", "shape": ["2"], "data_offsets": [0, 8]}, "not a list of sizes"),
        ({"dtype": "F32", "shape": [2], "data_offsets": [0.0, 8.0]}, "invalid offsets"),
        ({"dtype": "F32", "shape": [2], "data_offsets": [False, 8]}, "invalid offsets"),
        (entry(0, 0, [0, 1 << 62]), "invalid shape"),
        (entry(0, 8, [1 << 40, 1 << 40]), "invalid shape"),
        (entry(0, 8, [1] * 40), "has 40 dimensions"),
        (entry(0, 8, [10**4000]), "invalid shape"),
    ],
)
def test_a_bad_entry_is_refused_by_the_name_of_its_tensor(
    tmp_path: Path, value: object, reason: str
) -> None:
    message = refusal(tmp_path, join_safetensors({"blocks.0.weight": value}, b"12345678"))
    assert message.startswith("bad.safetensors: tensor 'blocks.0.weight' ")
    assert reason in message


def test_tensors_that_overlap_are_refused(tmp_path: Path) -> None:
    header = {"a": entry(0, 8, [2]), "b": entry(4, 12, [2])}
    assert "tensor 'b' overlaps another" in refusal(tmp_path, join_safetensors(header, b"x" * 12))


def test_bytes_that_belong_to_no_tensor_are_refused(tmp_path: Path) -> None:
    header = {"a": entry(0, 4, [1]), "b": entry(8, 12, [1])}
    message = refusal(tmp_path, join_safetensors(header, b"x" * 12))
    assert "tensor 'b' follows bytes that belong to no tensor" in message


def test_a_name_of_a_megabyte_is_cut_and_escaped_in_the_message(tmp_path: Path) -> None:
    name = "\ud800\x1b[31m" + "n" * (1 << 20)
    message = refusal(tmp_path, join_safetensors({name: entry(0, 4, [2])}, b"1234"))
    assert len(message) < 300
    assert message.isprintable()


def test_a_truncated_file_is_refused_at_every_length(tmp_path: Path) -> None:
    whole = (GOLDEN / "every_kind.safetensors").read_bytes()
    for length in range(len(whole)):
        refusal(tmp_path, whole[:length])


@settings(deadline=None)  # time decides nothing
@given(st.data())
def test_a_mutated_file_reads_or_is_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = bytearray((GOLDEN / "every_kind.safetensors").read_bytes())
    for _ in range(data.draw(st.integers(1, 8))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=4))
    read_or_refuse(tmp_path_factory.getbasetemp() / "mutated.safetensors", bytes(content))


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
json_values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=5,
)
sizes = st.integers(-2, 4) | st.integers()
entries = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "BF16", "BOOL", "I64", "F4"]) | scalars,
        "shape": st.lists(sizes, max_size=4) | json_values,
        "data_offsets": st.lists(st.integers(-4, 20) | st.integers(), max_size=3) | json_values,
    }
)


@settings(deadline=None)  # time decides nothing
@given(
    st.dictionaries(
        st.text(max_size=4) | st.just("__metadata__"), entries | json_values, max_size=4
    ),
    st.binary(max_size=20),
)
def test_any_header_reads_or_is_refused(
    tmp_path_factory: pytest.TempPathFactory, header: dict[str, Any], content: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.safetensors"
    read_or_refuse(path, join_safetensors(header, content))


def read_or_refuse(path: Path, content: bytes) -> None:
    """Nothing but CheckpointError may come out, and what is read can be used."""
    path.unlink(missing_ok=True)
    path.write_bytes(content)
    try:
        weights = read_safetensors(path)
    except CheckpointError:
        return
    for stored in weights.values():
        assert stored.data.shape == stored.shape
        stored.data.tobytes()
