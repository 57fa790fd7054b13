"""Vectors that code written for torch tensors can go on using, without torch in this package."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray


class CountAndShape(int):
    """What `rows.size` is: NumPy's number of elements, and torch's method that gives the shape."""

    shape: tuple[int, ...]

    @classmethod
    def of(cls, shape: tuple[int, ...]) -> CountAndShape:
        size = cls(np.prod(shape, dtype=np.int64))
        size.shape = shape
        return size

    def __call__(self, dim: int | None = None) -> Any:
        return self.shape if dim is None else self.shape[dim]


class Rows(np.ndarray[Any, np.dtype[np.float32]]):
    """float32 [n, dimension]: a NumPy array with the methods that code for torch tensors calls.

    Functions and operators of torch take it like a tensor and return tensors. Methods that are not
    defined here are those of the tensor that torch makes of it, once a program has imported torch.
    """

    # Below a tensor's, so that `rows @ tensor` is the tensor's operation.
    __array_priority__ = 0.5

    @classmethod
    def of(cls, vectors: NDArray[np.float32]) -> Rows:
        return vectors.view(cls)

    @classmethod
    def __torch_function__(
        cls,
        function: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Called by torch, with an argument that is an instance of this class."""
        return function(*to_tensors(list(args)), **to_tensors(dict(kwargs or {})))

    def __getattr__(self, name: str) -> Any:
        """A tensor's attribute, if the program has imported torch."""
        if name.startswith("__") or "torch" not in sys.modules:
            raise AttributeError(
                f"{type(self).__name__!r} has no attribute {name!r}; `torch.from_numpy(rows)` has "
                "the attributes of a tensor"
            )
        return getattr(to_tensors(self), name)

    @property
    def size(self) -> Any:
        """NumPy's number of elements; `size()` is torch's shape, and `size(0)` one length of it."""
        return CountAndShape.of(self.shape)

    def dim(self) -> int:
        return self.ndim

    def numpy(self) -> NDArray[np.float32]:
        return self.view(np.ndarray)

    def cpu(self) -> Self:
        return self

    def detach(self) -> Self:
        return self

    def float(self) -> Self:
        return self

    def to(self, *_: object, **__: object) -> Self:
        return self

    def unsqueeze(self, dim: int) -> Any:
        """With an axis of length 1 before `dim`; -1 is the last one."""
        return np.expand_dims(self, dim)

    def softmax(self, dim: int) -> Any:
        """e**x, scaled to a sum of 1 along `dim`."""
        powers = np.exp(self - self.numpy().max(axis=dim, keepdims=True))
        return powers / powers.numpy().sum(axis=dim, keepdims=True)

    def norm(self, p: int = 2, dim: int | None = None, keepdim: bool = False) -> Any:
        """Without `dim`, the norm of all numbers together, like torch."""
        rows = self.numpy() if dim is not None else self.numpy().reshape(-1)
        lengths = np.linalg.norm(rows, p, axis=-1 if dim is None else dim, keepdims=keepdim)
        return Rows.of(lengths) if isinstance(lengths, np.ndarray) else lengths

    def mean(self, *args: Any, **kwargs: Any) -> Any:
        return super().mean(*args, **_numpy_names(kwargs))

    def sum(self, *args: Any, **kwargs: Any) -> Any:
        return super().sum(*args, **_numpy_names(kwargs))

    def argmax(self, *args: Any, **kwargs: Any) -> Any:
        return super().argmax(*args, **_numpy_names(kwargs))

    def squeeze(self, *args: Any, **kwargs: Any) -> Any:
        return super().squeeze(*args, **_numpy_names(kwargs))

    def max(self, *args: Any, **kwargs: Any) -> Any:
        """Along torch's `dim`, torch's (values, indices); else NumPy's maximum."""
        if "dim" in kwargs and "torch" in sys.modules:
            return to_tensors(self).max(*args, **kwargs)
        return super().max(*args, **kwargs)

    def min(self, *args: Any, **kwargs: Any) -> Any:
        """Along torch's `dim`, torch's (values, indices); else NumPy's minimum."""
        if "dim" in kwargs and "torch" in sys.modules:
            return to_tensors(self).min(*args, **kwargs)
        return super().min(*args, **kwargs)

    def argmin(self, *args: Any, **kwargs: Any) -> Any:
        return super().argmin(*args, **_numpy_names(kwargs))


def _numpy_names(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """torch's `dim` and `keepdim` by NumPy's names."""
    names = {"dim": "axis", "keepdim": "keepdims"}
    return {names.get(name, name): value for name, value in kwargs.items()}


def to_tensors(value: Any) -> Any:
    """`value` with each Rows in it, however deep in lists and dicts, as a torch tensor."""
    if isinstance(value, Rows):
        array = value.numpy()
        return sys.modules["torch"].from_numpy(array if array.flags.writeable else array.copy())
    if isinstance(value, dict):
        return {key: to_tensors(each) for key, each in value.items()}
    if type(value) in (list, tuple):
        return type(value)(to_tensors(each) for each in value)
    return value
