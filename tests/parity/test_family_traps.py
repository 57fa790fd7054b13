"""Known traps of CN-CLIP, SigLIP, MobileCLIP and QwenText that lie around the graph or in pooling.

The right way agrees with the oracle, and each wrong one, done by the oracle's own parts, does not.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from multimodal_embedding_serving.checkpoints.sources import HubAccess
from multimodal_embedding_serving.conversion.blueprint import Blueprint, fetch, read_blueprint
from multimodal_embedding_serving.conversion.resolve import resolve_model
from multimodal_embedding_serving.errors import CheckpointError
from multimodal_embedding_serving.families import TowerSpec, find_family
from multimodal_embedding_serving.settings import Settings
from multimodal_embedding_serving.transforms.text import TextTransform
from multimodal_embedding_serving.types import Row, Vectors, ignore_progress
from tests.hub_standin import HubStandIn
from tests.lazy import lazy
from tests.parity.oracles import Oracle, widen, without_gradients
from tests.parity.small import texts
from tests.parity.test_traps import RIGHT, WRONG, distance
from tests.parity.towers import compile_plan
from tests.repositories import small_checkpoint, write_repository
from tests.small_clip import repository

torch = lazy("torch")
transformers = lazy("transformers")

CN_CLIP, SIGLIP, QWEN = "cn-clip-vit-b-16", "siglip2-vit-b-16", "qwen3-embedding-0.6b"


def open_folder(folder: Path) -> Blueprint:
    return read_blueprint(resolve_model(Settings(model=str(folder), models_dir=folder / "models")))


def text_tower(blueprint: Blueprint) -> TowerSpec:
    return next(plan for plan in blueprint.plans if plan.modality == "text")


def read(blueprint: Blueprint, *words: str) -> list[Row]:
    """The rows of texts, by the checkpoint's own tokenizer and transform."""
    assert blueprint.tokenizer is not None
    transform = TextTransform(blueprint.tokenizer, text_tower(blueprint).transform)
    return [each.row for each in transform.prepare_many(words)]


# ── CN-CLIP ──


@without_gradients
def test_chinese_clip_pools_its_first_token_without_a_pooler(tmp_path: Path) -> None:
    arrays, config = small_checkpoint(CN_CLIP)
    assert config is not None
    model = Oracle(config, arrays).model
    rows: list[Row] = list(texts(CN_CLIP, 9, 9))
    places = model.text_model(torch.tensor(np.stack(rows)).long()).last_hidden_state
    first, width = places[:, 0], places.shape[-1]
    torch.manual_seed(1)
    pooler = torch.nn.Linear(width, width)
    wrong = {
        "a pooler": torch.tanh(pooler(first)),
        "the mean": places.mean(1),
        "the last token": places[:, -1],
    }
    tower = text_tower(open_folder(write_repository(tmp_path / "model", CN_CLIP)))
    found = compile_plan(tower, tmp_path / "text-f32.xml")(rows)
    assert distance(found, model.text_projection(first).numpy()) < RIGHT
    for name, pooled in wrong.items():
        assert distance(found, model.text_projection(pooled).numpy()) > WRONG, name


# ── SigLIP ──


def test_siglips_capitals_are_lowered_before_its_tokenizer_sees_them(tmp_path: Path) -> None:
    blueprint = open_folder(write_repository(tmp_path / "model", SIGLIP))
    assert blueprint.tokenizer is not None
    loud, quiet = read(blueprint, "A PHOTO OF A CAT", "a photo of a cat")
    assert np.array_equal(loud, quiet)
    spec = {**text_tower(blueprint).transform, "lowercase": False}
    kept = TextTransform(blueprint.tokenizer, spec).prepare("A PHOTO OF A CAT").row
    assert not np.array_equal(kept, quiet)


def tell(folder: Path, side: str | None, direction: str | None) -> None:
    """What the tokenizer's files say of the padding: tokenizer_config.json, tokenizer.json."""
    if side is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps({"padding_side": side}))
    if direction is not None:
        path = folder / "tokenizer.json"
        told = json.loads(path.read_text("utf-8"))
        told["padding"] = {
            "strategy": {"Fixed": 64}, "direction": direction, "pad_to_multiple_of": None,
            "pad_id": 0, "pad_type_id": 0, "pad_token": "<pad>",
        }  # fmt: skip
        path.write_text(json.dumps(told), "utf-8")


@pytest.mark.parametrize(
    ("side", "direction", "left"),
    [
        (None, None, False),
        ("right", None, False),
        ("left", None, True),
        (None, "Left", True),
        ("right", "Left", False),  # as upstream: the settings win
        ("inside", None, False),
    ],
)
def test_siglip_is_padded_on_the_right_unless_its_own_files_say_otherwise(
    side: str | None, direction: str | None, left: bool, tmp_path: Path
) -> None:
    folder = write_repository(tmp_path / "model", SIGLIP)
    tell(folder, side, direction)
    (row,) = read(open_folder(folder), "a cat")
    assert len(row) == 64
    words = np.flatnonzero(row)
    assert (words[0] > 0, words[-1] == 63) == (left, left)


