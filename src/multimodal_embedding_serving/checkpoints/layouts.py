"""How each library names one model's tensors, and how those names become transformers' own.

A layout is a table: the name in the file, the name here, and what is done to the tensor. `#` is the
number of a layer, `@` is weight and bias, `(a|b)` is each of them; `=` keeps the name, `-` drops
the tensor. `{q,k,v}` splits a fused tensor along its first axis, `flat` takes leading axes of size
1 away, `optional` is for what some layers lack. Splits and transposes are views.

A name that is in no row is an error, and so is a row without its tensors: a checkpoint with other
parts than we know computes something else, and its vectors would be wrong without any sign.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from multimodal_embedding_serving.checkpoints.weights import (
    MissingTensor,
    StoredTensor,
    Weights,
    quote,
)
from multimodal_embedding_serving.errors import CheckpointError

WRAPPER = "module."
"""What torch's data-parallel wrapper puts before every name."""


@dataclass(frozen=True, slots=True)
class Layout:
    """One way to write one architecture to a file."""

    name: str
    """The library that writes it."""
    model_type: str
    """The architecture, as transformers' config.json calls it."""
    marks: tuple[str, ...]
    """Tensors that together no other layout has."""
    rows: str


CLIP_VISION = """
vision_model.embeddings.position_ids                              -
vision_model.embeddings.class_embedding                           =
vision_model.embeddings.(patch|position)_embedding.weight         =
vision_model.(pre_layrnorm|post_layernorm).@                      =
vision_model.encoder.layers.#.self_attn.(q|k|v|out)_proj.@        =
vision_model.encoder.layers.#.(layer_norm1|layer_norm2|mlp.fc1|mlp.fc2).@  =
visual_projection.weight                                          =
"""

CLIP_TEXT = """
text_model.embeddings.position_ids                                -
text_model.embeddings.(token|position)_embedding.weight           =
text_model.encoder.layers.#.self_attn.(q|k|v|out)_proj.@          =
text_model.encoder.layers.#.(layer_norm1|layer_norm2|mlp.fc1|mlp.fc2).@    =
text_model.final_layer_norm.@                                     =
"""

BERT_EMBEDDINGS = "embeddings.(word|position|token_type)_embeddings.weight"
BERT_LAYER = (
    "(attention.self.query|attention.self.key|attention.self.value|attention.output.dense"
    "|attention.output.LayerNorm|intermediate.dense|output.dense|output.LayerNorm).@"
)
BERT_LAYERS = "text_model.encoder.layer.#"
BERT_SELF = f"{BERT_LAYERS}.attention.self"
BERT_REST = "(attention.output.LayerNorm|intermediate.dense|output.dense|output.LayerNorm).@"

VISION_LAYER = "vision_model.encoder.layers.#"
POSITIONS = "vision_model.embeddings.position_embedding"
QKV = "self_attn.{q,k,v}_proj.@"

OPEN_CLIP_BLOCK = """
FROM.#.attn.in_proj_@         TO.#.self_attn.{q,k,v}_proj.@
FROM.#.attn.out_proj.@        TO.#.self_attn.out_proj.@
FROM.#.(ln_1|ln_2).@          TO.#.(layer_norm1|layer_norm2).@
FROM.#.mlp.(c_fc|c_proj).@    TO.#.mlp.(fc1|fc2).@
"""


def _open_clip_blocks(source: str, target: str) -> str:
    return OPEN_CLIP_BLOCK.replace("FROM", source).replace("TO", target)


def _open_clip_text(prefix: str) -> str:
    return f"""
{prefix}attn_mask                  -
{prefix}token_embedding.weight     text_model.embeddings.token_embedding.weight
{prefix}positional_embedding       text_model.embeddings.position_embedding.weight
{prefix}ln_final.@                 text_model.final_layer_norm.@
""" + _open_clip_blocks(f"{prefix}transformer.resblocks", "text_model.encoder.layers")


