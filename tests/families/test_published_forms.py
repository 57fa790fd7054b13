"""The forms in which checkpoints are published, each held to the library that wrote it."""

from __future__ import annotations

import json
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
from tests.families.test_other_checkpoints import save
from tests.hub_standin import HubStandIn
from tests.lazy import lazy
from tests.parity.small import small_arrays, small_config
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


@pytest.mark.parametrize(("mode", "pool"), [("mean_tokens", "mean"), ("cls_token", "first")])
def test_another_pooling_is_obeyed(mode: str, pool: str, tmp_path: Path) -> None:
    model = write_qwen(tmp_path / "m")
    write_modules(tmp_path / "m", "Transformer", "Pooling", "Normalize")
    write_json(tmp_path / "m" / "1_Pooling" / "config.json", {f"pooling_mode_{mode}": True})
    states = [hidden(model, text) for text in WORDS]
    expected = [each.mean(0) if pool == "mean" else each[0] for each in states]
    found = text_vectors(open_folder(tmp_path / "m"), tmp_path / "t-f32.xml")
    assert cosine(found, torch.stack(expected).numpy()) >= MIN_COSINE


def test_dense_layers_follow_the_pooling(tmp_path: Path) -> None:
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
    assert cosine(text_vectors(blueprint, tmp_path / "t-f32.xml"), expected) >= MIN_COSINE


def test_a_lora_adapter_is_merged_as_it_is_applied(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    model = write_qwen(folder)
    rng = np.random.default_rng(2)
    tensors: dict[str, Any] = {}
    for layer, block in enumerate(model.layers):
        down, up = (rng.standard_normal(s).astype(np.float32) / 4 for s in ((4, 48), (48, 4)))
        name = f"base_model.model.layers.{layer}.self_attn.o_proj"
        tensors |= {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}
        with torch.no_grad():
            block.self_attn.o_proj.weight += 3 * torch.tensor(up @ down)
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 6, "use_rslora": True, "bias": "none"}
    write_json(folder / "adapter_config.json", config)
    expected = torch.stack([hidden(model, text)[-1] for text in WORDS]).numpy()
    found = text_vectors(open_folder(folder), tmp_path / "t-f32.xml")
    assert cosine(found, expected) >= MIN_COSINE
    write_json(folder / "adapter_config.json", {**config, "use_dora": True})
    with pytest.raises(CheckpointError, match=r"^adapter_config\.json: use_dora = True"):
        open_folder(folder)


def test_a_tokenizer_that_appends_nothing_is_pooled_at_its_last_token(tmp_path: Path) -> None:
    model = write_qwen(tmp_path / "m", end=None)
    expected = torch.stack([hidden(model, text, None)[-1] for text in WORDS]).numpy()
    blueprint = open_folder(tmp_path / "m")
    assert not text_tower(blueprint).transform["eos_kept"]
    assert cosine(text_vectors(blueprint, tmp_path / "t-f32.xml"), expected) >= MIN_COSINE


