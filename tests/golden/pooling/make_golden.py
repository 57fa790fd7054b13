"""Make golden.npz with the modules of sentence-transformers (run with 6.2.0):

    python tests/golden/pooling/make_golden.py

The hidden states are drawn here and stored, so that the tests need neither the library nor the
same random numbers.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer  # noqa: F401  (imports in the right order)
from sentence_transformers.base.modules.dense import Dense
from sentence_transformers.sentence_transformer.modules.pooling import Pooling

LENGTHS, WIDTH, OUT = (7, 1, 4), 6, 5
ACTIVATIONS = ("Identity", "Tanh", "ReLU", "GELU", "SiLU", "Sigmoid")


def main() -> None:
    rng = np.random.default_rng(14)
    states = rng.standard_normal((len(LENGTHS), max(LENGTHS), WIDTH)).astype(np.float32)
    mask = (np.arange(max(LENGTHS)) < np.array(LENGTHS)[:, None]).astype(np.int32)
    weight = rng.standard_normal((OUT, WIDTH)).astype(np.float32)
    bias = rng.standard_normal(OUT).astype(np.float32)
    golden: dict[str, Any] = {"states": states, "mask": mask, "weight": weight, "bias": bias}
    for mode in Pooling.POOLING_MODES:
        features = {"token_embeddings": torch.tensor(states), "attention_mask": torch.tensor(mask)}
        pooled = Pooling(WIDTH, mode)(features)["sentence_embedding"]
        golden[f"pooling {mode}"] = pooled.numpy()
        for name in ACTIVATIONS:
            dense = Dense(WIDTH, OUT, activation_function=getattr(torch.nn, name)())
            dense.linear.weight.data = torch.tensor(weight)
            dense.linear.bias.data = torch.tensor(bias)
            kind = dense.get_config_dict()["activation_function"]
            with torch.no_grad():
                vector = dense({"sentence_embedding": pooled})["sentence_embedding"]
            golden[f"{mode} {kind}"] = vector.numpy()
    np.savez_compressed(Path(__file__).with_name("golden.npz"), **golden)


main()
