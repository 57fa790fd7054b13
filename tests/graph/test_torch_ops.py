"""The torch emitter's operations against plain numpy, and how a noted program is run."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from numpy.typing import NDArray

from multimodal_embedding_serving.checkpoints.weights import StoredTensor
from tests.graph.emitters import Build, Values
from tests.graph.operations import Operation, heads, weight
from tests.graph.test_ops import OPERATIONS, SIZES
from tests.lazy import has_cuda, lazy

if TYPE_CHECKING:
    from multimodal_embedding_serving.graph import torch_ops
else:
    torch_ops = lazy("multimodal_embedding_serving.graph.torch_ops")
torch = lazy("torch")

DEVICES = ["cpu", *(["cuda"] if has_cuda() else [])]


def note(build: Build, names: Sequence[str], device: str = "cpu", **kind: Any) -> torch_ops.Program:
    return torch_ops.note_program(
        names, build, torch.device(device), kind.get("dtype", torch.float32)
    )


def run(program: torch_ops.Program, trial: Values, device: str = "cpu") -> NDArray[Any]:
    answer = program({name: torch.tensor(array, device=device) for name, array in trial.items()})
    return np.asarray(answer.cpu())


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda each: each.name)
def test_an_operation_means_what_numpy_says(operation: Operation, device: str) -> None:
    """One program over trials of several batches and lengths."""
    rng = np.random.default_rng(3)
    trials = [operation.draw(rng, batch, length) for batch, length in SIZES]
    program = note(operation.build, list(trials[0]), device)
    for trial in trials:
        expected, result = operation.expect(trial), run(program, trial, device)
        assert result.shape == expected.shape
        np.testing.assert_allclose(result, expected, atol=2e-5, rtol=1e-4)


def test_a_causal_attention_refuses_a_mask_rather_than_ignore_it() -> None:
    with pytest.raises(ValueError, match="mask or causal"):
        note(lambda o, v: o.attention(v["q"], v["k"], v["v"], causal=True, mask=v["m"]), "qkvm")


def test_an_id_that_is_not_there_pools_at_the_last_place() -> None:
    program = note(lambda o, v: o.first_place(v["ids"], 1), ["ids"])
    result = run(program, {"ids": np.array([[1, 2, 3], [2, 3, 2]], np.int32)})
    assert result.tolist() == [0, 2]


def test_a_zero_vector_stays_zero_instead_of_becoming_nan() -> None:
    program = note(lambda o, v: o.l2_normalize(v["x"]), ["x"])
    assert not run(program, {"x": np.zeros((1, 6), np.float32)}).any()


def add_constant(stored: StoredTensor, o: Any, v: Any) -> Any:
    return o.add(v["x"], o.constant(stored))


def test_bfloat16_weights_come_as_they_are_stored() -> None:
    bits = (weight(5, 6).view(np.uint32) >> 16).astype(np.uint16)
    for data in (bits, bits.T):
        stored = StoredTensor("w", "BF16", data.shape, data)
        program = note(partial(add_constant, stored), ["x"])
        result = run(program, {"x": np.zeros(data.shape, np.float32)})
        assert np.array_equal(result, stored.float32())


def test_a_weight_in_a_read_only_file_is_copied() -> None:
    values = weight(5, 6)
    values.flags.writeable = False
    program = note(lambda o, v: o.linear(v["x"], values), ["x"])
    result = run(program, {"x": np.eye(6, dtype=np.float32)})
    assert np.array_equal(result, values.T)


def test_values_are_let_go_after_their_last_use() -> None:
    def build(o: Any, v: Any) -> Any:
        x = o.relu(v["x"])
        return o.add(x, o.sigmoid(o.scale(x, 2.0)))

    steps = note(build, ["x"]).steps
    # x0 = input, x1 = relu, x2 = scale, x3 = sigmoid, x4 = add
    assert [step.frees for step in steps] == [(0,), (), (2,), (1, 3), (4,)]


def test_the_family_runs_once_and_the_program_often() -> None:
    calls = []

    def build(o: Any, v: Any) -> Any:
        calls.append(1)
        return o.scale(v["x"], 3.0)

    program = note(build, ["x"])
    for size in (1, 4):
        assert run(program, {"x": np.ones((size, 2), np.float32)}).tolist() == [[3.0, 3.0]] * size
    assert len(calls) == 1


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_programs_answer_in_float32(precision: str) -> None:
    dtype = getattr(torch, precision)
    program = note(lambda o, v: o.l2_normalize(o.linear(v["x"], W)), ["x"], dtype=dtype)
    x = torch.tensor(weight(3, 6)).to(dtype)
    result = program({"x": x})
    assert result.dtype == torch.float32
    expected = torch.nn.functional.normalize(x.double() @ torch.tensor(W).double().T, dim=1)
    assert (result * expected).sum(1).min() > 0.9999


W = weight(5, 6)


def test_rotations_are_made_once_for_queries_and_keys() -> None:
    def build(o: Any, v: Any) -> Any:
        return o.add(o.rope(v["x"], 100.0), o.rope(v["x"], 100.0))

    program = note(build, ["x"])
    assert len(program.steps) == 5  # the rotation, two ropes, the sum, the answer
    trial = heads(3, 8)(np.random.default_rng(3), 2, 5)
    once = note(lambda o, v: o.rope(v["x"], 100.0), ["x"])
    np.testing.assert_allclose(run(program, trial), 2 * run(once, trial), rtol=1e-6)
