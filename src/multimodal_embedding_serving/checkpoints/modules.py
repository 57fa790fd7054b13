"""The modules of a sentence-transformers repository: where the weights are, and what follows them.

Source: https://www.sbert.net (modules.json, Pooling, Dense, config_sentence_transformers.json).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from multimodal_embedding_serving.checkpoints.keys import (
    KeyRules,
    check_keys,
    split,
    unsupported,
)
from multimodal_embedding_serving.checkpoints.weights import quote
from multimodal_embedding_serving.errors import CheckpointError

MODULES = "modules.json"
SENTENCE_TRANSFORMERS, SENTENCE_BERT = (
    "config_sentence_transformers.json",
    "sentence_bert_config.json",
)
POOLING_MODES = {
    "pooling_mode_lasttoken": "lasttoken",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
}
ACTIVATIONS = {
    "torch.nn.modules.linear.Identity": "identity",
    "torch.nn.modules.activation.Tanh": "tanh",
    "torch.nn.modules.activation.ReLU": "relu",
    "torch.nn.modules.activation.GELU": "gelu",
    "torch.nn.modules.activation.SiLU": "silu",
    "torch.nn.modules.activation.Sigmoid": "sigmoid",
}
FIRST = ("Transformer", "CLIPModel")
MODULE_KEYS, MODULE_NOTES = split("type path"), split("idx name kwargs")
"""Of each module of modules.json; kwargs are the names of arguments that a call may pass."""
POOLING_RULES = KeyRules(
    obeyed=frozenset([*POOLING_MODES, "pooling_mode", "include_prompt"]),
    harmless=split("word_embedding_dimension embedding_dimension"),
)
DENSE_RULES = KeyRules(
    obeyed=split("activation_function bias"),
    harmless=split("in_features out_features"),
    fixed={
        "module_input_name": ("sentence_embedding",),
        "module_output_name": ("sentence_embedding", None),
    },
)
ARGUMENTS = KeyRules(
    # How weights are loaded and computed. On the side of padding a decoder does not depend.
    harmless=split(
        "torch_dtype dtype attn_implementation device_map low_cpu_mem_usage use_safetensors",
        "trust_remote_code revision code_revision token cache_dir local_files_only use_fast",
        "padding_side backend add_pooling_layer",
    ),
    fixed={"truncation_side": ("right",)},
)
"""Arguments that sentence-transformers passes to the model, its tokenizer and its configuration."""
ARGUMENT_KEYS = split(
    "model_args tokenizer_args config_args processor_args",
    "model_kwargs tokenizer_kwargs config_kwargs processor_kwargs",
)
SENTENCE_BERT_RULES = KeyRules(
    obeyed=ARGUMENT_KEYS | {"max_seq_length"},
    fixed={
        "do_lower_case": (False,),
        "transformer_task": ("feature-extraction",),
        "module_output_name": ("token_embeddings", "sentence_embedding"),
        "unpad_inputs": (None, True, False),
    },
)
SENTENCE_TRANSFORMERS_RULES = KeyRules(
    obeyed=split("prompts default_prompt_name"),
    harmless=split("similarity_fn_name model_type"),
    fixed={"truncate_dim": (None,)},
)


@dataclass(frozen=True, slots=True)
class Module:
    """One line of modules.json."""

    kind: str
    """The class's own name: Transformer, Pooling, Dense, Normalize, CLIPModel."""
    path: str
    """Its folder; empty: the top."""


@dataclass(frozen=True, slots=True)
class Dense:
    """A linear layer after pooling; its weights lie in a folder of their own."""

    path: str
    activation: str


@dataclass(frozen=True, slots=True)
class ModuleSettings:
    """What a sentence-transformers repository adds to its first module."""

    pooling: str | None = None
    """A value of POOLING_MODES; None: the family's own."""
    dense: Sequence[Dense] = ()
    prompts: Mapping[str, str] | None = None
    """Role -> what is put before the text; "" is the role of texts that come without one."""
    max_length: int | None = None
    """max_seq_length: tokens of a text."""


