"""LoRA adapters beside the weights, against peft, which wrote them."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from multimodal_embedding_serving.checkpoints.adapter import RULES
from multimodal_embedding_serving.checkpoints.keys import check_keys
from tests.families.forms import Tested
from tests.families.test_published_forms import (
    WORDS,
    hidden,
    least_cosine,
    message_of,
    open_folder,
    text_vectors,
    write_json,
    write_qwen,
)
from tests.lazy import lazy
from tests.parity.towers import cosine

peft = lazy("peft")
torch = lazy("torch")

pytestmark = pytest.mark.skipif(find_spec("peft") is None, reason="peft is not installed")

MODULES = ["q_proj", "o_proj", "down_proj"]


def write_adapter(folder: Path, model: Any, **how: Any) -> Any:
    """The model with an adapter of random matrices, which peft saves into the folder."""
    config = peft.LoraConfig(r=4, lora_alpha=6, target_modules=MODULES, **how)
    adapted = peft.get_peft_model(model, config).eval()
    torch.manual_seed(2)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_A" in name or "lora_B" in name:
                weight.copy_(torch.randn_like(weight) / 4)
    adapted.save_pretrained(folder)
    return adapted.base_model.model


@pytest.mark.parametrize(
    ("how", "form"),
    [({}, "a LoRA adapter"), ({"use_rslora": True}, "a LoRA adapter, `use_rslora`")],
)
def test_a_lora_adapter_is_merged_as_peft_applies_it(
    how: dict[str, Any], form: str, tmp_path: Path, tested: Tested
) -> None:
    folder = tmp_path / "m"
    model = write_qwen(folder)
    plain = torch.stack([hidden(model, text)[-1] for text in WORDS]).numpy()
    adapted = write_adapter(folder, model, **how)
    expected = torch.stack([hidden(adapted, text)[-1] for text in WORDS]).numpy()
    found = text_vectors(open_folder(folder), tmp_path / "t-f32.xml")
    tested(form, least_cosine(found, expected))
    assert cosine(found, plain) < 0.99


def test_all_defaults_of_peft_written_out_are_harmless() -> None:
    """As save_pretrained writes them: each key of LoraConfig, used or not."""
    defaults = json.loads(json.dumps(peft.LoraConfig(r=4).to_dict(), default=list))
    check_keys({**defaults, "peft_type": "LORA"}, RULES, "adapter_config.json")


def test_a_dora_adapter_is_rejected(tmp_path: Path, tested: Tested) -> None:
    folder = tmp_path / "m"
    write_adapter(folder, write_qwen(folder), use_dora=True)
    config = json.loads((folder / "adapter_config.json").read_text())
    message = message_of(folder)
    assert message.startswith("adapter_config.json: use_dora = True")
    tested("a DoRA adapter", message)
    write_json(folder / "adapter_config.json", {**config, "use_dora": False})
    assert "lora_magnitude_vector" in message_of(folder)