def test_prompts_and_a_limit_of_its_own_are_obeyed(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    write_qwen(folder)
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


def test_an_accepted_key_is_in_the_manifest_and_the_fingerprint(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    write_qwen(folder)
    config = json.loads((folder / "config.json").read_text())
    write_json(folder / "config.json", {**config, "logit_cap": 3})
    with pytest.raises(
        CheckpointError, match=r"logit_cap = 3 .* EMBEDDING_ACCEPT_KEYS=config\.json:l"
    ):
        open_folder(folder)
    blueprint = open_folder(folder, "config.json:logit_cap")
    assert blueprint.source["accepted_keys"] == ["config.json:logit_cap"]
    assert text_tower(blueprint).transform["accepted"] == ["config.json:logit_cap"]


# ── Files of other kinds, and several checkpoints in one place ──


def test_a_foreign_file_beside_a_checkpoint_is_passed_over(tmp_path: Path) -> None:
    folder = write_clip(tmp_path / "m")
    (folder / "model.safetensors").rename(folder / "pytorch_model.safetensors")
    save_file({"conv1.weight": np.zeros((8, 3, 7, 7), np.float32)}, folder / "model.safetensors")
    assert open_folder(folder).family == "CLIP"


def test_integer_weights_are_refused_by_tensor_and_type(tmp_path: Path) -> None:
    folder = write_clip(tmp_path / "m")
    arrays = load_file(folder / "model.safetensors")
    name = "text_model.encoder.layers.0.mlp.fc1.weight"
    arrays[name] = arrays[name].astype(np.int8)
    save_file(arrays, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"model\.safetensors: tensor .*fc1.* \(I8\)"):
        open_folder(folder)


def test_an_lfs_pointer_is_recognized(tmp_path: Path) -> None:
    folder = write_clip(tmp_path / "m")
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(CheckpointError, match=r"model\.safetensors: a Git LFS pointer"):
        open_folder(folder)


def test_a_sentencepiece_tokenizer_says_which_file_is_needed(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    write_qwen(folder)
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.model").write_bytes(b"\n")
    with pytest.raises(
        CheckpointError, match=r"tokenizer\.model .*tokenizer\.json is needed.*save_p"
    ):
        open_folder(folder)


def test_a_nested_clip_of_sentence_transformers_is_found(tmp_path: Path) -> None:
    write_clip(tmp_path / "m" / "0_CLIPModel")
    listed = [{"path": "0_CLIPModel", "type": "sentence_transformers.models.CLIPModel"}]
    write_json(tmp_path / "m" / "modules.json", listed)
    assert open_folder(tmp_path / "m").family == "CLIP"


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


@pytest.mark.parametrize(("pad", "number"), [("</s>", 1), ("<pad>", 0), (None, 1)])
def test_siglip_pads_with_the_token_that_its_files_name(
    pad: str | None, number: int, tmp_path: Path
) -> None:
    """Where they name none, as the first SigLIP's class does: with the end token."""
    model = siglip(tmp_path / "m", letters(), **({} if pad is None else {"pad_token": pad}))
    blueprint = open_folder(tmp_path / "m")
    assert text_tower(blueprint).transform["pad_id"] == number
    rows = [letters().encode(text.replace(" ", "a")).ids for text in WORDS]
    ids = torch.tensor([row + [number] * (8 - len(row)) for row in rows])
    with torch.inference_mode():
        expected = model.get_text_features(input_ids=ids).pooler_output.numpy()
    assert cosine(text_vectors(blueprint, tmp_path / "t-f32.xml"), expected) >= MIN_COSINE


def test_the_first_siglip_strips_punctuation(tmp_path: Path) -> None:
    siglip(tmp_path / "m", letters(), tokenizer_class="SiglipTokenizer")
    blueprint = open_folder(tmp_path / "m")
    read = TextTransform(letters().to_str(), text_tower(blueprint).transform)
    assert read.prepare("A, b_c!").row.tolist() == read.prepare("a bc").row.tolist()
    siglip(tmp_path / "short", letters(), model_max_length=4)
    with pytest.raises(CheckpointError, match=r"^tokenizer_config\.json: model_max_length = 4"):
        open_folder(tmp_path / "short")


def test_tokens_beyond_the_table_are_rejected_by_name(tmp_path: Path) -> None:
    tokenizer = letters(extra=("d",))
    siglip(tmp_path / "m", tokenizer)
    read = TextTransform(tokenizer.to_str(), text_tower(open_folder(tmp_path / "m")).transform)
    assert read.prepare("abc").tokens == 4
    with pytest.raises(InvalidInput, match=r"the token 'd' \(id 6\)"):
        read.prepare("abcd")
    siglip(tmp_path / "end", letters(end="<end>", extra=("<end>",)))
    with pytest.raises(CheckpointError, match=r"special token '<end>' has the id 6.* 6 rows"):
        open_folder(tmp_path / "end")
    siglip(tmp_path / "pad", letters(), pad_token="[PAD]")  # noqa: S106
    with pytest.raises(CheckpointError, match=r"pad_token '\[PAD\]' is not in tokenizer\.json"):
        open_folder(tmp_path / "pad")


# ── Tensors under other names ──


def image_rows(tower: TowerSpec) -> list[Any]:
    side = tower.inputs["pixels"] or 0
    noise = np.random.RandomState(4).randint(0, 256, (2, side, side, 3))
    return list(noise.astype(np.uint8))


def same_vectors(first: Blueprint, second: Blueprint, folder: Path) -> None:
    for number, (one, other) in enumerate(zip(first.plans, second.plans, strict=True)):
        rows: list[Any] = [np.array([3, 5, 7], np.int32)]
        rows = image_rows(one) if one.modality == "image" else rows
        found = [
            compile_plan(plan, folder / f"{number}{name}-f32.xml")(rows)
            for name, plan in (("a", one), ("b", other))
        ]
        assert cosine(found[1], found[0]) >= MIN_COSINE


def test_open_clips_custom_text_has_the_same_vectors(tmp_path: Path) -> None:
    plain = write_clip(tmp_path / "plain", layout="open_clip")
    custom = write_clip(tmp_path / "custom", layout="open_clip")
    arrays = load_file(custom / "open_clip_model.safetensors")
    own = ("visual.", "logit_")
    named = {
        name if name.startswith(own) else f"text.{name}": each for name, each in arrays.items()
    }
    save_file(named, custom / "open_clip_model.safetensors")
    config = json.loads((custom / "open_clip_config.json").read_text())
    config["model_cfg"]["custom_text"] = True
    write_json(custom / "open_clip_config.json", config)
    same_vectors(open_folder(plain), open_folder(custom), tmp_path)


def test_chinese_clips_fused_matrices_have_the_same_vectors(tmp_path: Path) -> None:
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
    config = small_config(row.name)
    towers = []
    for each in (arrays, fused):
        tensors = {
            name: StoredTensor(name, "F32", array.shape, array) for name, array in each.items()
        }
        _, checkpoint = recognize_checkpoint(Weights(tensors, file="clip_cn.pt"), config, None)
        towers.append(find_family("CN-CLIP").plan(checkpoint))
    for plans in zip(*towers, strict=True):
        rows: list[Any] = [np.array([2, 5, 3], np.int32)]
        rows = image_rows(plans[0]) if plans[0].modality == "image" else rows
        found = [
            compile_plan(plan, tmp_path / f"{plan.modality}{number}-f32.xml")(rows)
            for number, plan in enumerate(plans)
        ]
        assert cosine(found[1], found[0]) >= MIN_COSINE


def test_the_files_decide_how_images_are_resized(tmp_path: Path) -> None:
    folder = write_clip(tmp_path / "m")
    side = open_folder(folder).plans[0].inputs["pixels"] or 0
    square = {"height": side, "width": side}
    processor = {"size": square, "do_center_crop": False, "resample": 2}
    write_json(folder / "processor_config.json", {"image_processor": processor})
    transform = open_folder(folder).plans[0].transform
    assert (transform["resize"], transform["resample"]) == ("squash", "bilinear")
    write_json(folder / "processor_config.json", {"image_processor": {"size": side + 16}})
    with pytest.raises(CheckpointError, match=rf"size = {side + 16} differs from .* {side}"):
        open_folder(folder)


# ── The hub ──


def test_a_tokenizer_may_come_from_another_repository(
    hub: HubStandIn, access: HubAccess, tmp_path: Path
) -> None:
    folder = tmp_path / "m"
    write_qwen(folder)
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
    with pytest.raises(CheckpointError, match=r"unknown option 'image'"):
        open_hub("hf:org/tuned?image=org/base")
