"""The forms in which checkpoints are published, each held to the library that wrote it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from multimodal_embedding_serving.catalog import resolve
from multimodal_embedding_serving.checkpoints.sources import HubAccess
from multimodal_embedding_serving.checkpoints.weights import StoredTensor, Weights
from multimodal_embedding_serving.conversion.blueprint import Blueprint, read_blueprint
from multimodal_embedding_serving.conversion.resolve import resolve_model
from multimodal_embedding_serving.errors import CheckpointError, InvalidInput
from multimodal_embedding_serving.families import TowerSpec, find_family
from multimodal_embedding_serving.families.recognition import recognize_checkpoint
from multimodal_embedding_serving.settings import Settings
from multimodal_embedding_serving.transforms.text import TextTransform
from multimodal_embedding_serving.types import Row
from tests.families.forms import Tested
from tests.families.test_other_checkpoints import save
from tests.hub_standin import HubStandIn
from tests.lazy import lazy
from tests.parity.small import pictures, small_arrays, small_config, texts
from tests.parity.test_golden import golden
from tests.parity.towers import compile_plan, cosine
from tests.small_clip import repository, write_clip

torch = lazy("torch")
transformers = lazy("transformers")

MIN_COSINE = 0.99999
WORDS = ("ab", "a b c", "cab")
LETTERS = ("<pad>", "</s>", "a", "b", "c", "▁")


def open_folder(folder: Path, *accept: str) -> Blueprint:
    settings = Settings(model=str(folder), models_dir=folder.parent, accept_keys=accept)
    return read_blueprint(resolve_model(settings))


def text_tower(blueprint: Blueprint) -> TowerSpec:
    return next(plan for plan in blueprint.plans if plan.modality == "text")


def text_vectors(blueprint: Blueprint, path: Path, *, role: Any = None) -> Any:
    assert blueprint.tokenizer is not None
    tower = text_tower(blueprint)
    transform = TextTransform(blueprint.tokenizer, tower.transform)
    rows = [each.row for each in transform.prepare_many(WORDS, role=role)]
    return compile_plan(tower, path)(rows)


def least_cosine(found: Any, expected: Any) -> float:
    """Also checked: the figures of docs/models.md have this limit."""
    least = cosine(found, np.asarray(expected))
    assert least >= MIN_COSINE
    return least


def message_of(folder: Path) -> str:
    """What opening the folder is rejected with."""
    with pytest.raises(CheckpointError) as caught:
        open_folder(folder)
    return caught.value.message


def write_json(path: Path, content: object) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content))


def letters(*, end: str | None = "</s>", extra: tuple[str, ...] = ()) -> Tokenizer:
    ids = {each: number for number, each in enumerate((*LETTERS, *extra))}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="a"))  # noqa: S106
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    if end is not None:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"$A {end}", special_tokens=[(end, ids[end])]
        )
    return tokenizer


# ── Qwen3, as sentence-transformers publishes it ──


def write_qwen(folder: Path, *, end: str | None = "</s>") -> Any:
    sizes = {"hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2, "head_dim": 16}
    heads = {"num_attention_heads": 3, "num_key_value_heads": 1, "vocab_size": len(LETTERS)}
    model = transformers.Qwen3Model(transformers.Qwen3Config(**sizes, **heads)).eval()
    folder.mkdir()
    save(folder, model)
    letters(end=end).save(str(folder / "tokenizer.json"))
    return model


def hidden(model: Any, text: str, end: str | None = "</s>") -> Any:
    with torch.inference_mode():
        ids = torch.tensor([letters(end=end).encode(text).ids])
        return model(ids).last_hidden_state[0]


def write_modules(folder: Path, *kinds: str) -> None:
    names = [(f"{number}_{kind}" if number else "", kind) for number, kind in enumerate(kinds)]
    listed = [
        {"path": path, "type": f"sentence_transformers.models.{kind}"} for path, kind in names
    ]
    write_json(folder / "modules.json", listed)


@pytest.mark.parametrize(
    ("mode", "pool", "form"),
    [
        ("mean_tokens", "mean", "sentence-transformers, mean pooling"),
        ("cls_token", "first", "sentence-transformers, first-token pooling"),
    ],
)
def test_another_pooling_is_obeyed(
    mode: str, pool: str, form: str, tmp_path: Path, tested: Tested
) -> None:
    model = write_qwen(tmp_path / "m")
    write_modules(tmp_path / "m", "Transformer", "Pooling", "Normalize")
    write_json(tmp_path / "m" / "1_Pooling" / "config.json", {f"pooling_mode_{mode}": True})
    states = [hidden(model, text) for text in WORDS]
    expected = [each.mean(0) if pool == "mean" else each[0] for each in states]
    found = text_vectors(open_folder(tmp_path / "m"), tmp_path / "t-f32.xml")
    tested(form, least_cosine(found, torch.stack(expected)))


def test_dense_layers_follow_the_pooling(tmp_path: Path, tested: Tested) -> None:
    folder = tmp_path / "m"
    model = write_qwen(folder)
    write_modules(folder, "Transformer", "Pooling", "Dense", "Normalize")
    write_json(folder / "1_Pooling" / "config.json", {"pooling_mode_lasttoken": True})
    relu = {"activation_function": "torch.nn.modules.activation.ReLU", "bias": True}
    write_json(folder / "2_Dense" / "config.json", relu)
    rng = np.random.default_rng(1)
    weight, bias = (rng.standard_normal(s).astype(np.float32) for s in ((20, 48), (20,)))
    tensors = {"linear.weight": weight, "linear.bias": bias}
    save_file(tensors, folder / "2_Dense" / "model.safetensors")
    last = torch.stack([hidden(model, text)[-1] for text in WORDS]).numpy()
    blueprint = open_folder(folder)
    assert blueprint.plans[0].dimension == 20
    expected = np.maximum(last @ weight.T + bias, 0)
    found = text_vectors(blueprint, tmp_path / "t-f32.xml")
    tested("sentence-transformers, a Dense layer", least_cosine(found, expected))


@pytest.mark.parametrize(
    ("key", "form"),
    [
        ({"is_causal": False}, "attention in both directions (`is_causal: false`)"),
        (
            {"use_bidirectional_attention": True},
            "attention in both directions (`use_bidirectional_attention`)",
        ),
    ],
)
def test_attention_in_both_directions_is_obeyed(
    key: dict[str, bool], form: str, tmp_path: Path, tested: Tested
) -> None:
    """transformers reads `is_causal`; the other key is that of voyage-4-nano's own code."""
    folder = tmp_path / "m"
    write_qwen(folder)
    config = json.loads((folder / "config.json").read_text())
    write_json(folder / "config.json", {**config, "is_causal": False})
    model = transformers.Qwen3Model.from_pretrained(folder).eval()
    write_json(folder / "config.json", {**config, **key})
    expected = torch.stack([hidden(model, text)[-1] for text in WORDS]).numpy()
    tested(form, least_cosine(text_vectors(open_folder(folder), tmp_path / "t-f32.xml"), expected))