# ── MobileCLIP ──


def test_b_and_b_lt_never_share_a_file(hub: HubStandIn, access: HubAccess, tmp_path: Path) -> None:
    """Their weights differ, and nothing in the tensors' names and shapes tells which is which."""
    found = {}
    for row, repo in (("mobileclip_b", "MobileCLIP-B"), ("mobileclip_blt", "MobileCLIP-B-LT")):
        hub.add(f"apple/{repo}", {"mobileclip_b.pt": row.encode(), "README.md": b"the same name"})
        wanted = resolve_model(Settings(model=row, models_dir=tmp_path))
        (path,) = fetch(wanted, ignore_progress, access).weights
        assert path.read_bytes() == row.encode()
        found[wanted.model_dir] = path
    assert len(found) == len(set(found.values())) == 2
    assert {model_dir.name for model_dir in found} == {"mobileclip_b", "mobileclip_blt"}


def test_apples_licence_is_told_before_the_download(
    hub: HubStandIn, access: HubAccess, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "multimodal_embedding_serving")
    seen: list[int] = []

    def progress(what: str, share: float) -> None:
        seen.append(sum("apple-amlr" in each.getMessage() for each in caplog.records))

    files = repository(write_repository(tmp_path / "model", "mobileclip_b"))
    hub.add("apple/MobileCLIP-B-LT", files)
    wanted = resolve_model(Settings(model="mobileclip_blt", models_dir=tmp_path))
    with pytest.raises(CheckpointError, match="is not that of MobileCLIP/mobileclip_blt"):  # small
        read_blueprint(wanted, progress, access)
    assert seen[0] == 1
    told = next(each.getMessage() for each in caplog.records if "apple-amlr" in each.getMessage())
    assert "apple/MobileCLIP-B-LT" in told


# ── QwenText ──


@pytest.fixture(scope="module")
def padded_by_transformers() -> Callable[[list[Row], str], Vectors]:
    """The oracle's vectors of a batch, padded on either side, with its mask and its positions."""
    arrays, config = small_checkpoint(QWEN)
    model: Any = transformers.Qwen3Model(transformers.Qwen3Config.from_dict(config or {}))
    model.load_state_dict({name: torch.tensor(widen(array)) for name, array in arrays.items()})

    @without_gradients
    def ask(rows: list[Row], side: str) -> Vectors:
        longest = max(map(len, rows))
        ids, mask = (np.zeros((len(rows), longest), np.int64) for _ in range(2))
        for place, row in enumerate(rows):
            where = slice(0, len(row)) if side == "right" else slice(longest - len(row), longest)
            ids[place, where], mask[place, where] = row, 1
        positions = torch.tensor(np.maximum(mask.cumsum(1) - 1, 0))
        seen = torch.tensor(mask)
        states = model(torch.tensor(ids), attention_mask=seen, position_ids=positions)
        last = [max(np.flatnonzero(each)) for each in mask]
        found = states.last_hidden_state[torch.arange(len(rows)), torch.tensor(last)]
        return np.asarray(found.numpy())

    return ask


def test_qwens_vectors_do_not_depend_on_the_side_of_the_padding(
    padded_by_transformers: Callable[[list[Row], str], Vectors], tmp_path: Path
) -> None:
    blueprint = open_folder(write_repository(tmp_path / "model", QWEN))
    rows = read(blueprint, "rain", "What is rain made of, and where does it go?", "snow")
    found = compile_plan(text_tower(blueprint), tmp_path / "text-f32.xml")(rows)
    for side in ("right", "left"):
        assert distance(found, padded_by_transformers(rows, side)) < RIGHT, side


def test_qwens_prompt_has_a_newline_and_no_space_behind_query(tmp_path: Path) -> None:
    """As the repository's files have it, and as the rows of the catalog do."""
    blueprint = open_folder(write_repository(tmp_path / "model", QWEN))
    assert blueprint.tokenizer is not None
    transform = TextTransform(blueprint.tokenizer, text_tower(blueprint).transform)
    task = "Given a web search query, retrieve relevant passages that answer the query"
    (expected,) = read(blueprint, f"Instruct: {task}\nQuery:rain")
    assert np.array_equal(transform.prepare("rain", role="query").row, expected)
    assert transform.decode(expected.tolist()).endswith("\nQuery:rain")
    family = find_family("QwenText")
    filled = family.prompts["query"].format(instruction=family.instruction, text="rain")
    assert np.array_equal(read(blueprint, filled)[0], expected)
    for wrong in (f"Instruct: {task}\\nQuery:rain", f"Instruct: {task}\nQuery: rain"):
        assert not np.array_equal(read(blueprint, wrong)[0], expected)
