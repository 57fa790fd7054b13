"""Known traps as changes of the code: those of the families beside CLIP, and what a trap is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Trap:
    file: str
    right: str
    """As the code has it, once."""
    wrong: str
    caught_by: str
    """The test that fails while the wrong is there."""


KNOWN = "tests/parity/test_traps.py"
AROUND = "tests/parity/test_family_traps.py"
MOBILECLIP = "tests/parity/test_mobileclip.py"
GOLDEN = "tests/parity/test_golden.py"
APPLE = f"{MOBILECLIP}::test_apple_s_files_give_the_reference_s_vectors"
OPEN_CLIP_B = f"{MOBILECLIP}::test_openclip_files_give_openclip_s_vectors[mobileclip_b]"
SIDE = f"{AROUND}::test_siglip_is_padded_on_the_right_unless_its_own_files_say_otherwise"
PROMPT = f"{AROUND}::test_qwens_prompt_has_a_newline_and_no_space_behind_query"

FAMILY_TRAPS = {
    "Chinese-CLIP is pooled by the mean": Trap(
        "families/cn_clip.py",
        "place(ops, x, 0)",
        "ops.mean(x, (1,))",
        f"{AROUND}::test_chinese_clip_pools_its_first_token_without_a_pooler",
    ),
    "SigLIP is padded on the left": Trap(
        "transforms/text.py",
        '.get("direction", "right")',
        '.get("direction", "left")',
        f"{SIDE}[None-None-False]",
    ),
    "what SigLIP's files say of the side is overlooked": Trap(
        "families/siglip.py",
        'tokens.padding_side or "file"',
        '"right"',
        f"{SIDE}[left-None-True]",
    ),
    "SigLIP2 is padded with the first SigLIP's id": Trap(
        "families/siglip.py",
        "PAD if pad is None else pad",
        "1",
        f"{KNOWN}::test_siglips_texts_are_always_of_64_places",
    ),
    "SigLIP's texts are pooled at their first place": Trap(
        "families/siglip.py",
        "place(ops, x, positions.shape[0] - 1)",
        "place(ops, x, 0)",
        f"{KNOWN}::test_siglips_texts_are_always_of_64_places",
    ),
    "SigLIP's probe is added back": Trap(
        "families/siglip.py",
        "y = norm(ops, seen,",
        "seen = ops.add(seen, probe)\n    y = norm(ops, seen,",
        f"{KNOWN}::test_siglips_probe_is_not_added_back",
    ),
    "timm's towers all have the tanh GELU": Trap(
        "checkpoints/configs.py",
        '"gelu" if TIMM_EXACT_GELU.search(name) else "gelu_pytorch_tanh"',
        '"gelu_pytorch_tanh"',
        f"{GOLDEN}::test_timms_exact_gelu_is_told_from_the_tanh_one[siglip2-vit-b-16]",
    ),
    "BLIP-2's queries are brought to length before their mean": Trap(
        "families/blip2.py",
        'ops.mean(dense(ops, answers, w.sub("vision_projection.")), (1,))',
        'ops.mean(ops.l2_normalize(dense(ops, answers, w.sub("vision_projection."))), (1,))',
        f"{KNOWN}::test_blip2_takes_the_mean_before_the_length",
    ),
    "BLIP-2's texts take the queries' feed-forward": Trap(
        "families/blip2.py",
        "TEXT_MLP if image is None else QUERY_MLP",
        "QUERY_MLP",
        f"{KNOWN}::test_blip2s_texts_have_a_feed_forward_of_their_own",
    ),
    "MobileCLIP's texts are trimmed": Trap(
        "families/mobileclip.py",
        '"fixed_length": not causal',
        '"fixed_length": False',
        f"{MOBILECLIP}::test_texts_of_towers_that_see_the_padding_are_always_padded[mobileclip_s1]",
    ),
    "MobileCLIP is padded with another id": Trap(
        "families/mobileclip.py",
        '"pad_id": 0',
        '"pad_id": 599',
        f"{MOBILECLIP}::test_texts_of_towers_that_see_the_padding_are_always_padded[mobileclip_s2]",
    ),
    "MobileCLIP's pixels have CLIP's mean": Trap(
        "families/mobileclip.py",
        'told.get("mean", (0.0, 0.0, 0.0))',
        'told.get("mean", (0.48145466, 0.4578275, 0.40821073))',
        f"{APPLE}[mobileclip_s0]",
    ),
    "MobileCLIP's causal towers are swapped": Trap(
        "families/mobileclip.py",
        'told.get("causal", vit)',
        'told.get("causal", not vit)',
        f"{APPLE}[mobileclip_b]",
    ),
    "timm's MobileCLIP-B has Apple's eps": Trap(
        "families/mobileclip.py", "EPS if apple else TIMM_EPS", "EPS", OPEN_CLIP_B
    ),
    "timm's MobileCLIP-B has Apple's padding": Trap(
        "families/mobileclip.py", '"stem_padding": int(apple)', '"stem_padding": 1', OPEN_CLIP_B
    ),
    "B-LT is looked for where B is": Trap(
        "catalog.py",
        '"apple/MobileCLIP-B-LT"',
        '"apple/MobileCLIP-B"',
        f"{AROUND}::test_b_and_b_lt_never_share_a_file",
    ),
    "B and B-LT share a folder": Trap(
        "conversion/resolve.py",
        "models / spec.family / spec.name",
        "models / spec.family / spec.architecture",
        f"{AROUND}::test_b_and_b_lt_never_share_a_file",
    ),
    "Apple's licence is not told": Trap(
        "conversion/blueprint.py",
        'log.info("%s is licensed under',
        'log.debug("%s is licensed under',
        f"{AROUND}::test_apples_licence_is_told_before_the_download",
    ),
    "a space stands behind Qwen's Query": Trap(
        "families/qwen_text.py", "Query:{text}", "Query: {text}", PROMPT
    ),
    "no newline stands before Qwen's Query": Trap(
        "families/qwen_text.py", r"{instruction}\nQuery:", r"{instruction}\\nQuery:", PROMPT
    ),
}
