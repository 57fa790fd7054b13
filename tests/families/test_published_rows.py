"""Every row of the catalog with the files that its repository publishes beside the weights.

Tensors are of true size and take no memory; tokenizers have the true special tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from multimodal_embedding_serving.bundles.bundle import TowerManifest, fingerprint
from multimodal_embedding_serving.catalog import MODELS, ModelSpec, resolve
from multimodal_embedding_serving.checkpoints.description import describe_checkpoint
from multimodal_embedding_serving.checkpoints.hub import CheckpointFiles
from multimodal_embedding_serving.checkpoints.modules import read_modules
from multimodal_embedding_serving.checkpoints.token_settings import (
    apply_options,
    read_token_settings,
)
from multimodal_embedding_serving.checkpoints.tokenizers import wordpiece_from_vocab
from multimodal_embedding_serving.errors import CheckpointError
from multimodal_embedding_serving.families import TowerSpec, find_family
from multimodal_embedding_serving.families.recognition import recognize_checkpoint
from multimodal_embedding_serving.transforms.text import TextTransform
from tests.families.hollow import hollow_weights
from tests.parity.small import Shape, read_layout
from tests.repositories import QWEN_PROMPT, TOKENIZERS, qwen_tokenizer
from tests.small_clip import write_tokenizer

Documents = Mapping[str, Any]
PROMPTS, BERT = "config_sentence_transformers.json", "sentence_bert_config.json"
TOKENS, PIXELS = "tokenizer_config.json", "preprocessor_config.json"
NO_LIMIT = 1000000000000000019884624838656
"""transformers' value of model_max_length where a tokenizer has none."""
CLIP_MEAN, CLIP_STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
BERT_TOKENS = {
    "cls_token": "[CLS]", "do_lower_case": True, "mask_token": "[MASK]", "model_max_length": 512,
    "pad_token": "[PAD]", "sep_token": "[SEP]", "strip_accents": None,
    "tokenize_chinese_chars": True, "tokenizer_class": "BertTokenizer", "unk_token": "[UNK]",
}  # fmt: skip
CLIP_TOKENS = {
    "add_prefix_space": False, "bos_token": "<|startoftext|>", "do_lower_case": True,
    "eos_token": "<|endoftext|>", "errors": "replace", "model_max_length": 77,
    "name_or_path": "openai/clip-vit-base-patch16", "pad_token": "<|endoftext|>",
    "special_tokens_map_file": "./special_tokens_map.json", "tokenizer_class": "CLIPTokenizer",
}  # fmt: skip
GEMMA_TOKENS = {
    "add_bos_token": False, "add_eos_token": True, "bos_token": "<bos>", "do_lower_case": True,
    "clean_up_tokenization_spaces": False, "eos_token": "<eos>", "model_max_length": NO_LIMIT,
    "pad_token": "<pad>", "padding_side": "right", "processor_class": "SiglipProcessor",
    "sp_model_kwargs": {}, "spaces_between_special_tokens": False,
    "tokenizer_class": "GemmaTokenizer", "unk_token": "<unk>", "use_default_system_prompt": False,
}  # fmt: skip
QWEN_TOKENS = {
    "add_bos_token": False, "add_prefix_space": False, "bos_token": None,
    "clean_up_tokenization_spaces": False, "eos_token": "<|im_end|>", "errors": "replace",
    "model_max_length": 131072, "pad_token": "<|endoftext|>", "split_special_tokens": False,
    "tokenizer_class": "Qwen2Tokenizer", "unk_token": None,
}  # fmt: skip
QWEN_MODULES = [
    {
        "idx": number,
        "name": str(number),
        "path": path,
        "type": f"sentence_transformers.models.{kind}",
    }
    for number, (path, kind) in enumerate(
        {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}.items()
    )
]
QWEN_POOLING = {
    "word_embedding_dimension": 1024, "pooling_mode_cls_token": False,
    "pooling_mode_mean_tokens": False, "pooling_mode_max_tokens": False,
    "pooling_mode_mean_sqrt_len_tokens": False, "pooling_mode_weightedmean_tokens": False,
    "pooling_mode_lasttoken": True, "include_prompt": True,
}  # fmt: skip
QWEN_PROMPTS = {
    "prompts": {"query": QWEN_PROMPT, "document": ""},
    "default_prompt_name": None,
    "similarity_fn_name": "cosine",
}
STAND_INS = {
    "mobileclip_blt": "mobileclip_b",
    "siglip2-person-description-reid": "siglip2-vit-b-16",
}
"""Rows whose tensors have the names and shapes of another's."""


def clip_pixels(side: int) -> dict[str, Any]:
    return {
        "crop_size": side, "do_center_crop": True, "do_normalize": True, "do_resize": True,
        "feature_extractor_type": "CLIPFeatureExtractor", "image_mean": CLIP_MEAN,
        "image_std": CLIP_STD, "resample": 3, "size": side,
    }  # fmt: skip


