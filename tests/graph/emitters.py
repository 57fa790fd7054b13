"""One function of `Ops`, run by each emitter on the same arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multimodal_embedding_serving.graph.numpy_ops import NumpyOps
from multimodal_embedding_serving.graph.openvino_ops import FLOAT32, OpenVINOOps, Storage
from multimodal_embedding_serving.graph.runtime import opset as op
from multimodal_embedding_serving.graph.runtime import ov

Values = Mapping[str, NDArray[Any]]
Build = Callable[[Any, Mapping[str, Any]], Any]
Axes = Mapping[str, Sequence[int]]
"""Input -> its axes of any size: batch and length."""

TYPES = {"float32": ov.Type.f32, "int32": ov.Type.i32, "uint8": ov.Type.u8}


def run_openvino(
    build: Build, trials: Sequence[Values], dynamic: Axes, storage: Storage = FLOAT32
) -> list[NDArray[Any]]:
    """One compiled model over all trials, whose sizes differ along the dynamic axes."""
    parameters = {}
    for name, value in trials[0].items():
        axes = dynamic.get(name, (0,))
        shape = [-1 if axis in axes else size for axis, size in enumerate(value.shape)]
        parameters[name] = op.parameter(shape, TYPES[value.dtype.name], name=name)
        parameters[name].output(0).set_names({name})
    ops = OpenVINOOps(storage)
    model = ov.Model([op.result(build(ops, parameters))], list(parameters.values()), "trial")
    exact = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = ov.Core().compile_model(model, "CPU", exact)
    return [np.array(compiled(dict(trial))[0]) for trial in trials]


def run_numpy(build: Build, trials: Sequence[Values], dynamic: Axes) -> list[NDArray[Any]]:
    del dynamic  # numpy's arrays have any size
    return [np.asarray(build(NumpyOps(), trial)) for trial in trials]


EMITTERS: Mapping[str, Callable[[Build, Sequence[Values], Axes], list[NDArray[Any]]]] = {
    "openvino": run_openvino,
    "numpy": run_numpy,
}