OPEN_CLIP_VISION = """
visual.class_embedding         vision_model.embeddings.class_embedding
visual.conv1.weight            vision_model.embeddings.patch_embedding.weight
visual.positional_embedding    vision_model.embeddings.position_embedding.weight
visual.(ln_pre|ln_post).@      vision_model.(pre_layrnorm|post_layernorm).@
visual.proj                    visual_projection.weight   transposed
""" + _open_clip_blocks("visual.transformer.resblocks", "vision_model.encoder.layers")

LEARNED_SCALARS = "(logit_scale|logit_bias)   -\n"

LAYOUTS: Sequence[Layout] = (
    Layout(
        "transformers",
        "clip",
        ("vision_model.pre_layrnorm.weight", "text_model.embeddings.token_embedding.weight"),
        LEARNED_SCALARS + CLIP_VISION + CLIP_TEXT + "text_projection.weight =",
    ),
    Layout(
        "open_clip",
        "clip",
        ("visual.conv1.weight", "token_embedding.weight"),
        LEARNED_SCALARS
        + OPEN_CLIP_VISION
        + _open_clip_text("")
        + "text_projection   text_projection.weight   transposed\n"
        + "(input_resolution|context_length|vocab_size)  -",
    ),
    Layout(  # custom_text: the text tower is a module of its own
        "open_clip",
        "clip",
        ("visual.conv1.weight", "text.token_embedding.weight"),
        LEARNED_SCALARS
        + OPEN_CLIP_VISION
        + _open_clip_text("text.")
        + "text.text_projection   text_projection.weight   transposed\n",
    ),
    Layout(
        "transformers",
        "chinese_clip",
        ("vision_model.pre_layrnorm.weight", "text_model.embeddings.word_embeddings.weight"),
        LEARNED_SCALARS
        + CLIP_VISION
        + f"""
        text_model.embeddings.position_ids         -
        text_model.{BERT_EMBEDDINGS}               =
        text_model.embeddings.LayerNorm.@          =
        text_model.encoder.layer.#.{BERT_LAYER}    =
        text_projection.weight                     =
        """,
    ),
    Layout(  # as its FlashAttention modules name the fused matrices
        "cn_clip",
        "chinese_clip",
        (
            "visual.transformer.resblocks.0.attn.Wqkv.weight",
            "bert.encoder.layer.0.attention.self.Wqkv.weight",
        ),
        LEARNED_SCALARS
        + OPEN_CLIP_VISION.replace("in_proj_@", "Wqkv.@")
        + f"""
        bert.pooler.dense.@                          -
        bert.embeddings.position_ids                 -
        bert.{BERT_EMBEDDINGS}                       text_model.{BERT_EMBEDDINGS}
        bert.embeddings.LayerNorm.@                  text_model.embeddings.LayerNorm.@
        bert.encoder.layer.#.attention.self.Wqkv.@   {BERT_SELF}.{{query,key,value}}.@
        bert.encoder.layer.#.attention.self.out_proj.@   {BERT_LAYERS}.attention.output.dense.@
        bert.encoder.layer.#.{BERT_REST}             text_model.encoder.layer.#.{BERT_REST}
        text_projection                              text_projection.weight    transposed
        """,
    ),
    Layout(
        "cn_clip",
        "chinese_clip",
        ("visual.conv1.weight", "bert.embeddings.word_embeddings.weight"),
        LEARNED_SCALARS
        + OPEN_CLIP_VISION
        + f"""
        bert.pooler.dense.@                  -
        bert.embeddings.position_ids         -
        bert.{BERT_EMBEDDINGS}               text_model.{BERT_EMBEDDINGS}
        bert.embeddings.LayerNorm.@          text_model.embeddings.LayerNorm.@
        bert.encoder.layer.#.{BERT_LAYER}    text_model.encoder.layer.#.{BERT_LAYER}
        text_projection                      text_projection.weight    transposed
        """,
    ),
    Layout(
        "transformers",
        "siglip",
        ("vision_model.head.probe", "text_model.head.weight"),
        LEARNED_SCALARS
        + CLIP_TEXT
        + """
        text_model.head.@                                             =
        vision_model.embeddings.position_ids                          -
        vision_model.embeddings.patch_embedding.@                     =
        vision_model.embeddings.position_embedding.weight             =
        vision_model.encoder.layers.#.self_attn.(q|k|v|out)_proj.@    =
        vision_model.encoder.layers.#.(layer_norm1|layer_norm2|mlp.fc1|mlp.fc2).@   =
        vision_model.post_layernorm.@                                 =
        vision_model.head.probe                                       =   flat
        vision_model.head.attention.in_proj_@     vision_model.head.attention.{q,k,v}_proj.@
        vision_model.head.(attention.out_proj|layernorm|mlp.fc1|mlp.fc2).@   =
        """,
    ),
    Layout(
        "open_clip",
        "siglip",
        ("visual.trunk.attn_pool.latent", "text.text_projection.weight"),
        LEARNED_SCALARS
        + _open_clip_text("text.")
        + f"""
        text.text_projection.@                    text_model.head.@
        visual.trunk.patch_embed.proj.@           vision_model.embeddings.patch_embedding.@
        visual.trunk.pos_embed    vision_model.embeddings.position_embedding.weight    flat
        visual.trunk.blocks.#.(norm1|norm2).@     {VISION_LAYER}.(layer_norm1|layer_norm2).@
        visual.trunk.blocks.#.attn.qkv.@          {VISION_LAYER}.{QKV}
        visual.trunk.blocks.#.attn.proj.@         {VISION_LAYER}.self_attn.out_proj.@
        visual.trunk.blocks.#.mlp.(fc1|fc2).@     {VISION_LAYER}.mlp.(fc1|fc2).@
        visual.trunk.norm.@                       vision_model.post_layernorm.@
        visual.trunk.attn_pool.latent             vision_model.head.probe    flat
        visual.trunk.attn_pool.q.@                vision_model.head.attention.q_proj.@
        visual.trunk.attn_pool.kv.@               vision_model.head.attention.{{k,v}}_proj.@
        visual.trunk.attn_pool.proj.@             vision_model.head.attention.out_proj.@
        visual.trunk.attn_pool.norm.@             vision_model.head.layernorm.@
        visual.trunk.attn_pool.mlp.(fc1|fc2).@    vision_model.head.mlp.(fc1|fc2).@
        """,
    ),
    Layout(
        "transformers",
        "blip-2",
        ("query_tokens", "embeddings.word_embeddings.weight", "vision_projection.weight"),
        f"""
        itm_head.@                                                   -
        query_tokens                                                 =   flat
        vision_model.embeddings.class_embedding                      =   flat
        {POSITIONS}    {POSITIONS}.weight                            flat
        vision_model.embeddings.patch_embedding.@                    =
        {VISION_LAYER}.self_attn.qkv.@           {VISION_LAYER}.{QKV}
        {VISION_LAYER}.self_attn.projection.@    {VISION_LAYER}.self_attn.out_proj.@
        vision_model.encoder.layers.#.(layer_norm1|layer_norm2|mlp.fc1|mlp.fc2).@   =
        vision_model.post_layernorm.@                                =
        embeddings.position_ids                                      -
        embeddings.(word|position)_embeddings.weight                 =
        qformer.layernorm.@                                          =
        qformer.encoder.layer.#.attention.attention.(query|key|value).@         =
        qformer.encoder.layer.#.attention.output.(dense|LayerNorm).@            =
        qformer.encoder.layer.#.crossattention.attention.(query|key|value).@    =   optional
        qformer.encoder.layer.#.crossattention.output.(dense|LayerNorm).@       =   optional
        qformer.encoder.layer.#.(intermediate|intermediate_query).dense.@       =
        qformer.encoder.layer.#.(output|output_query).(dense|LayerNorm).@       =
        (vision|text)_projection.@                                   =
        """,
    ),
)
"""The layouts of the families that are plain transformers."""


