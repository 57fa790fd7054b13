"""Full-size random checkpoints, in the hub's cache and in the form of their repositories.

Names, shapes and file formats are the real ones (tests/golden/layouts). The values are random, of
about the size that trained ones have, so that vectors differ and every part of a model matters.
Speed, memory and disk space do not depend on the values.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from huggingface_hub.file_download import repo_folder_name
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from multimodal_embedding_serving.catalog import ModelSpec
from multimodal_embedding_serving.checkpoints.configs import describe
from multimodal_embedding_serving.conversion.probe_inputs import PROBE_TEXTS
from multimodal_embedding_serving.families import find_family
from tests.checkpoints.files import join_safetensors
from tests.parity.small import Shape, read_layout
from tests.small_clip import write_tokenizer

REVISION = "0" * 40
MAX_FILE_BYTES = 5_000_000_000
"""Per file of a checkpoint; the default of transformers."""
END, END_ID = "<|endoftext|>", 151643
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
GOLDEN = Path(__file__).parent.parent / "tests" / "golden"

_TABLE = re.compile(r"latent|probe|query_tokens|pos_embed|(?<!patch_)embedding(?!s\.LayerNorm)")


@dataclass(frozen=True)
class Form:
    """The layout and file of the weights in a row's repository."""

    layout: str
    file: str


FORMS: Mapping[str, Form] = {
    "clip-vit-b-32": Form("transformers", "model.safetensors"),
    "clip-vit-b-16": Form("transformers", "pytorch_model.bin"),
    "clip-vit-l-14": Form("open_clip", "open_clip_pytorch_model.bin"),
    "clip-vit-h-14": Form("open_clip", "open_clip_pytorch_model.bin"),
    "cn-clip-vit-b-16": Form("transformers", "pytorch_model.bin"),
    "cn-clip-vit-l-14": Form("transformers", "pytorch_model.bin"),
    "cn-clip-vit-h-14": Form("cn_clip", "clip_cn_vit-h-14.pt"),
}
"""Rows whose files are neither transformers' safetensors nor Apple's `<name>.pt`."""


def find_form(spec: ModelSpec) -> Form:
    if spec.family == "MobileCLIP":
        return Form("apple", f"{spec.name}.pt")
    return FORMS.get(spec.name, Form("transformers", "model.safetensors"))


def write_repository(spec: ModelSpec, cache: Path) -> Form:
    """Write weights, configuration and tokenizer of a row where the hub's client looks for them."""
    form, folder = find_form(spec), snapshot(spec.repos[0], cache)
    layout = spec.name.replace("_blt", "_b")  # the same tensors with other weights
    shapes = dict(read_layout(layout, form.layout))
    write_weights(folder / form.file, shapes, "bf16" if spec.family == "QwenText" else "f32")
    if form.layout == "transformers":  # the others have no config.json
        (folder / "config.json").write_text(json.dumps(describe_row(spec, shapes)), "utf-8")
    write_vocabulary(spec, cache)
    return form


def snapshot(repo: str, cache: Path) -> Path:
    """Create the folder of a repository's only commit in the hub's cache."""
    home = cache / repo_folder_name(repo_id=repo, repo_type="model")
    folder = home / "snapshots" / REVISION
    folder.mkdir(parents=True, exist_ok=True)
    (home / "refs").mkdir(exist_ok=True)
    (home / "refs" / "main").write_text(REVISION)
    return folder


# ── weights ──


class Numbers:
    """Normal random numbers from a pool, read from another offset for each tensor: fast."""

    def __init__(self) -> None:
        count = 16_777_213  # a prime, so that the rows of a tensor differ
        self._pool = np.random.default_rng(7).standard_normal(count, np.float32)

    def draw(self, name: str, shape: Shape) -> Iterator[NDArray[np.float32]]:
        """A tensor's values, flat, in parts."""
        mean, spread = scale_of(name, shape)
        count, start = int(np.prod(shape)), zlib.crc32(name.encode()) % len(self._pool)
        while count > 0:
            part = self._pool[start : start + count]
            values = mean + np.float32(spread) * part
            yield np.abs(values) if name.endswith("running_var") else values
            count, start = count - len(part), 0

    def tensor(self, name: str, shape: Shape) -> torch.Tensor:
        if name.endswith("num_batches_tracked"):
            return torch.tensor(1000)
        return torch.from_numpy(np.concatenate([*self.draw(name, shape)])).reshape(shape)


def scale_of(name: str, shape: Shape) -> tuple[float, float]:
    """(mean, standard deviation) of a tensor's values."""
    if "layer_scale" in name or name.endswith("logit_scale"):
        return 0.1, 0.02
    if _TABLE.search(name):
        return 0.0, 0.5
    if len(shape) < 2:
        return (1.0 if name.endswith(("weight", "running_var")) else 0.0), 0.1
    return 0.0, float(np.prod(shape[1:])) ** -0.5


