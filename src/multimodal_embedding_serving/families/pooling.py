"""What sentence-transformers' modules add to a decoder: pooling, then linear layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from multimodal_embedding_serving.checkpoints.modules import Dense
from multimodal_embedding_serving.checkpoints.weights import Weights
from multimodal_embedding_serving.errors import CheckpointError
from multimodal_embedding_serving.families import Checkpoint
from multimodal_embedding_serving.graph.layers import activate, dense, place
from multimodal_embedding_serving.graph.ops import Ops, T


@dataclass(frozen=True, slots=True)
class Finish:
    """From the hidden states of all places to the vector before its length is made 1."""

    pooling: str = "lasttoken"
    """A value of `checkpoints.modules.POOLING_MODES`."""
    layers: Sequence[tuple[Dense, Weights]] = ()

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> Finish:
        """Raises CheckpointError for a layer whose width is not that of the one before it."""
        description = checkpoint.description
        width = checkpoint.config["hidden_size"]
        for layer, w in description.dense:
            width = w.tensor("weight", (None, width)).shape[0]
            if set(w) - {"weight", "bias"}:
                raise CheckpointError(f"{layer.path}: unexpected tensor {min(set(w))!r}")
        return cls(description.modules.pooling or "lasttoken", description.dense)

    @property
    def width(self) -> int | None:
        """Of the vectors; None: as wide as the hidden states."""
        return self.layers[-1][1]["weight"].shape[0] if self.layers else None

    def __call__(self, ops: Ops[T], x: T, mask: T, norm: Callable[[T], T]) -> T:
        """x [B, L, W], mask [B, L] padded on the right -> [B, D]."""
        match self.pooling:
            case "mean" | "mean_sqrt_len_tokens":
                x = ops.masked_mean(norm(x), mask, root=self.pooling != "mean")
            case "weightedmean":
                x = ops.position_mean(norm(x), mask)
            case "max":
                x = ops.masked_max(norm(x), mask)
            case "cls":
                x = norm(place(ops, x, 0))
            case _:
                x = norm(ops.take_place(x, ops.last_place(mask)))
        for layer, w in self.layers:
            x = dense(ops, x, w)
            match layer.activation:
                case "identity":
                    pass
                case "sigmoid":
                    x = ops.sigmoid(x)
                case "tanh":
                    x = ops.tanh(x)
                case name:
                    x = activate(ops, x, name)
        return x


LAST_TOKEN = Finish()
