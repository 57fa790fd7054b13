"""CLIP checkpoints as repositories hold them: weights, stripped configurations, tokenizers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from multimodal_embedding_serving.checkpoints.tokenizers import clip_bpe_from_vocab
from tests.hub_standin import Content
from tests.parity.small import ENTRIES, small_arrays, small_config
from tests.parity.test_golden import open_clip_config
from tests.parity.towers import strip, write_checkpoint

LETTERS = "etaoinshrdlcumwfgypbvk"


def byte_letters() -> list[str]:
    """GPT-2's letters for the 256 bytes: printable ones stand for themselves."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = (byte for byte in range(256) if byte not in plain)
    letters = {byte: chr(byte) for byte in plain}
    letters |= {byte: chr(256 + place) for place, byte in enumerate(others)}
    return [letters[byte] for byte in (*plain, *(b for b in range(256) if b not in plain))]


def clip_vocabulary(entries: int = ENTRIES) -> tuple[str, str]:
    """(vocab.json, merges.txt) of CLIP's form: pairs of letters are its only merges."""
    letters = byte_letters()
    words = [*letters, *(f"{letter}</w>" for letter in letters)]
    pairs = [(left, f"{right}</w>") for left in LETTERS for right in LETTERS]
    merges = pairs[: entries - len(words) - 2]
    words += [left + right for left, right in merges]
    words += [f"filler{place}" for place in range(entries - len(words) - 2)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = json.dumps({word: place for place, word in enumerate(words)})
    return vocabulary, "\n".join(["#version: 0.2", *map(" ".join, merges), ""])


def write_tokenizer(folder: Path, *, built: bool, entries: int = ENTRIES) -> None:
    """tokenizer.json where it is `built`, else the vocabulary that it is built from."""
    vocabulary, merges = clip_vocabulary(entries)
    (folder / "vocab.json").write_text(vocabulary, "utf-8")
    (folder / "merges.txt").write_text(merges, "utf-8")
    if built:
        tokenizer = clip_bpe_from_vocab(folder / "vocab.json", folder / "merges.txt")
        tokenizer.save(str(folder / "tokenizer.json"))
        (folder / "vocab.json").unlink()
        (folder / "merges.txt").unlink()


def write_clip(
    folder: Path,
    model: str = "clip-vit-b-32",
    layout: str = "transformers",
    *,
    built_tokenizer: bool = True,
    seed: int = 0,
) -> Path:
    """A small checkpoint of a row in a folder, with a configuration as the hub's are: stripped."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays = small_arrays(model, layout, seed=seed)
    config: dict[str, Any]
    if layout == "open_clip":
        name, config, told = "open_clip_model.safetensors", open_clip_config(model), "open_clip_"
    else:
        name, config, told = "model.safetensors", strip(small_config(model)), ""
    write_checkpoint(folder / name, arrays)
    (folder / f"{told}config.json").write_text(json.dumps(config), "utf-8")
    write_tokenizer(folder, built=built_tokenizer)
    return folder


def repository(folder: Path) -> dict[str, Content]:
    """A folder's files as the hub's stand-in publishes them."""
    return {path.name: path for path in sorted(folder.iterdir())}