def write_weights(path: Path, shapes: Mapping[str, Shape], kind: str) -> None:
    numbers = Numbers()
    if path.suffix != ".safetensors":
        state = {name: numbers.tensor(name, shape) for name, shape in shapes.items()}
        torch.save({"state_dict": state} if path.name.startswith("clip_cn") else state, path)
        return
    width = 2 if kind == "bf16" else 4
    shards = [list(part) for part in share_out(shapes, width)]
    table: dict[str, str] = {}
    for place, names in enumerate(shards, 1):
        shard = path.with_name(f"model-{place:05}-of-{len(shards):05}.safetensors")
        shard = path if len(shards) == 1 else shard
        with shard.open("wb") as file:
            write_shard(file, {name: shapes[name] for name in names}, kind, numbers)
        table |= dict.fromkeys(names, shard.name)
    if len(shards) > 1:
        index = {"metadata": {}, "weight_map": table}
        path.with_name(f"{path.name}.index.json").write_text(json.dumps(index))


def share_out(shapes: Mapping[str, Shape], width: int) -> Iterator[list[str]]:
    """The names of the tensors in each file, as transformers shards a model."""
    names: list[str] = []
    total = 0
    for name, shape in shapes.items():
        size = width * int(np.prod(shape))
        if names and total + size > MAX_FILE_BYTES:
            yield names
            names, total = [], 0
        names.append(name)
        total += size
    yield names


def write_shard(file: BinaryIO, shapes: Mapping[str, Shape], kind: str, numbers: Numbers) -> None:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    width, end = 2 if kind == "bf16" else 4, 0
    for name, shape in shapes.items():
        begin, end = end, end + width * int(np.prod(shape))
        entry = {"dtype": kind.upper(), "shape": list(shape), "data_offsets": [begin, end]}
        header[name] = entry
    text = json.dumps(header).encode()
    padding = b" " * (-len(text) % 8)  # aligned, as the safetensors library does
    file.write(join_safetensors(text + padding))
    for name, shape in shapes.items():
        for part in numbers.draw(name, shape):
            data = part if kind == "f32" else (part.view(np.uint32) >> 16).astype(np.uint16)
            file.write(data.data)


# ── configurations ──


def describe_row(spec: ModelSpec, shapes: Mapping[str, Shape]) -> dict[str, Any] | None:
    """config.json of a row."""
    if spec.family == "QwenText":
        return qwen_config(shapes)
    model_type = find_family(spec.family).model_type
    return None if model_type is None else describe(spec.architecture, model_type)


def qwen_config(shapes: Mapping[str, Shape]) -> dict[str, Any]:
    layers = 1 + max(int(name.split(".")[1]) for name in shapes if name.startswith("layers."))
    inner, width = shapes["layers.0.mlp.gate_proj.weight"]
    (head,) = shapes["layers.0.self_attn.q_norm.weight"]
    return {
        "model_type": "qwen3",
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": shapes["layers.0.self_attn.q_proj.weight"][0] // head,
        "num_key_value_heads": shapes["layers.0.self_attn.k_proj.weight"][0] // head,
        "head_dim": head,
        "vocab_size": shapes["embed_tokens.weight"][0],
        "max_position_embeddings": 32768 if width == 1024 else 40960,
        "rope_theta": 1000000,
    }


# ── tokenizers ──


def write_vocabulary(spec: ModelSpec, cache: Path) -> None:
    """A tokenizer of the family's format and size; most of its entries are fillers."""
    folder = snapshot(spec.tokenizer_repo or spec.repos[0], cache)
    match spec.family:
        case "CLIP" | "MobileCLIP":
            write_tokenizer(folder, built=True, entries=49408)
        case "CN-CLIP" | "Blip2":
            entries = 21128 if spec.family == "CN-CLIP" else 30523
            (folder / "vocab.txt").write_text("\n".join(wordpieces(entries)), "utf-8")
        case "SigLIP":
            gemma = (GOLDEN / "tokenizers" / "gemma.json").read_text("utf-8")
            (folder / "tokenizer.json").write_text(gemma, "utf-8")
        case "QwenText":
            byte_pairs().save(str(folder / "tokenizer.json"))


def wordpieces(entries: int) -> list[str]:
    characters = sorted(
        {each for text in PROBE_TEXTS for each in text.lower() if not each.isspace()}
    )
    words = sorted({word for text in PROBE_TEXTS for word in text.lower().split()} - {*characters})
    tokens = [*SPECIAL, *characters, *words, *(f"##{each}" for each in characters)]
    return [*tokens, *(f"filler{place}" for place in range(entries - len(tokens)))]


def byte_pairs() -> Tokenizer:
    """Byte-level BPE trained on the probe texts, with fillers up to the id of END."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    letters = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=4000, initial_alphabet=letters, show_progress=False)
    bpe.train_from_iterator(PROBE_TEXTS, trainer)
    model = json.loads(bpe.to_str())["model"]
    fillers = range(len(model["vocab"]), END_ID)
    vocab = model["vocab"] | {f"filler{place}": place for place in fillers}
    tokenizer = Tokenizer(models.BPE(vocab, [(left, right) for left, right in model["merges"]]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([END])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {END}", special_tokens=[(END, END_ID)]
    )
    return tokenizer