def test_a_tokenizer_that_appends_nothing_is_pooled_at_its_last_token(
    tmp_path: Path, tested: Tested
) -> None:
    model = write_qwen(tmp_path / "m", end=None)
    expected = torch.stack([hidden(model, text, None)[-1] for text in WORDS]).numpy()
    blueprint = open_folder(tmp_path / "m")
    assert not text_tower(blueprint).transform["eos_kept"]
    found = text_vectors(blueprint, tmp_path / "t-f32.xml")
    tested("no end token appended", least_cosine(found, expected))


def test_prompts_and_a_limit_of_its_own_are_obeyed(tmp_path: Path, tested: Tested) -> None:
    folder = tmp_path / "m"
    model = write_qwen(folder)
    query = "Instruct: find {it}\nQuery: "
    write_json(
        folder / "config_sentence_transformers.json",
        {"prompts": {"query": query, "document": "{b}"}},
    )
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": 16})
    transform = text_tower(open_folder(folder)).transform
    assert transform["default_instruction"] == "find {it}"
    filled = transform["prompts"]["query"].format(instruction="find {it}", text="a")
    assert filled == f"{query}a"
    assert transform["prompts"]["document"].format(text="a") == "{b}a"
    assert transform["default_length"] == 16
    read = TextTransform(letters().to_str(), transform)
    assert len(read.prepare("abc" * 20).row) == 16
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": 512})
    for role, prompt in (("query", query), ("document", "{b}")):
        expected = torch.stack([hidden(model, prompt + text)[-1] for text in WORDS])
        found = text_vectors(open_folder(folder), tmp_path / f"{role}-f32.xml", role=role)
        tested("sentence-transformers, prompts of its own", least_cosine(found, expected))