def read_modules(content: object) -> Sequence[Module]:
    """modules.json -> its modules in order. Raises CheckpointError."""
    if not isinstance(content, list):
        raise CheckpointError(f"{MODULES}: must be a list of modules")
    modules = []
    for each in content:
        kind = each.get("type") if isinstance(each, Mapping) else None
        path = each.get("path", "") if isinstance(each, Mapping) else None
        if not (isinstance(kind, str) and isinstance(path, str)):
            raise CheckpointError(f"{MODULES}: every module needs a type and a path")
        check_keys(each, KeyRules(MODULE_KEYS, MODULE_NOTES), MODULES)
        path = path.strip("/")
        if ".." in path or "\\" in path or "/" in path:
            raise CheckpointError(f"{MODULES}: {quote(path)} is not a folder beside it")
        modules.append(Module(kind.rpartition(".")[2], path))
    if modules and modules[0].kind not in FIRST:
        raise CheckpointError(
            f"{MODULES}: the first module is {quote(modules[0].kind)}; supported: "
            f"{', '.join(FIRST)}"
        )
    return modules


def read_module_settings(modules: Sequence[Module], documents: Mapping[str, Any]) -> ModuleSettings:
    """Of a checkpoint's JSON files by name. Raises CheckpointError naming file, key and value."""
    pooling, dense = None, []
    for module in modules[1:]:
        file = f"{module.path}/config.json"
        if module.kind in ("Pooling", "Dense") and file not in documents:
            raise CheckpointError(
                f"{MODULES} lists {module.path} ({module.kind}), but {file} is missing"
            )
        match module.kind:
            case "Pooling":
                pooling = _read_pooling(documents[file], file)
            case "Dense":
                dense.append(_read_dense(documents[file], module.path))
            case "Normalize" | "Dropout":
                pass  # vectors have unit length anyway
            case kind:
                raise CheckpointError(f"{MODULES}: the module {quote(kind)} is not supported")
    own = documents.get(SENTENCE_TRANSFORMERS)
    bert = documents.get(SENTENCE_BERT, {})
    check_keys(bert, SENTENCE_BERT_RULES, SENTENCE_BERT)
    for key in [each for each in bert if each in ARGUMENT_KEYS]:
        if bert[key] is not None and not isinstance(bert[key], Mapping):
            raise unsupported(SENTENCE_BERT, key, bert[key], "is not an object")
        check_keys(bert[key] or {}, ARGUMENTS, SENTENCE_BERT, key)
    length = bert.get("max_seq_length")
    prompts = None if own is None else _read_prompts(own)
    return ModuleSettings(pooling, tuple(dense), prompts, length if type(length) is int else None)


def _read_pooling(table: Mapping[str, Any], file: str) -> str | None:
    check_keys(table, POOLING_RULES, file)
    if "pooling_mode" in table:
        modes = table["pooling_mode"]
        modes = [modes] if isinstance(modes, str) else modes
    else:
        modes = [mode for key, mode in POOLING_MODES.items() if table.get(key)]
    if modes in ([], None):
        modes = ["mean"]  # the class's default
    mode = modes[0] if isinstance(modes, list) and len(modes) == 1 else None
    if mode not in POOLING_MODES.values():
        names = [key for key in table if key.startswith("pooling_mode") and table[key]]
        raise unsupported(file, names[0] if names else "pooling_mode", modes)
    if table.get("include_prompt", True) is False:
        raise unsupported(file, "include_prompt", False)
    return str(mode)


def _read_dense(table: Mapping[str, Any], path: str) -> Dense:
    file = f"{path}/config.json"
    check_keys(table, DENSE_RULES, file)
    name = table.get("activation_function", "torch.nn.modules.activation.Tanh")
    if name not in ACTIVATIONS:
        raise unsupported(file, "activation_function", name)
    return Dense(path, ACTIVATIONS[name])


def _read_prompts(table: Mapping[str, Any]) -> Mapping[str, str]:
    file = SENTENCE_TRANSFORMERS
    check_keys(table, SENTENCE_TRANSFORMERS_RULES, file)
    prompts = table.get("prompts") or {}
    if not isinstance(prompts, Mapping):
        raise CheckpointError(f"{file}: prompts must be an object")
    names = {"query": ("query",), "document": ("document", "passage", "corpus")}
    roles = {
        role: next(prompts[name] for name in spellings if prompts.get(name))
        for role, spellings in names.items()
        if any(prompts.get(name) for name in spellings)
    }
    default = table.get("default_prompt_name")
    if default is not None and default not in prompts:
        raise unsupported(file, "default_prompt_name", default, "is not a name of prompts")
    if default is not None and prompts[default]:
        roles[""] = prompts[default]
        for role in ("query", "document"):  # upstream's default holds where a role has no prompt
            if role not in prompts:
                roles[role] = prompts[default]
    if not all(isinstance(each, str) for each in roles.values()):
        raise CheckpointError(f"{file}: every prompt must be a string")
    return roles
