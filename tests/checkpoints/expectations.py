"""What the tests of the hub publish, and what must come of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from multimodal_embedding_serving.checkpoints import read_weights
from multimodal_embedding_serving.checkpoints.download import DOWNLOAD, VERIFY
from multimodal_embedding_serving.checkpoints.hub import CheckpointFiles, find_checkpoint
from multimodal_embedding_serving.checkpoints.sources import HubAccess
from multimodal_embedding_serving.errors import EmbeddingError
from multimodal_embedding_serving.types import Portion

REPO = "org/tiny-clip"
WEIGHTS = np.arange(50_000, dtype=np.float32)
CONFIG = {"model_type": "clip", "text_config": {"hidden_size": 8}}
RIGHT, WRONG = "hf_right", "hf_wrong"


def same(found: CheckpointFiles) -> bool:
    return bool((read_weights(found.weights)["w"].data == WEIGHTS).all())


def refused(kind: type[EmbeddingError], source: str, access: HubAccess, **more: Any) -> str:
    with pytest.raises(kind) as caught:
        find_checkpoint(source, access=access, **more)
    message = str(caught.value)
    assert REPO in message
    for word in ("http", "127.0.0.1", "localhost", "Traceback", str(access.cache)):
        assert word not in message
    return message


class Steps(list[tuple[str, float, int]]):
    """What a download reports: (stage, share, size in bytes)."""

    def note(self, stage: str, share: float) -> None:
        assert isinstance(share, Portion)
        self.append((stage, float(share), share.size))

    def check(self) -> None:
        """Both stages go up to their end, and know their size from the start."""
        for stage in (DOWNLOAD, VERIFY):
            shares = [share for name, share, _ in self if name == stage]
            sizes = {size for name, _, size in self if name == stage}
            assert shares == sorted(shares)
            assert shares[-1] == 1
            assert len(sizes) == 1
            assert min(sizes) > WEIGHTS.nbytes