def detect(weights: Weights, layouts: Sequence[Layout] = LAYOUTS) -> Layout | None:
    """The layout that the tensors' names tell. A file's own name says nothing."""
    for layout in layouts:
        if all(mark in weights for mark in layout.marks):
            return layout
    return None


def unwrap(weights: Weights) -> Weights:
    """The names without `module.`, where all of them have it."""
    wrapped = len(weights) > 0 and all(name.startswith(WRAPPER) for name in weights)
    return weights.sub(WRAPPER) if wrapped else weights


def rename(weights: Weights, layout: Layout) -> Weights:
    """The same tensors under transformers' names, fused ones split.

    Raises CheckpointError naming the file and a tensor that is unknown or missing.
    """
    table = _expand(layout.rows, weights)
    unknown = sorted(set(weights) - set(table))
    if unknown:
        raise CheckpointError(
            f"{weights.file}: tensor {quote(unknown[0])} is not part of a {layout.model_type!r} "
            f"model as {layout.name} writes it ({len(unknown)} such)"
        )
    optional = {_layer(n) for n, row in table.items() if row[1] == "optional" and n in weights}
    renamed: dict[str, StoredTensor] = {}
    for name, (target, change) in table.items():
        if target == "-":
            continue
        if name in weights:
            _require_floats(weights[name])
            renamed |= _change(weights[name], target, change)
        elif change != "optional" or _layer(name) in optional:
            raise MissingTensor(f"{weights.file}: tensor {quote(name)} is missing")
    return Weights(renamed, file=weights.file, metadata=weights.metadata)


