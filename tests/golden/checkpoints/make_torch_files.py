# mypy: ignore-errors
# (torch is not in the test environment)
"""Writes the golden files of this folder; run by hand, with torch and safetensors installed.

    python make_torch_files.py

The committed files were written by torch 2.13.0 and safetensors 0.8.0 on CPython 3.11.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from pathlib import Path

import torch
from safetensors.torch import save_file

HERE = Path(__file__).parent


def make_tensors() -> OrderedDict[str, torch.Tensor]:
    """One tensor of each kind that a checkpoint may hold, with values that bf16 and f16 hold."""
    torch.manual_seed(7)
    base = torch.arange(24, dtype=torch.float32).reshape(4, 6) / 8 - 1
    return OrderedDict(
        {
            "f32": base.clone(),
            "f64": base.double() * 3,
            "f16": base.half(),
            "bf16": (base * 5).bfloat16(),
            "i64": torch.arange(5) - 2,
            "i32": torch.arange(5, dtype=torch.int32),
            "i16": torch.arange(5, dtype=torch.int16),
            "i8": torch.arange(5, dtype=torch.int8) - 2,
            "u8": torch.arange(250, 255, dtype=torch.uint8),
            "bool": torch.tensor([True, False, True]),
            "scalar": torch.tensor(2.5),
            "empty": torch.zeros(0, 3),
            "transposed": base.t(),
            "every_second_column_of_the_last_rows": base[2:, ::2],
            "parameter": torch.nn.Parameter(torch.full((2, 2), 0.25)),
        }
    )


def make_training_checkpoint() -> dict[str, object]:
    """What a training script saves: the weights under `state_dict`, among much else."""
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.98))
    model(torch.randn(4, 3)).sum().backward()
    optimiser.step()
    state = OrderedDict((f"module.{name}", value) for name, value in model.state_dict().items())
    return {
        "epoch": 3,
        "step": 1 << 40,
        "name": "run-学习",
        "best": None,
        "lr": 0.001,
        "done": False,
        "sizes": model[0].weight.shape,
        "state_dict": state,
        "optimizer": optimiser.state_dict(),
    }


def main() -> None:
    tensors = make_tensors()
    torch.save(tensors, HERE / "every_kind.pt")
    torch.save(tensors, HERE / "every_kind_protocol_4.pt", pickle_protocol=4)
    checkpoint = make_training_checkpoint()
    torch.save(checkpoint, HERE / "training.pt")
    torch.save(torch.nn.Linear(2, 2), HERE / "whole_module.pt")
    torch.save(tensors, HERE / "before_1_6.pt", _use_new_zipfile_serialization=False)
    torch.save(torch.nn.Linear(2, 2).state_dict(), HERE / "linear.bin")
    plain = {name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()}
    save_file(plain, HERE / "every_kind.safetensors", metadata={"format": "pt"})
    values = {name: tensor.double().tolist() for name, tensor in plain.items()}
    trained = {name: value.double().tolist() for name, value in checkpoint["state_dict"].items()}
    expected = {"every_kind": values, "training": trained}
    (HERE / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    main()