def square_pixels(side: int, **more: Any) -> dict[str, Any]:
    size = {"height": side, "width": side}
    return {"do_normalize": True, "do_rescale": True, "do_resize": True, "size": size, **more}


def published(spec: ModelSpec) -> dict[str, Any]:
    """The JSON files of a row's repository beside config.json."""
    side = spec.image_size or 0
    match spec.family:
        case "CLIP":
            return {TOKENS: CLIP_TOKENS, PIXELS: clip_pixels(side)}
        case "MobileCLIP":
            return {TOKENS: CLIP_TOKENS}
        case "CN-CLIP" | "Blip2":
            scale = {"image_mean": CLIP_MEAN, "image_std": CLIP_STD, "resample": 3}
            return {TOKENS: BERT_TOKENS, PIXELS: square_pixels(side, **scale)}
        case "SigLIP":
            scale = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 2}
            kind = {"image_processor_type": "SiglipImageProcessor", "do_convert_rgb": None}
            return {TOKENS: GEMMA_TOKENS, PIXELS: square_pixels(side, **scale, **kind)}
    return {TOKENS: QWEN_TOKENS, PROMPTS: QWEN_PROMPTS, "1_Pooling/config.json": QWEN_POOLING}


def read_tokenizer(spec: ModelSpec, folder: Path) -> str:
    match spec.family:
        case "CLIP" | "MobileCLIP":
            write_tokenizer(folder, built=True, entries=49408)
            return (folder / "tokenizer.json").read_text("utf-8")
        case "CN-CLIP" | "Blip2":
            return str(wordpiece_from_vocab(TOKENIZERS / "vocab.txt").to_str())
        case "SigLIP":
            return (TOKENIZERS / "gemma.json").read_text("utf-8")
    return str(qwen_tokenizer().to_str())


def describe_qwen(shapes: Mapping[str, Shape]) -> dict[str, Any]:
    """config.json, for tensors of these shapes."""
    inner, width = shapes["layers.0.mlp.gate_proj.weight"]
    return {
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": sum(name.endswith("q_norm.weight") for name in shapes),
        "num_attention_heads": shapes["layers.0.self_attn.q_proj.weight"][0] // 128,
        "num_key_value_heads": shapes["layers.0.self_attn.k_proj.weight"][0] // 128,
        "rope_theta": 1000000,
    }


def plan_row(spec: ModelSpec, documents: Documents, tokenizer: str) -> list[TowerSpec]:
    """The towers of a row whose repository holds these files."""
    same = STAND_INS.get(spec.name, spec.name)
    layout = "apple" if spec.family == "MobileCLIP" else "transformers"
    config = None  # the row has the sizes, but for Qwen3
    if spec.family == "QwenText":
        config = describe_qwen(dict(read_layout(same, layout)))
    modules = read_modules(QWEN_MODULES) if spec.family == "QwenText" else ()
    files = CheckpointFiles(
        weights=(), layout="transformers", config=None, tokenizer={}, repo=None, revision=None,
        modules=modules,
    )  # fmt: skip
    tokens = read_token_settings(documents)
    description = describe_checkpoint(files, documents, tokens, apply_options(tokenizer, tokens))
    family, checkpoint = recognize_checkpoint(
        hollow_weights(same, layout), config, spec, description
    )
    return list(find_family(family).plan(checkpoint))


def identify(spec: ModelSpec, towers: list[TowerSpec]) -> str:
    """The fingerprint, but for the graphs and the tokenizer."""
    manifests = {
        each.modality: TowerManifest("", dict(each.transform), structure="") for each in towers
    }
    return fingerprint(manifests, "", spec.precision)


IDENTITIES = {
    "CLIP/clip-vit-b-32": "82ca5420b6e924570339028bed1604e3",
    "CLIP/clip-vit-b-16": "710dc696a1a54c3cc190f97e0b8c4deb",
    "CLIP/clip-vit-l-14": "01b33fac2eddf21a031ae1281ffb093b",
    "CLIP/clip-vit-h-14": "01b33fac2eddf21a031ae1281ffb093b",
    "CN-CLIP/cn-clip-vit-b-16": "267046bd5cdc8e2e126e4eaae5475e93",
    "CN-CLIP/cn-clip-vit-l-14": "13e7eed3573ea2ff969bb2080230f91e",
    "CN-CLIP/cn-clip-vit-h-14": "13e7eed3573ea2ff969bb2080230f91e",
    "MobileCLIP/mobileclip_s0": "f262d55c25da6af82cadffab058a1670",
    "MobileCLIP/mobileclip_s1": "f262d55c25da6af82cadffab058a1670",
    "MobileCLIP/mobileclip_s2": "f262d55c25da6af82cadffab058a1670",
    "MobileCLIP/mobileclip_b": "aa2423361f3faf97372a1e8a930d8f7f",
    "MobileCLIP/mobileclip_blt": "aa2423361f3faf97372a1e8a930d8f7f",
    "SigLIP/siglip2-vit-b-16": "7055bc378af30d2e4bf8a9447ff8a395",
    "SigLIP/siglip2-vit-l-16": "81d26222768e9b38b5f110d5e03eaaa6",
    "SigLIP/siglip2-so400m-patch16-384": "1cb0d8a81a97f306098cf7463d0eb827",
    "SigLIP/siglip2-person-description-reid": "7055bc378af30d2e4bf8a9447ff8a395",
    "Blip2/blip2_transformers": "c51c3a3414ff0229aa31a92ecfce573a",
    "QwenText/qwen3-embedding-0.6b": "05110892f07538277bc30cd39b167987",
    "QwenText/qwen3-embedding-4b": "05110892f07538277bc30cd39b167987",
    "QwenText/qwen3-embedding-8b": "05110892f07538277bc30cd39b167987",
}
"""Before a row's own prompts and limits were read, with the files that its repository publishes."""


