"""Small checkpoints of every family as repositories hold them: weights, configuration, tokenizer.

The tensors' names are those of the real files, and the configurations are stripped as theirs are.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from tests.parity.small import ENTRIES, Arrays, draw, model_type, small_arrays, small_config
from tests.parity.small_mobileclip import small_mobileclip
from tests.parity.towers import strip, write_checkpoint
from tests.small_clip import byte_letters, write_tokenizer

TOKENIZERS = Path(__file__).parent / "golden" / "tokenizers"
GEMMA_ENTRIES = 662
QWEN_ENTRIES = 300
END = "<|endoftext|>"

FAMILIES = (
    "clip-vit-b-16",
    "cn-clip-vit-b-16",
    "siglip2-vit-b-16",
    "blip2_transformers",
    "mobileclip_s0",
    "mobileclip_b",
    "qwen3-embedding-0.6b",
)
"""Rows of the catalog, one for each form of tower that there is."""

QWEN_PROMPT = (
    "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"
)


def write_repository(folder: Path, model: str) -> Path:
    """The small checkpoint of a row in its first layout."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays, config = small_checkpoint(model)
    write_checkpoint(folder / file_name(model), arrays)
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config), "utf-8")
    if model.startswith("qwen"):
        prompts = {"query": QWEN_PROMPT, "document": ""}
        settings = {"prompts": prompts, "default_prompt_name": None}
        path = folder / "config_sentence_transformers.json"
        path.write_text(json.dumps(settings), "utf-8")
    write_vocabulary(folder, model)
    return folder


def file_name(model: str) -> str:
    if model.startswith("mobileclip"):
        return f"{model}.pt"
    return "model.safetensors.index.json" if model.startswith("qwen") else "model.safetensors"


def small_checkpoint(model: str) -> tuple[Arrays, dict[str, Any] | None]:
    """Tensors under their true names, and config.json where the real repository has one."""
    if model.startswith("mobileclip"):
        return small_mobileclip(model, "apple"), None
    if model.startswith("qwen"):
        return small_qwen(model)
    layers = 3 if model.startswith("blip2") else 2
    arrays, config = small_arrays(model, "transformers", layers=layers), small_config(model)
    config = small_config(model, layers=layers)
    if model_type(model) == "siglip":
        name = "text_model.embeddings.token_embedding.weight"
        arrays[name] = draw(name, (GEMMA_ENTRIES, arrays[name].shape[1]), 0)
        config["text_config"]["vocab_size"] = GEMMA_ENTRIES
    return arrays, strip(config)


def small_qwen(model: str) -> tuple[Arrays, dict[str, Any]]:
    """bfloat16, and the config that fits."""
    arrays = small_arrays(model, "transformers")
    arrays["embed_tokens.weight"] = arrays["embed_tokens.weight"][:QWEN_ENTRIES]
    config: dict[str, Any] = {
        "model_type": "qwen3",
        "vocab_size": QWEN_ENTRIES,
        "hidden_size": len(arrays["norm.weight"]),
        "intermediate_size": len(arrays["layers.0.mlp.gate_proj.weight"]),
        "num_hidden_layers": 2,
        "head_dim": len(arrays["layers.0.self_attn.q_norm.weight"]),
        "num_key_value_heads": 8,
        "rope_theta": 1000000,
    }
    heads = len(arrays["layers.0.self_attn.q_proj.weight"]) // config["head_dim"]
    if heads != 32:  # the default, which the real files leave out too
        config["num_attention_heads"] = heads
    return {name: to_bf16(array) for name, array in arrays.items()}, config


def to_bf16(array: Any) -> Any:
    return (np.asarray(array, np.float32).view(np.uint32) >> 16).astype(np.uint16)


def write_vocabulary(folder: Path, model: str) -> None:
    """The tokenizer's files of the row's family."""
    if model.startswith(("cn-clip", "blip2")):
        shutil.copy(TOKENIZERS / "vocab.txt", folder / "vocab.txt")
    elif model.startswith("siglip"):
        shutil.copy(TOKENIZERS / "gemma.json", folder / "tokenizer.json")
    elif model.startswith("qwen"):
        qwen_tokenizer().save(str(folder / "tokenizer.json"))
    else:
        write_tokenizer(folder, built=True, entries=ENTRIES)


def qwen_tokenizer() -> Tokenizer:
    """Bytes, and the end of the text appended, as the real one's post-processor does."""
    vocabulary = {letter: place for place, letter in enumerate([*byte_letters(), END])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {END}", special_tokens=[(END, vocabulary[END])]
    )
    tokenizer.add_special_tokens([END])
    return tokenizer
