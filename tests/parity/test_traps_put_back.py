"""Each known trap of CLIP and its neighbours, put back into a copy of the code: a test notices.

The other tests show that the code is right; these show that it could not be wrong unseen.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import pytest

from tests.parity.traps import FAMILY_TRAPS, KNOWN, Trap

pytestmark = pytest.mark.slow

PACKAGE = "multimodal_embedding_serving"
ROOT = Path(__file__).parent.parent.parent


PIXELS = "tests/transforms/test_image.py"
PICTURES = "tests/media/test_image.py"
VIT_B_32 = (
    "tests/parity/test_transformers.py::test_vectors_are_those_of_transformers[clip-vit-b-32]"
)

TRAPS = {
    "OpenAI's weights with the plain GELU": Trap(
        "graph/layers.py",
        '"quick_gelu": ops.quick_gelu,',
        '"quick_gelu": ops.gelu,',
        f"{KNOWN}::test_openais_weights_with_the_plain_gelu_are_wrong",
    ),
    "OpenCLIP's quick_gelu is overlooked": Trap(
        "checkpoints/configs.py",
        '"quick_gelu" if model.get("quick_gelu") else "gelu"',
        '"gelu"',
        "tests/parity/test_golden.py::"
        "test_vectors_are_those_of_the_library_that_wrote_the_file[clip-vit-b-16]",
    ),
    "what a stripped config leaves out is guessed": Trap(
        "checkpoints/configs.py",
        '"max_position_embeddings": 77,\n        "hidden_act": "quick_gelu",',
        '"max_position_embeddings": 77,\n        "hidden_act": "gelu",',
        "tests/parity/test_configs.py::test_an_empty_config_is_the_class_default[clip]",
    ),
    "an old config's sections are overlooked": Trap(
        "checkpoints/configs.py",
        'config.get(f"{section}_dict") or config.get(section)',
        "config.get(section)",
        "tests/parity/test_configs.py::test_the_older_dict_sections_win_whole_as_upstream",
    ),
    "an old config's end token is believed": Trap(
        "families/clip.py",
        'int(text["vocab_size"]) - 1 if end == 2 else end',
        "end",
        f"{KNOWN}::test_an_old_configs_end_token_of_2_means_the_last_of_the_vocabulary",
    ),
    "pooled at the last place": Trap(
        "families/clip.py",
        "ops.take_place(x, ops.first_place(ids, end))",
        "ops.reshape(ops.crop(x, 1, -1, 2**31 - 1), (0, -1))",
        f"{KNOWN}::test_clip_pools_at_the_first_end_of_text",
    ),
    "words see what follows": Trap(
        "families/clip.py",
        "encode(ops, x, model, gpt, causal=True)",
        "encode(ops, x, model, gpt)",
        VIT_B_32,
    ),
    "the class token comes last": Trap(
        "graph/layers.py",
        "ops.concat([ops.tile_batch(token, x), x], 1)",
        "ops.concat([x, ops.tile_batch(token, x)], 1)",
        VIT_B_32,
    ),
    "the pixels' mean is in the order of BGR": Trap(
        "families/clip.py",
        "(0.48145466, 0.4578275, 0.40821073)",
        "(0.40821073, 0.4578275, 0.48145466)",
        VIT_B_32,
    ),
    "the manifest lets a long text lose its end": Trap(
        "families/clip.py",
        '"eos_kept": True',
        '"eos_kept": False',
        f"{KNOWN}::test_clips_text_is_cut_at_77_with_its_end_kept",
    ),
    "a long text loses its end": Trap(
        "transforms/text.py",
        "ids[-1:] if spec.eos_kept else []",
        "[]",
        "tests/transforms/test_text.py::"
        "test_a_clip_text_that_is_cut_keeps_its_end_in_the_last_place",
    ),
    "capitals stay": Trap(
        "checkpoints/tokenizers.py",
        ", normalizers.Lowercase()]",
        "]",
        "tests/transforms/test_text.py::test_ids_and_truncation_are_upstreams[clip]",
    ),
    "resized without antialias": Trap(
        "transforms/image.py",
        "image.resize(size, self._filter)",
        "image.transform(size, Image.Transform.AFFINE, (image.width / size[0], 0, 0, 0, "
        "image.height / size[1], 0), self._filter)",
        f"{PIXELS}::test_levels_are_those_of_the_float_reference_within_one",
    ),
    "resized bilinearly": Trap(
        "families/clip.py",
        'resample="bicubic"',
        'resample="bilinear"',
        f"{KNOWN}::test_pictures_are_brought_to_size_as_the_family_was_trained[clip-vit-b-16]",
    ),
    "squashed": Trap(
        "families/clip.py",
        'resize="short_side"',
        'resize="squash"',
        f"{KNOWN}::test_pictures_are_brought_to_size_as_the_family_was_trained[clip-vit-b-16]",
    ),
    "the crop's offset is floored": Trap(
        "transforms/image.py",
        "round((length - side) / 2.0)",
        "(length - side) // 2",
        f"{PIXELS}::test_the_crop_offset_of_335_columns_rounds_half_to_even",
    ),
    "the long side is rounded": Trap(
        "transforms/image.py",
        "long = int(self.size * max(width, height) / min(width, height))",
        "long = round(self.size * max(width, height) / min(width, height))",
        f"{PIXELS}::test_levels_are_those_of_the_float_reference_within_one",
    ),
    "a JPEG is drafted to the size itself": Trap(
        "media/image.py",
        "min_decoded = 2 * min_side",
        "min_decoded = min_side",
        f"{PICTURES}::test_a_drafted_jpeg_keeps_twice_what_is_needed",
    ),
    "a JPEG is drafted in spite of the setting": Trap(
        "inputs/media_access.py",
        'min_side = min_side if self.jpeg_decode == "fast" else 0',
        "min_side = min_side",
        "tests/engine/test_jpeg_decode.py::test_in_process_sources_obey_the_setting[exact]",
    ),
    "the EXIF orientation is overlooked": Trap(
        "media/image.py",
        "_to_rgb(image if transposition is None else image.transpose(transposition))",
        "_to_rgb(image)",
        f"{PICTURES}::test_an_exif_orientation_is_applied",
    ),
    "sixteen bits are clipped": Trap(
        "media/image.py",
        "(np.asarray(image) >> 8).astype(np.uint8)",
        "np.minimum(np.asarray(image), 255).astype(np.uint8)",
        f"{PICTURES}::test_sixteen_bit_grey_loses_its_low_byte_in_files_images_and_arrays",
    ),
    "floats are clipped": Trap(
        "media/image.py",
        "Image.fromarray(normalize_range(np.asarray(image)))",
        'image.convert("L")',
        f"{PICTURES}::test_pillow_images_of_floats_and_deep_integers_are_stretched_by_their_own_range",
    ),
    "alpha is composited on white": Trap(
        "media/image.py",
        'return image if image.mode == "RGB" else image.convert("RGB")',
        'white = Image.new("RGBA", image.size, "white")\n'
        '    return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")',
        f"{PICTURES}::test_alpha_is_dropped_and_not_composited",
    ),
    "palettes and CMYK become grey": Trap(
        "media/image.py",
        'return image if image.mode == "RGB" else image.convert("RGB")',
        'return image if image.mode == "RGB" else image.convert("L").convert("RGB")',
        f"{PICTURES}::test_every_kind_of_file_shows_the_same_image",
    ),
    "vectors that are no numbers pass": Trap(
        "engine/loader.py",
        "if not np.isfinite(vectors).all():",
        "if vectors is None:",
        "tests/engine/test_engine.py::test_a_broken_graph_fails_its_self_test",
    ),
    "the same vector for everything passes": Trap(
        "engine/loader.py",
        "np.linalg.norm(vectors[0] - vectors[1]) < MIN_DISTANCE",
        "vectors is None",
        "tests/engine/test_engine.py::test_a_broken_graph_fails_its_self_test",
    ),
    "SigLIP's texts are trimmed": Trap(
        "families/siglip.py",
        '"fixed_length": True,',
        '"fixed_length": False,',
        f"{KNOWN}::test_siglips_texts_are_always_of_64_places",
    ),
    "SigLIP's texts keep their capitals": Trap(
        "families/siglip.py",
        'tokens.clean != "siglip" or tokens.lowercase is not False',
        "False",
        f"{KNOWN}::test_siglips_texts_are_lower_cased",
    ),
    "Qwen is pooled at the last place": Trap(
        "families/pooling.py",
        "ops.take_place(x, ops.last_place(mask))",
        "ops.reshape(ops.crop(x, 1, -1, 2**31 - 1), (0, -1))",
        "tests/parity/test_qwen_text.py::test_a_text_does_not_depend_on_its_batch_mates",
    ),
    "padding is not masked": Trap(
        "families/cn_clip.py",
        "bert.heads, mask, bert.eps",
        "bert.heads, None, bert.eps",
        f"{KNOWN}::test_padding_is_masked_where_attention_goes_both_ways[cn-clip-vit-b-16]",
    ),
    **FAMILY_TRAPS,
}


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package to be spoiled; its folder goes first where Python looks."""
    source = Path(str(files(PACKAGE)))
    folder = tmp_path_factory.mktemp("spoiled") / PACKAGE
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("__pycache__", "builtin"))
    (folder / "builtin").symlink_to(source / "builtin")
    return folder


