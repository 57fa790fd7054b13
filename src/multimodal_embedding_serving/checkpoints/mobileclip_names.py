"""MobileCLIP's tensors, by Apple's names and by OpenCLIP's and timm's, under one set of names.

`image.` and `text.` are the towers. Where a tower is a plain transformer its blocks are
`encoder.layers.#` as transformers names CLIP's. A convolution is `weight` and `norm` (BatchNorm); a
unit of parallel branches is `conv`, `scale` (1 x 1) and `skip` (BatchNorm alone); `se` is
squeeze-and-excitation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from multimodal_embedding_serving.checkpoints.layouts import Layout, count_layers
from multimodal_embedding_serving.checkpoints.weights import Weights
from multimodal_embedding_serving.errors import CheckpointError

BATCH_NORM = "(weight|bias|running_mean|running_var)"
STAGES = 4
LAST = STAGES - 1
"""The stage of attention blocks; the others have RepMixer blocks."""
MCT_MIXERS, MCT_BLOCKS = (0, 5), (1, 2, 3, 4)
"""S0's text tower: which of its layers are RepMixer blocks, which transformer blocks."""


ARCHITECTURES: Mapping[str, tuple[tuple[int, ...], int]] = MappingProxyType(
    {
        "MobileCLIP-S0": ((2, 6, 10, 2), 64),
        "MobileCLIP-S1": ((4, 12, 20, 4), 64),
        "MobileCLIP-S2": ((4, 12, 24, 4), 80),
        "MobileCLIP-B": ((12,), 768),
    }
)
"""A row's architecture -> blocks in each stage of its image tower, and the first one's width."""


@dataclass(frozen=True, slots=True)
class Library:
    """What one library calls the parts of the convolutional image tower."""

    root: str
    stem: str
    stages: Sequence[str]
    downs: Sequence[str]
    """The steps down before stages 1, 2 and 3."""
    positions: str
    expand: str
    conv: str
    scale: str
    skip: str
    mlp: str
    large: str
    factor: str
    """What a layer scale's name ends in."""
    squeeze: str
    """The two convolutions of the last squeeze-and-excitation."""
    head: str


APPLE = Library(
    root="image_encoder.model.",
    stem="patch_embed",
    stages=("network.0", "network.2", "network.4", "network.7"),
    downs=("network.1", "network.3", "network.5"),
    positions="network.6.pe",
    expand="conv_exp",
    conv="rbr_conv.0",
    scale="rbr_scale",
    skip="rbr_skip",
    mlp="convffn",
    large="lkb_origin",
    factor="",
    squeeze="(reduce|expand)",
    head="head.proj  image.projection.weight  transposed",
)
TIMM = Library(
    root="visual.trunk.",
    stem="stem",
    stages=tuple(f"stages.{k}.blocks" for k in range(STAGES)),
    downs=tuple(f"stages.{k}.downsample" for k in range(1, STAGES)),
    positions="stages.3.pos_emb.pos_enc",
    expand="final_conv",
    conv="conv_kxk.0",
    scale="conv_scale",
    skip="identity",
    mlp="mlp",
    large="large_conv",
    factor=".gamma",
    squeeze="(fc1|fc2)",
    head="head.fc.@  image.projection.@",
)


def _norm(source: str, target: str) -> str:
    return f"""
    {source}.{BATCH_NORM}            {target}.{BATCH_NORM}
    {source}.num_batches_tracked     -
    """


def _conv(source: str, target: str) -> str:
    return f"{source}.conv.weight  {target}.weight" + _norm(f"{source}.bn", f"{target}.norm")


def _unit(lib: Library, source: str, target: str, branches: str) -> str:
    rows = _conv(f"{source}.{lib.conv}", f"{target}.conv")
    if "scale" in branches:
        rows += _conv(f"{source}.{lib.scale}", f"{target}.scale")
    if "skip" in branches:
        rows += _norm(f"{source}.{lib.skip}", f"{target}.skip")
    return rows


def _conv_mlp(lib: Library, source: str, target: str) -> str:
    return (
        _conv(f"{source}.{lib.mlp}.conv", f"{target}.mlp.conv")
        + f"{source}.{lib.mlp}.(fc1|fc2).@     {target}.mlp.(fc1|fc2).@\n"
    )