def test_an_accepted_key_is_in_the_manifest_and_the_fingerprint(
    tmp_path: Path, tested: Tested
) -> None:
    folder = tmp_path / "m"
    write_qwen(folder)
    config = json.loads((folder / "config.json").read_text())
    write_json(folder / "config.json", {**config, "logit_cap": 3})
    message = message_of(folder)
    assert "logit_cap = 3 " in message
    assert "EMBEDDING_ACCEPT_KEYS=config.json:logit_cap" in message
    tested("a key that nothing is known of", message)
    blueprint = open_folder(folder, "config.json:logit_cap")
    assert blueprint.source["accepted_keys"] == ["config.json:logit_cap"]
    assert text_tower(blueprint).transform["accepted"] == ["config.json:logit_cap"]


# ── Tokenizers ──


def siglip(folder: Path, tokenizer: Tokenizer, **settings: object) -> Any:
    sizes = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 1}
    vision = {**sizes, "num_attention_heads": 2, "image_size": 32, "patch_size": 16}
    text = {**sizes, "num_attention_heads": 2, "vocab_size": len(LETTERS), "projection_size": 24}
    text["max_position_embeddings"] = 8
    config = {"vision_config": vision, "text_config": text}
    model = transformers.SiglipModel(transformers.SiglipConfig.from_dict(config)).eval()
    folder.mkdir()
    save(folder, model)
    tokenizer.save(str(folder / "tokenizer.json"))
    write_json(folder / "tokenizer_config.json", settings)
    return model


def siglip_vectors(model: Any, texts: list[str], pad: int) -> Any:
    rows = [letters().encode(text.replace(" ", "a")).ids for text in texts]
    ids = torch.tensor([row + [pad] * (8 - len(row)) for row in rows])
    with torch.inference_mode():
        return model.get_text_features(input_ids=ids).pooler_output.numpy()


@pytest.mark.parametrize(
    ("pad", "number", "form"),
    [
        ("</s>", 1, "padded with `</s>` by its files"),
        ("<pad>", 0, "padded with `<pad>` by its files"),
        (None, 1, "no pad token named"),
    ],
)
def test_siglip_pads_with_the_token_that_its_files_name(
    pad: str | None, number: int, form: str, tmp_path: Path, tested: Tested
) -> None:
    """Where they name none, as the first SigLIP's class does: with the end token."""
    model = siglip(tmp_path / "m", letters(), **({} if pad is None else {"pad_token": pad}))
    blueprint = open_folder(tmp_path / "m")
    assert text_tower(blueprint).transform["pad_id"] == number
    found = text_vectors(blueprint, tmp_path / "t-f32.xml")
    tested(form, least_cosine(found, siglip_vectors(model, list(WORDS), number)))


def test_the_first_siglip_strips_punctuation(tmp_path: Path, tested: Tested) -> None:
    model = siglip(tmp_path / "m", letters(), tokenizer_class="SiglipTokenizer")
    blueprint = open_folder(tmp_path / "m")
    tower = text_tower(blueprint)
    read = TextTransform(letters().to_str(), tower.transform)
    rows = [read.prepare(text).row for text in ("A, b_c!", "c.")]
    expected = siglip_vectors(model, ["a bc", "c"], 1)
    found = compile_plan(tower, tmp_path / "t-f32.xml")(rows)
    tested("punctuation removed (`SiglipTokenizer`)", least_cosine(found, expected))
    siglip(tmp_path / "short", letters(), model_max_length=4)
    message = message_of(tmp_path / "short")
    assert message.startswith("tokenizer_config.json: model_max_length = 4")
    tested("fewer tokens than positions (`model_max_length`)", message)


def test_tokens_beyond_the_table_are_rejected_by_name(tmp_path: Path, tested: Tested) -> None:
    tokenizer = letters(extra=("d",))
    model = siglip(tmp_path / "m", tokenizer)
    blueprint = open_folder(tmp_path / "m")
    found = text_vectors(blueprint, tmp_path / "t-f32.xml")
    least = least_cosine(found, siglip_vectors(model, list(WORDS), 1))
    tested("a tokenizer larger than the table, other texts", least)
    read = TextTransform(tokenizer.to_str(), text_tower(blueprint).transform)
    assert read.prepare("abc").tokens == 4
    with pytest.raises(InvalidInput, match=r"the token 'd' \(id 6\)") as caught:
        read.prepare("abcd")
    tested("a text with a token beyond the table", caught.value.message)
    siglip(tmp_path / "end", letters(end="<end>", extra=("<end>",)))
    message = message_of(tmp_path / "end")
    assert "special token '<end>' has the id 6" in message
    tested("a special token beyond the table", message)
    siglip(tmp_path / "pad", letters(), pad_token="[PAD]")  # noqa: S106
    message = message_of(tmp_path / "pad")
    assert "pad_token '[PAD]' is not in tokenizer.json" in message
    tested("a pad token that the tokenizer lacks", message)