def _require_floats(tensor: StoredTensor) -> None:
    if tensor.dtype[0] in "IUB" and tensor.dtype != "BF16":
        raise CheckpointError(
            f"{tensor.file}: tensor {quote(tensor.name)} holds integers ({tensor.dtype}), as "
            "quantized checkpoints do; use the checkpoint with floating-point weights"
        )


def count_layers(names: Mapping[str, object], prefix: str) -> int:
    """How many numbered layers there are under a prefix, which ends in a dot."""
    start = re.compile(re.escape(prefix) + r"(\d{1,4})\.")
    numbers = [int(match[1]) for match in map(start.match, names) if match]
    return max(numbers, default=-1) + 1


def _layer(name: str) -> str:
    """The layer that a tensor is of: a layer has all of its optional tensors, or none."""
    match = re.match(r".*?\.\d+\.", name)
    return match[0] if match else ""


def _expand(rows: str, weights: Weights) -> dict[str, tuple[str, str]]:
    """Name in the file -> (name here, change), for the layers that the file has."""
    table: dict[str, tuple[str, str]] = {}
    for row in filter(None, map(str.strip, rows.splitlines())):
        source, target, change, *_ = [*row.split(), ""]
        target = source if target == "=" else target
        sources = list(_alternatives(source))
        targets = [target] * len(sources) if target == "-" else list(_alternatives(target))
        for old, new in zip(sources, targets, strict=True):
            prefix, numbered, _ = old.partition("#")
            for layer in range(count_layers(weights, prefix) if numbered else 1):
                table[old.replace("#", str(layer))] = new.replace("#", str(layer)), change
    return table


def _alternatives(pattern: str) -> Iterator[str]:
    head, choice, rest = pattern.replace("@", "(weight|bias)").partition("(")
    if not choice:
        yield head
        return
    words, _, tail = rest.partition(")")
    for word in words.split("|"):
        for end in _alternatives(tail):
            yield head + word + end


def _change(tensor: StoredTensor, target: str, change: str) -> dict[str, StoredTensor]:
    data = tensor.data
    if change == "transposed":
        data = data.T
    elif change == "flat":  # leading axes of size 1 go
        while data.ndim > 1 and data.shape[0] == 1:
            data = data[0]
    head, split, rest = target.partition("{")
    parts, _, tail = rest.partition("}")
    names = [head + part + tail for part in parts.split(",")] if split else [target]
    if data.shape and data.shape[0] % len(names):
        raise CheckpointError(
            f"{tensor.file}: tensor {quote(tensor.name)} can't be split in {len(names)}"
        )
    rows = data.shape[0] // len(names) if data.shape else 0
    pieces = [data[k * rows : (k + 1) * rows] for k in range(len(names))] if split else [data]
    return {
        name: replace(tensor, name=name, shape=piece.shape, data=piece)
        for name, piece in zip(names, pieces, strict=True)
    }