def _mixer_block(lib: Library, source: str, target: str, branches: str = "scale skip") -> str:
    return (
        f"""
        {source}.layer_scale{lib.factor}                {target}.mlp_scale
        {source}.token_mixer.layer_scale{lib.factor}    {target}.mixer_scale
        """
        + _norm(f"{source}.token_mixer.norm.{lib.skip}", f"{target}.norm")
        + _unit(lib, f"{source}.token_mixer.mixer", f"{target}.mixer", branches)
        + _conv_mlp(lib, source, target)
    )


def _attention_block(lib: Library, source: str, target: str) -> str:
    return (
        f"""
        {source}.layer_scale_1{lib.factor}    {target}.attention_scale
        {source}.layer_scale_2{lib.factor}    {target}.mlp_scale
        {source}.token_mixer.qkv.weight       {target}.qkv.weight
        {source}.token_mixer.proj.@           {target}.proj.@
        """
        + _norm(f"{source}.norm", f"{target}.norm")
        + _conv_mlp(lib, source, target)
    )


def _convolutional_image(lib: Library) -> str:
    """MCi0, MCi1 and MCi2."""
    rows = _unit(lib, f"{lib.root}{lib.stem}.0", "image.stem.0", "scale")
    rows += _unit(lib, f"{lib.root}{lib.stem}.1", "image.stem.1", "scale")
    rows += _unit(lib, f"{lib.root}{lib.stem}.2", "image.stem.2", "skip")
    for stage, source in enumerate(lib.stages):
        block = _attention_block if stage == LAST else _mixer_block
        rows += block(lib, f"{lib.root}{source}.#", f"image.stages.{stage}.blocks.#")
    for stage, source in enumerate(lib.downs, 1):
        down, target = f"{lib.root}{source}.proj", f"image.stages.{stage}.down"
        rows += _conv(f"{down}.0.{lib.large}", f"{target}.large")
        rows += _conv(f"{down}.0.small_conv", f"{target}.small")
        if stage > 1:
            rows += f"{down}.0.se.(fc1|fc2).@    {target}.se.(fc1|fc2).@\n"
        rows += _unit(lib, f"{down}.1", f"{target}.merge", "skip")
    rows += _unit(lib, f"{lib.root}{lib.expand}", "image.expand", "scale")
    return (
        rows
        + f"""
    {lib.root}{lib.expand}.se.{lib.squeeze}.@     image.expand.se.(fc1|fc2).@
    {lib.root}{lib.positions}.@                   image.positions.@
    {lib.root}{lib.head}
    """
    )


APPLE_BLOCK = """
FROM.pre_norm_mha.0.@              TO.layer_norm1.@
FROM.pre_norm_mha.1.qkv_proj.@     TO.self_attn.{q,k,v}_proj.@
FROM.pre_norm_mha.1.out_proj.@     TO.self_attn.out_proj.@
FROM.pre_norm_ffn.(0|1|4).@        TO.(layer_norm2|mlp.fc1|mlp.fc2).@
"""
OPEN_CLIP_BLOCK = """
FROM.(ln_1|ln_2|mlp.c_fc|mlp.c_proj).@    TO.(layer_norm1|layer_norm2|mlp.fc1|mlp.fc2).@
FROM.attn.in_proj_@                       TO.self_attn.{q,k,v}_proj.@
FROM.attn.out_proj.@                      TO.self_attn.out_proj.@
"""
TIMM_BLOCK = """
FROM.(norm1|norm2|mlp.fc1|mlp.fc2).@      TO.(layer_norm1|layer_norm2|mlp.fc1|mlp.fc2).@
FROM.attn.qkv.@                           TO.self_attn.{q,k,v}_proj.@
FROM.attn.proj.@                          TO.self_attn.out_proj.@
"""


def _blocks(rows: str, source: str, target: str) -> str:
    return rows.replace("FROM", source).replace("TO", target)


