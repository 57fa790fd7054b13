"""Results as code for torch tensors uses them: torch itself is the oracle."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Callable
from operator import add, matmul, mul, sub, truediv
from typing import Any

import numpy as np
import pytest

from multimodal_embedding_serving.compat.rows import Rows
from tests.lazy import lazy

torch = lazy("torch")
RANDOM = np.random.default_rng(1)

CALLS: dict[str, Callable[[Any, Any, Any], Any]] = {
    "softmax": lambda torch, x, y: torch.softmax(x, dim=-1),
    "normalize": lambda torch, x, y: torch.nn.functional.normalize(x, dim=-1),
    "cat": lambda torch, x, y: torch.cat([x, y]),
    "stack": lambda torch, x, y: torch.stack((x[0], y[1]), dim=0),
    "cosine_similarity": lambda torch, x, y: torch.cosine_similarity(x, y),
    "matmul": lambda torch, x, y: torch.matmul(x, y.T),
    "einsum": lambda torch, x, y: torch.einsum("nd,md->nm", x, y),
    "operators": lambda torch, x, y: 100.0 * (x / x.norm(dim=-1, keepdim=True)) @ y.T,
    "method softmax": lambda torch, x, y: (x @ y.T).softmax(dim=-1),
    "norm": lambda torch, x, y: x.norm(dim=0),
    "norm of all": lambda torch, x, y: x.norm(),
    "unsqueeze": lambda torch, x, y: x.unsqueeze(1),
    "squeeze": lambda torch, x, y: x.unsqueeze(0).squeeze(dim=0),
    "mean": lambda torch, x, y: x.mean(dim=0, keepdim=True),
    "sum": lambda torch, x, y: x.sum(dim=-1),
    "argmax": lambda torch, x, y: x.argmax(dim=1),
    "max": lambda torch, x, y: x.max(dim=1).values,
    "topk": lambda torch, x, y: x.topk(2, dim=1).indices,
    "chain": lambda torch, x, y: x.detach().cpu().float().to("cpu")[0],
}


@pytest.fixture
def pair() -> tuple[Rows, Rows]:
    one, other = RANDOM.normal(size=(2, 3, 4)).astype(np.float32)
    return Rows.of(one), Rows.of(other)


@pytest.mark.parametrize("name", CALLS)
def test_a_call_gives_what_it_gives_for_tensors(name: str, pair: tuple[Rows, Rows]) -> None:
    call = CALLS[name]
    tensors = [torch.tensor(rows.tolist()) for rows in pair]
    expected = call(torch, *tensors)
    assert np.allclose(call(torch, *pair), expected, atol=1e-6)
    for mixed in ((pair[0], tensors[1]), (tensors[0], pair[1])):
        assert np.allclose(call(torch, *mixed), expected, atol=1e-6)


@pytest.mark.parametrize("apply", [matmul, mul, add, sub, truediv])
def test_an_operator_with_a_tensor_gives_a_tensor(
    apply: Callable[[Any, Any], Any], pair: tuple[Rows, Rows]
) -> None:
    one, other = pair[0][:, :3], pair[1][:, :3]
    tensors = [torch.tensor(rows.tolist()) for rows in (one, other)]
    expected = apply(*tensors)
    for result in (apply(one, tensors[1]), apply(tensors[0], other)):
        assert isinstance(result, torch.Tensor)
        assert torch.allclose(result, expected, atol=1e-6)


def test_shape_and_size_are_both_libraries(pair: tuple[Rows, Rows]) -> None:
    rows = pair[0]
    assert (rows.size, np.size(rows)) == (12, 12)
    assert (rows.size(), rows.size(0), rows.size(-1), rows.dim()) == ((3, 4), 3, 4, 2)
    assert "Rows([[" in repr(rows)
    assert np.array_equal(pickle.loads(pickle.dumps(rows)), rows)  # noqa: S301  # written above
    assert len(torch.tensor(rows)) == 3


def test_without_torch_the_methods_work_and_torch_is_not_imported() -> None:
    program = (
        "import sys, numpy as np\n"
        "from multimodal_embedding_serving.compat.rows import Rows\n"
        "rows = Rows.of(np.ones((2, 4), np.float32))\n"
        "print(rows.size(), rows.dim(), rows.unsqueeze(0).shape, rows.softmax(-1)[0].tolist())\n"
        "print(rows.mean(dim=0).tolist(), hasattr(rows, 'topk'), 'torch' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == (
        "(2, 4) 2 (1, 2, 4) [0.25, 0.25, 0.25, 0.25]\n[1.0, 1.0, 1.0, 1.0] False False\n"
    ), done.stderr
