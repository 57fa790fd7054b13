"""Full-size checkpoints with random values, in files that every system here can load.

Speed does not depend on the values. CLIP's vocabulary is OpenAI's own, so that a sentence has the
tokens that it has in the real model; Qwen3's tokenizer makes a token of each byte instead, so that
511 bytes are 512 tokens. Each checkpoint is created once.
"""

from __future__ import annotations

import gzip
import json
import math
import zlib
from collections.abc import Iterator, Mapping
from importlib.metadata import files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from benchmarks.places import CACHE
from multimodal_embedding_serving.checkpoints.tokenizers import clip_bpe_from_vocab
from tests.checkpoints.files import write_safetensors
from tests.parity.small import read_layout

CLIP_TEXT = {
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "vocab_size": 49408,
    "max_position_embeddings": 77,
    "bos_token_id": 49406,
    "eos_token_id": 49407,
    "pad_token_id": 49407,
    "hidden_act": "quick_gelu",
    "projection_dim": 512,
}
CLIP_VISION = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 224,
    "patch_size": 32,
    "hidden_act": "quick_gelu",
    "projection_dim": 512,
}
CLIP_PIXELS = {
    "image_processor_type": "CLIPImageProcessor",
    "processor_class": "CLIPProcessor",
    "do_resize": True,
    "size": {"shortest_edge": 224},
    "resample": 3,
    "do_center_crop": True,
    "crop_size": {"height": 224, "width": 224},
    "do_convert_rgb": True,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
CLIP_TOKENIZER = {
    "tokenizer_class": "CLIPTokenizer",
    "model_max_length": 77,
    "bos_token": "<|startoftext|>",
    "eos_token": "<|endoftext|>",
    "unk_token": "<|endoftext|>",
    "pad_token": "<|endoftext|>",
}
QWEN = {
    "model_type": "qwen3",
    "architectures": ["Qwen3Model"],
    "vocab_size": 151669,
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "hidden_act": "silu",
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
}
QWEN_LAYERS = 28
DONE = "made"
END = "<|endoftext|>"


def clip_checkpoint() -> Path:
    """ViT-B/32 in the layout of transformers, 605 MB."""
    folder = CACHE / "clip-vit-b-32"
    if (folder / DONE).is_file():
        return folder
    print("creating a random ViT-B/32", flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {name: _draw(name, shape) for name, shape in read_layout(folder.name, "transformers")}
    write_safetensors(folder / "model.safetensors", arrays, {"format": "pt"})
    sections = {"text_config": CLIP_TEXT, "vision_config": CLIP_VISION}
    # CLIP's own configuration has no `max_length`; without it infinity 0.0.78 takes transformers'
    # default for generated text and truncates every text to 20 tokens.
    config = {"model_type": "clip", "architectures": ["CLIPModel"], "projection_dim": 512}
    config |= {"max_length": CLIP_TEXT["max_position_embeddings"]}
    _write(folder / "config.json", {**config, **sections})
    _write(folder / "preprocessor_config.json", CLIP_PIXELS)
    _write(folder / "tokenizer_config.json", CLIP_TOKENIZER)
    _write_clip_tokenizer(folder)
    # sentence-transformers reads this file first.
    module = {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.CLIPModel"}
    _write(folder / "modules.json", [module])
    (folder / DONE).touch()
    return folder


def qwen_checkpoint(layers: int = QWEN_LAYERS) -> Path:
    """Qwen3-Embedding-0.6B, or its first layers only."""
    folder = CACHE / f"qwen3-embedding-0.6b-{layers}-layers"
    if (folder / DONE).is_file():
        return folder
    print(f"creating a random Qwen3-Embedding-0.6B of {layers} layers", flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {name: _to_bf16(_draw(name, shape)) for name, shape in _qwen_layout(layers)}
    write_safetensors(folder / "model.safetensors", arrays, {"format": "pt"})
    _write(folder / "config.json", {**QWEN, "num_hidden_layers": layers})
    _byte_tokenizer().save(str(folder / "tokenizer.json"))
    tokenizer = {"tokenizer_class": "PreTrainedTokenizerFast", "padding_side": "left"}
    limits = {"model_max_length": 32768, "eos_token": END, "pad_token": END}
    _write(folder / "tokenizer_config.json", {**tokenizer, **limits})
    _write_sentence_modules(folder)
    (folder / DONE).touch()
    return folder


def _qwen_layout(layers: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    for name, shape in read_layout("qwen3-embedding-0.6b", "transformers"):
        parts = name.split(".")
        if parts[0] != "layers" or int(parts[1]) < layers:
            yield name, shape


def _draw(name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Values of about the size that trained ones have, the same in every run."""
    values = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape, np.float32)
    if "embed" in name and not name.endswith("bias"):
        return values * np.float32(0.5)
    if len(shape) < 2:
        return np.float32(name.endswith(("weight", "scale"))) + np.float32(0.2) * values
    return values * np.float32(1.2 / math.sqrt(math.prod(shape[1:])))


def _to_bf16(array: NDArray[np.float32]) -> NDArray[np.uint16]:
    return (array.view(np.uint32) >> 16).astype(np.uint16)


def _byte_tokenizer() -> Tokenizer:
    """One token per byte, with the end token appended, as in the real tokenizer."""
    words = [*sorted(pre_tokenizers.ByteLevel.alphabet()), END]
    tokenizer = Tokenizer(models.BPE({word: place for place, word in enumerate(words)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {END}", special_tokens=[(END, len(words) - 1)]
    )
    tokenizer.add_special_tokens([END])
    return tokenizer


def _write_sentence_modules(folder: Path) -> None:
    """Last-token pooling and normalization, as in the model's repository."""
    kinds = (("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize"))
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(kinds)
    ]
    _write(folder / "modules.json", modules)
    for path, _ in kinds[1:]:
        (folder / path).mkdir(exist_ok=True)
    pooling = {"word_embedding_dimension": 1024, "pooling_mode_lasttoken": True}
    others = (
        "cls_token",
        "mean_tokens",
        "max_tokens",
        "mean_sqrt_len_tokens",
        "weightedmean_tokens",
    )
    pooling |= {f"pooling_mode_{name}": False for name in others}
    _write(folder / "1_Pooling" / "config.json", {**pooling, "include_prompt": True})


def _write_clip_tokenizer(folder: Path) -> None:
    """tokenizer.json, vocab.json and merges.txt from the list that open_clip_torch ships."""
    vocabulary = next(
        each for each in files("open_clip_torch") or () if each.name.startswith("bpe_simple_vocab")
    )
    lines = gzip.decompress(Path(str(vocabulary.locate())).read_bytes()).decode().split("\n")
    merges = [line.split() for line in lines[1 : 49152 - 256 - 2 + 1]]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [*letters, *(f"{letter}</w>" for letter in letters), *map("".join, merges)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    _write(folder / "vocab.json", {word: place for place, word in enumerate(words)})
    text = "\n".join(["#version: 0.2", *map(" ".join, merges), ""])
    (folder / "merges.txt").write_text(text, "utf-8")
    tokenizer = clip_bpe_from_vocab(folder / "vocab.json", folder / "merges.txt")
    tokenizer.save(str(folder / "tokenizer.json"))


def _write(path: Path, content: Mapping[str, Any] | list[Any]) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False), "utf-8")