APPLE_VIT = (
    """
    image_encoder.model.cls_token                        image.class_token     flat
    image_encoder.model.pos_embed.pos_embed.pos_embed    image.positions       flat
    image_encoder.model.patch_emb.(0|1|2).block.conv.weight    image.stem.(0|1|2).weight
    image_encoder.model.patch_emb.2.block.conv.bias      image.stem.2.bias
    image_encoder.model.post_transformer_norm.@          image.norm.@
    image_encoder.model.classifier.proj                  image.projection.weight    transposed
    """
    + _norm("image_encoder.model.patch_emb.0.block.norm", "image.stem.0.norm")
    + _norm("image_encoder.model.patch_emb.1.block.norm", "image.stem.1.norm")
    + _blocks(APPLE_BLOCK, "image_encoder.model.transformer.#", "image.encoder.layers.#")
)
TIMM_VIT = (
    """
    visual.trunk.cls_token                               image.class_token     flat
    visual.trunk.pos_embed                               image.positions       flat
    visual.trunk.patch_embed.backbone.(0|1|2).conv.weight    image.stem.(0|1|2).weight
    visual.trunk.patch_embed.backbone.2.conv.bias        image.stem.2.bias
    visual.trunk.norm.@                                  image.norm.@
    visual.trunk.head.@                                  image.projection.@
    """
    + _norm("visual.trunk.patch_embed.backbone.0.bn", "image.stem.0.norm")
    + _norm("visual.trunk.patch_embed.backbone.1.bn", "image.stem.1.norm")
    + _blocks(TIMM_BLOCK, "visual.trunk.blocks.#", "image.encoder.layers.#")
)
APPLE_TEXT = """
logit_scale                                              -
text_encoder.embedding_layer.weight                      text.token_embedding.weight
text_encoder.positional_embedding.pos_embed.pos_embed    text.positions       flat
text_encoder.final_layer_norm.@                          text.norm.@
text_encoder.projection_layer                            text.projection.weight    transposed
"""
APPLE_PLAIN_TEXT = APPLE_TEXT + _blocks(
    APPLE_BLOCK, "text_encoder.transformer.#", "text.encoder.layers.#"
)
APPLE_MCT_TEXT = (
    APPLE_TEXT
    + "".join(
        _mixer_block(APPLE, f"text_encoder.transformer.{k}", f"text.encoder.layers.{k}", "skip")
        for k in MCT_MIXERS
    )
    + "".join(
        _blocks(APPLE_BLOCK, f"text_encoder.transformer.{k}", f"text.encoder.layers.{k}")
        for k in MCT_BLOCKS
    )
)
OPEN_CLIP_TEXT = """
(logit_scale|text.attn_mask)     -
text.token_embedding.weight      text.token_embedding.weight
text.positional_embedding        text.positions
text.ln_final.@                  text.norm.@
text.text_projection             text.projection.weight    transposed
""" + _blocks(OPEN_CLIP_BLOCK, "text.transformer.resblocks.#", "text.encoder.layers.#")


def _layout(library: str, marks: str, rows: str) -> Layout:
    return Layout(library, "mobileclip", tuple(marks.split()), rows)


_APPLE_CONV = "image_encoder.model.conv_exp.se.reduce.weight text_encoder.projection_layer"
LAYOUTS: Sequence[Layout] = (
    _layout(
        "apple",
        f"{_APPLE_CONV} text_encoder.transformer.0.token_mixer.layer_scale",
        _convolutional_image(APPLE) + APPLE_MCT_TEXT,
    ),
    _layout("apple", _APPLE_CONV, _convolutional_image(APPLE) + APPLE_PLAIN_TEXT),
    _layout(
        "apple",
        "image_encoder.model.classifier.proj text_encoder.projection_layer",
        APPLE_VIT + APPLE_PLAIN_TEXT,
    ),
    _layout(
        "open_clip",
        "visual.trunk.final_conv.se.fc1.weight text.text_projection",
        _convolutional_image(TIMM) + OPEN_CLIP_TEXT,
    ),
    _layout(
        "open_clip",
        "visual.trunk.patch_embed.backbone.0.conv.weight text.text_projection",
        TIMM_VIT + OPEN_CLIP_TEXT,
    ),
)
"""S0; S1 and S2; B and B-LT; S1 and S2; B and B-LT."""


def check_row(w: Weights, architecture: str, row: str) -> None:
    """Raises CheckpointError where the image tower is that of another row."""
    vit = "image.class_token" in w
    prefixes = ["encoder."] if vit else [f"stages.{k}." for k in range(STAGES)]
    part = "layers." if vit else "blocks."
    depths = tuple(count_layers(w, f"image.{prefix}{part}") for prefix in prefixes)
    width = w["image.class_token" if vit else "image.stem.0.conv.weight"].shape[0]
    if ARCHITECTURES.get(architecture) != (depths, width):
        raise CheckpointError(
            f"{w.file}: an image tower of {depths} blocks, {width} wide, is not that of {row}"
        )