# ── Tensors under other names ──


def least_to_golden(plans: Sequence[TowerSpec], model: str, folder: Path) -> float:
    """Both towers against the vectors that the library made once, elsewhere."""
    expected = golden(model)
    rows: dict[str, list[Row]] = {
        "image": pictures(model, 4),
        "text": texts(model, *expected["lengths"]),
    }
    return min(
        least_cosine(
            compile_plan(plan, folder / f"{plan.modality}-f32.xml")(rows[plan.modality]),
            expected[f"{plan.modality}s"],
        )
        for plan in plans
    )


def test_open_clips_custom_text_has_the_vectors_of_open_clip(
    tmp_path: Path, tested: Tested
) -> None:
    folder = write_clip(tmp_path / "m", layout="open_clip")
    arrays = load_file(folder / "open_clip_model.safetensors")
    own = ("visual.", "logit_")
    named = {
        name if name.startswith(own) else f"text.{name}": each for name, each in arrays.items()
    }
    save_file(named, folder / "open_clip_model.safetensors")
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"]["custom_text"] = True
    write_json(folder / "open_clip_config.json", config)
    least = least_to_golden(open_folder(folder).plans, "clip-vit-b-32", tmp_path)
    tested("OpenCLIP, `custom_text`", least)


def test_chinese_clips_fused_matrices_have_the_vectors_of_cn_clip(
    tmp_path: Path, tested: Tested
) -> None:
    """As `convert_state_dict` of cn_clip renames them for FlashAttention."""
    row = resolve("cn-clip-vit-b-16")
    arrays = dict(small_arrays(row.name, "cn_clip"))
    fused: dict[str, Any] = {}
    for name, array in arrays.items():
        if ".attention.self.query." in name:
            parts = [arrays[name.replace("query", part)] for part in ("query", "key", "value")]
            fused[name.replace("query", "Wqkv")] = np.concatenate(parts)
        elif ".attention.self." not in name:
            target = name.replace("attention.output.dense", "attention.self.out_proj")
            fused[target.replace("in_proj_", "Wqkv.")] = array
    tensors = {name: StoredTensor(name, "F32", each.shape, each) for name, each in fused.items()}
    weights = Weights(tensors, file="clip_cn.pt")
    _, checkpoint = recognize_checkpoint(weights, small_config(row.name), None)
    least = least_to_golden(find_family("CN-CLIP").plan(checkpoint), row.name, tmp_path)
    tested("fused `Wqkv` matrices of FlashAttention", least)


# ── The hub ──


def test_a_tokenizer_may_come_from_another_repository(
    hub: HubStandIn, access: HubAccess, tmp_path: Path, tested: Tested
) -> None:
    folder = tmp_path / "m"
    model = write_qwen(folder)
    write_json(folder / "tokenizer_config.json", {"pad_token": "b"})
    names = ("tokenizer.json", "tokenizer_config.json")
    hub.add("org/base", {name: (folder / name).read_bytes() for name in names})
    (folder / "tokenizer.json").unlink()
    write_json(folder / "tokenizer_config.json", {"pad_token": "c"})
    write_modules(folder, "Transformer", "Pooling")
    files = repository(folder)
    files["1_Pooling/config.json"] = json.dumps({"pooling_mode": "mean"}).encode()
    hub.add("org/tuned", files)

    def open_hub(name: str) -> Blueprint:
        resolved = resolve_model(Settings(model=name, models_dir=tmp_path))
        return read_blueprint(resolved, access=access)

    with pytest.raises(CheckpointError, match=r"hf:org/name\?tokenizer=org/name"):
        open_hub("hf:org/tuned")
    blueprint = open_hub("hf:org/tuned?tokenizer=org/base")
    assert text_tower(blueprint).transform["pad_id"] == LETTERS.index("b")
    expected = torch.stack([hidden(model, text).mean(0) for text in WORDS])
    found = text_vectors(blueprint, tmp_path / "t-f32.xml")
    tested("tokenizer from another repository (`?tokenizer=`)", least_cosine(found, expected))
    with pytest.raises(CheckpointError, match=r"unknown option 'image'"):
        open_hub("hf:org/tuned?image=org/base")
