"""Folders without a checkpoint that is supported: the message names the file, tensor or key."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from tests.checkpoints.files import write_pickle
from tests.families.forms import Tested
from tests.families.test_published_forms import letters, message_of, write_json, write_qwen
from tests.small_clip import write_clip


def empty(folder: Path) -> Path:
    """Only a tokenizer."""
    folder.mkdir()
    letters().save(str(folder / "tokenizer.json"))
    return folder


def test_integer_weights_are_rejected_by_tensor_and_type(tmp_path: Path, tested: Tested) -> None:
    folder = write_clip(tmp_path / "m")
    arrays = load_file(folder / "model.safetensors")
    name = "text_model.encoder.layers.0.mlp.fc1.weight"
    arrays[name] = arrays[name].astype(np.int8)
    save_file(arrays, folder / "model.safetensors")
    message = message_of(folder)
    assert "model.safetensors: tensor " in message
    assert "fc1" in message
    assert "(I8)" in message
    tested("integer weights", message)


def test_an_lfs_pointer_is_recognized(tmp_path: Path, tested: Tested) -> None:
    folder = write_clip(tmp_path / "m")
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    message = message_of(folder)
    assert "model.safetensors: a Git LFS pointer" in message
    tested("a Git LFS pointer", message)


def test_a_sentencepiece_tokenizer_says_which_file_is_needed(
    tmp_path: Path, tested: Tested
) -> None:
    folder = tmp_path / "m"
    write_qwen(folder)
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.model").write_bytes(b"\n")
    message = message_of(folder)
    for words in ("tokenizer.model ", "tokenizer.json is needed", "save_p"):
        assert words in message
    tested("a SentencePiece tokenizer alone", message)


def test_a_gguf_file_is_named(tmp_path: Path, tested: Tested) -> None:
    folder = empty(tmp_path / "m")
    (folder / "Qwen3-Q8_0.gguf").write_bytes(b"GGUF" + bytes(64))
    message = message_of(folder)
    assert "Qwen3-Q8_0.gguf" in message
    tested("only a GGUF file", message)


def test_an_exported_model_is_named(tmp_path: Path, tested: Tested) -> None:
    folder = empty(tmp_path / "m")
    (folder / "openvino_model.xml").write_text("<net/>")
    (folder / "openvino_model.bin").write_bytes(bytes(16))
    write_json(folder / "config.json", {"model_type": "qwen3"})
    message = message_of(folder)
    assert "openvino_model.xml" in message
    tested("only an exported OpenVINO model", message)


def test_an_adapter_alone_is_named(tmp_path: Path, tested: Tested) -> None:
    folder = empty(tmp_path / "m")
    name = "base_model.model.layers.0.self_attn.q_proj.lora_A.weight"
    save_file({name: np.zeros((4, 8), np.float32)}, folder / "adapter_model.safetensors")
    write_json(folder / "adapter_config.json", {"peft_type": "LORA"})
    message = message_of(folder)
    assert message.startswith("adapter_model.safetensors: ")
    assert "lora_A" in message
    tested("an adapter without its model", message)


def test_chinese_clips_resnet_is_named(tmp_path: Path, tested: Tested) -> None:
    names = ["visual.conv1.weight", "visual.layer1.0.conv1.weight"]
    names += ["visual.attnpool.positional_embedding", "bert.embeddings.word_embeddings.weight"]
    folder = empty(tmp_path / "m")
    arrays = {name: np.zeros((4, 4), np.float32) for name in names}
    write_pickle(folder / "clip_cn_rn50.pt", arrays, lambda state: {"state_dict": state})
    message = message_of(folder)
    assert message.startswith("clip_cn_rn50.pt: ")
    tested("the ResNet-50 (`clip_cn_rn50.pt`)", message)