def run(copy: Path, *command: str) -> subprocess.CompletedProcess[str]:
    environ = {"PYTHONPATH": str(copy.parent), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        check=False,
    )


def run_tests(copy: Path, tests: Sequence[str]) -> tuple[int, str]:
    done = run(copy, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests)
    return done.returncode, done.stdout + done.stderr


def test_without_a_trap_the_same_tests_pass(copy: Path) -> None:
    found = run(copy, "-c", f"import {PACKAGE} as found; print(found.__file__)").stdout.strip()
    assert Path(found).is_relative_to(copy)
    status, said = run_tests(copy, sorted({trap.caught_by for trap in TRAPS.values()}))
    assert status == 0, said


@pytest.mark.parametrize("name", TRAPS)
def test_a_trap_that_is_put_back_is_noticed(name: str, copy: Path) -> None:
    trap = TRAPS[name]
    file = copy / trap.file
    right = file.read_text("utf-8")
    assert right.count(trap.right) == 1, f"{trap.file} no longer holds {trap.right!r} once"
    file.write_text(right.replace(trap.right, trap.wrong), "utf-8")
    try:
        status, said = run_tests(copy, ["-x", trap.caught_by])
    finally:
        file.write_text(right, "utf-8")
    assert status == 1, said  # 1: a test failed; 2 and more: none could be run
    assert "1 failed" in said
