"""What the tests of the hub publish, and what must come of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from multimodal_embedding_serving.checkpoints import open_weights
from multimodal_embedding_serving.checkpoints.hub import CheckpointFiles, find_checkpoint
from multimodal_embedding_serving.checkpoints.sources import HubAccess
from multimodal_embedding_serving.errors import EmbeddingError

REPO = "org/tiny-clip"
WEIGHTS = np.arange(50_000, dtype=np.float32)
CONFIG = {"model_type": "clip", "text_config": {"hidden_size": 8}}
RIGHT, WRONG = "hf_right", "hf_wrong"


def same(found: CheckpointFiles) -> bool:
    return bool((open_weights(found.weights)["w"].data == WEIGHTS).all())


def refused(kind: type[EmbeddingError], source: str, access: HubAccess, **more: Any) -> str:
    with pytest.raises(kind) as caught:
        find_checkpoint(source, access=access, **more)
    message = str(caught.value)
    assert REPO in message
    for word in ("http", "127.0.0.1", "localhost", "Traceback", str(access.cache)):
        assert word not in message
    return message


def check_progress(steps: list[tuple[str, int, int]]) -> None:
    for stage in ("download", "verify"):
        done = [step[1] for step in steps if step[0] == stage]
        totals = {step[2] for step in steps if step[0] == stage}
        assert done == sorted(done)
        assert totals == {done[-1]}
        assert done[-1] > WEIGHTS.nbytes
