"""LoRA adapters beside the weights (Hu et al. 2021, arXiv 2106.09685), merged as peft does it.

transformers applies an adapter that lies in a model's folder; without it the vectors are the base
model's. W + scale * B A, in float32; the scale is lora_alpha / r, or lora_alpha / sqrt(r).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from multimodal_embedding_serving.checkpoints.hub import CheckpointFiles
from multimodal_embedding_serving.checkpoints.keys import KeyRules, check_keys, split, unsupported
from multimodal_embedding_serving.checkpoints.selection import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from multimodal_embedding_serving.checkpoints.shards import read_weights
from multimodal_embedding_serving.checkpoints.weights import StoredTensor, Weights, quote
from multimodal_embedding_serving.errors import CheckpointError

PREFIX, DOWN, UP = "base_model.model.", ".lora_A.weight", ".lora_B.weight"
RULES = KeyRules(
    obeyed=split("r lora_alpha use_rslora"),
    harmless=split(
        "target_modules task_type base_model_name_or_path inference_mode lora_dropout revision",
        "auto_mapping peft_version init_lora_weights runtime_config ephemeral_gpu_offload",
        "megatron_core layers_pattern layers_to_transform exclude_modules qalora_group_size",
        "loftq_config corda_config eva_config lora_ga_config ensure_weight_tying velora_config",
    ),
    fixed={
        "peft_type": ("LORA",),
        "bias": ("none",),
        "rank_pattern": ({}, None),
        "alpha_pattern": ({}, None),
        **dict.fromkeys(
            split("fan_in_fan_out use_dora lora_bias use_qalora use_bdlora"), (False, None)
        ),
        **dict.fromkeys(
            split(
                "modules_to_save layer_replication trainable_token_indices target_parameters",
                "alora_invocation_tokens megatron_config arrow_config kasa_config",
                "monteclora_config",
            ),
            (None, []),
        ),
    },
)
"""peft's LoraConfig."""


def merge_adapter(
    weights: Weights, files: CheckpointFiles, documents: Mapping[str, Any]
) -> Weights:
    """The weights with the adapter of their folder; unchanged where there is none.

    Raises CheckpointError naming the key, the tensor or the file that is not supported.
    """
    paths = [path for name, path in files.parts.items() if name.endswith(ADAPTER_WEIGHTS)]
    if not paths and ADAPTER_CONFIG not in documents:
        return weights
    if not paths:
        raise CheckpointError(f"{ADAPTER_CONFIG} is beside the weights, but no {ADAPTER_WEIGHTS}")
    if ADAPTER_CONFIG not in documents:
        raise CheckpointError(f"{ADAPTER_WEIGHTS} is beside the weights, but no {ADAPTER_CONFIG}")
    config = documents[ADAPTER_CONFIG]
    check_keys(config, RULES, ADAPTER_CONFIG)
    adapter, scale = read_weights(paths), _read_scale(config)
    merged, rest = dict(weights), set(adapter)
    for name in adapter:
        if name.endswith(DOWN):
            stem = name.removesuffix(DOWN)
            target = _find_target(stem, weights)
            merged[target] = _merge(weights[target], adapter[name], adapter[stem + UP], scale)
            rest -= {name, stem + UP}
    if rest:
        raise CheckpointError(
            f"{ADAPTER_WEIGHTS}: tensor {quote(min(rest))} is not one of a LoRA adapter's; merge "
            "the adapter with peft (merge_and_unload) and save the model"
        )
    return Weights(merged, file=weights.file, metadata=weights.metadata)


def _read_scale(config: Mapping[str, Any]) -> float:
    rank, alpha = config.get("r", 8), config.get("lora_alpha", 8)
    if type(rank) is not int or rank < 1:
        raise unsupported(ADAPTER_CONFIG, "r", rank)
    if type(alpha) not in (int, float):
        raise unsupported(ADAPTER_CONFIG, "lora_alpha", alpha)
    return float(alpha) / float(rank**0.5 if config.get("use_rslora") else rank)


def _find_target(stem: str, weights: Weights) -> str:
    """The matrix that a pair of an adapter changes, whatever prefix its file has."""
    name = stem.removeprefix(PREFIX) + ".weight"
    for target in (name, f"model.{name}", name.removeprefix("model.")):
        if target in weights:
            return target
    raise CheckpointError(f"{ADAPTER_WEIGHTS}: tensor {quote(stem + DOWN)} has no matrix to change")


def _merge(base: StoredTensor, down: StoredTensor, up: StoredTensor, scale: float) -> StoredTensor:
    if base.data.ndim != 2 or base.shape != (up.shape[0], down.shape[-1]):
        raise CheckpointError(
            f"{ADAPTER_WEIGHTS}: tensor {quote(down.name)} does not fit {quote(base.name)}"
        )
    data = base.float32() + scale * (up.float32() @ down.float32())
    return replace(base, dtype="F32", data=data)