@pytest.mark.parametrize("spec", [each for each in MODELS if each.repos], ids=lambda each: each.id)
def test_published_files_that_agree_with_the_row_keep_its_fingerprint(
    spec: ModelSpec, tmp_path: Path
) -> None:
    towers = plan_row(spec, published(spec), read_tokenizer(spec, tmp_path))
    assert identify(spec, towers) == IDENTITIES[spec.id]


QWEN = resolve("qwen3-embedding-0.6b")


def plan_qwen(**changed: Any) -> dict[str, Any]:
    """The text's transform of the row where its repository has other files; None: lacks one."""
    files = {**published(QWEN), **{f"{name}.json": content for name, content in changed.items()}}
    documents = {name: content for name, content in files.items() if content is not None}
    (tower,) = plan_row(QWEN, documents, read_tokenizer(QWEN, Path()))
    return dict(tower.transform)


def wrap(transform: Mapping[str, Any], role: str | None) -> str:
    """What is tokenized for the text `a`."""
    read = TextTransform(qwen_tokenizer().to_str(), transform)
    return read.decode(read.prepare("a", role=role).row.tolist())  # type: ignore[arg-type]


def test_a_row_without_prompts_of_its_own_has_those_of_its_family() -> None:
    assert plan_qwen(config_sentence_transformers=None) == plan_qwen()
    assert wrap(plan_qwen(), "query") == f"{QWEN_PROMPT}a"


@pytest.mark.parametrize(
    ("prompts", "query", "document", "neither"),
    [
        ({"prompts": {"query": "q: ", "passage": "p: "}}, "q: a", "p: a", "a"),
        ({"prompts": {"query": f"{QWEN_PROMPT} "}}, f"{QWEN_PROMPT} a", "a", "a"),
        ({"prompts": {"query": "Instruct: find\nQuery:"}}, "Instruct: find\nQuery:a", "a", "a"),
        ({"prompts": {"query": "", "document": ""}}, "a", "a", "a"),
        ({"prompts": {"x": "{}: "}, "default_prompt_name": "x"}, "{}: a", "{}: a", "{}: a"),
    ],
)
def test_a_row_obeys_other_prompts_of_its_repository(
    prompts: Documents, query: str, document: str, neither: str, caplog: pytest.LogCaptureFixture
) -> None:
    transform = plan_qwen(config_sentence_transformers=prompts)
    roles = ("query", "document", None)
    assert [wrap(transform, role) for role in roles] == [query, document, neither]
    assert f"{PROMPTS}: its prompts replace those of {QWEN.id}" in caplog.text


def test_a_row_obeys_a_smaller_limit_of_its_repository() -> None:
    assert "default_length" not in plan_qwen(sentence_bert_config={"max_seq_length": 32768})
    transform = plan_qwen(sentence_bert_config={"max_seq_length": 512})
    assert (transform["default_length"], transform["max_length"]) == (512, 32768)
    tokens = {**QWEN_TOKENS, "model_max_length": 4096}
    assert plan_qwen(tokenizer_config=tokens)["default_length"] == 4096


@pytest.mark.parametrize(
    ("file", "key", "limit"),
    [(TOKENS, "model_max_length", 32), (BERT, "max_seq_length", 63)],
)
def test_a_row_whose_texts_have_one_length_rejects_a_smaller_limit(
    file: str, key: str, limit: int, tmp_path: Path
) -> None:
    spec = resolve("siglip2-vit-b-16")
    documents = published(spec)
    documents[file] = {**documents.get(file, {}), key: limit}
    with pytest.raises(CheckpointError) as caught:
        plan_row(spec, documents, read_tokenizer(spec, tmp_path))
    assert caught.value.message.startswith(f"{file}: {key} = {limit} is less than 64; ")
