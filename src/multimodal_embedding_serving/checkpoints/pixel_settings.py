"""How images become pixels, as the checkpoint's own files say it.

Sources: transformers' CLIPImageProcessor, SiglipImageProcessor, BlipImageProcessor (versions 4
and 5); OpenCLIP's PreprocessCfg.
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
from multimodal_embedding_serving.errors import CheckpointError

PREPROCESSOR, PROCESSOR = "preprocessor_config.json", "processor_config.json"
OPEN_CLIP_CONFIG = "open_clip_config.json"
FILTERS = {2: "bilinear", 3: "bicubic"}
"""Pillow's numbers of the filters that are built."""
MODES = {"squash": "squash", "shortest": "short_side"}
"""OpenCLIP's resize_mode."""
BYTE = 1 / 255
NUMBERS = {int, float}

RULES = KeyRules(
    obeyed=split(
        "do_resize size resample do_center_crop crop_size do_rescale rescale_factor do_normalize",
        "image_mean image_std",
    ),
    harmless=split(
        "do_convert_rgb feature_extractor_type image_processor_type processor_class return_tensors",
        "data_format input_data_format device disable_grouping image_seq_length default_to_square",
    ),
    fixed={"do_pad": (False, None), "pad_size": (None,)},
)
OPEN_CLIP_RULES = KeyRules(
    obeyed=split("mean std interpolation resize_mode"),
    harmless=split("size"),  # the vision tower's image_size
    # The color of a border, which no resize mode that is built has.
    fixed={"mode": ("RGB",), "fill_color": (0, [0, 0, 0], None)},
)


@dataclass(frozen=True, slots=True)
class PixelSettings:
    """What comes before the image tower; None: as the family does it."""

    resize: str | None = None
    """squash or short_side."""
    size: int | None = None
    """Side of the square that the tower takes, in pixels."""
    resample: str | None = None
    """bilinear or bicubic."""
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    """Of values in 0..1, one for each of RGB."""
    file: str = PREPROCESSOR


def read_pixel_settings(documents: Mapping[str, Any]) -> PixelSettings:
    """Of a checkpoint's JSON files by name; as in transformers 5, processor_config.json wins.

    Raises CheckpointError naming the file, the key and its value.
    """
    nested = documents.get(PROCESSOR, {}).get("image_processor")
    if isinstance(nested, Mapping):
        return _read_processor(nested, PROCESSOR, "image_processor.")
    if PREPROCESSOR in documents:
        return _read_processor(documents[PREPROCESSOR], PREPROCESSOR)
    cfg = documents.get(OPEN_CLIP_CONFIG, {}).get("preprocess_cfg") or {}
    return _read_open_clip(cfg) if isinstance(cfg, Mapping) else PixelSettings()


def _read_processor(table: Mapping[str, Any], file: str, at: str = "") -> PixelSettings:
    """`at` is where the table is in the file, with its dot."""
    check_keys(table, RULES, file, at.rstrip("."))
    if table.get("do_resize", True) is False:
        raise unsupported(file, f"{at}do_resize", False)
    resample = table.get("resample")
    if resample is not None and resample not in FILTERS:
        raise unsupported(file, f"{at}resample", resample, "is not supported (supported: 2 and 3)")
    resize, size = _read_size(table, file, at)
    mean, std = (_three(table, name, file) for name in ("image_mean", "image_std"))
    if table.get("do_normalize", True) is False:
        mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    factor = table.get("rescale_factor") or BYTE
    if table.get("do_rescale", True) is False:
        factor = 1.0
    if type(factor) not in NUMBERS or not factor > 0:
        raise CheckpointError(f"{file}: rescale_factor = {str(factor)[:60]!r} is not valid")
    if abs(factor - BYTE) > 1e-7:
        if mean is None or std is None:
            raise unsupported(file, f"{at}rescale_factor", factor, "needs image_mean and image_std")
        scale = 255 * factor
        mean, std = [each / scale for each in mean], [each / scale for each in std]
    return PixelSettings(resize, size, FILTERS.get(resample or 0), mean, std, file)


def _read_size(table: Mapping[str, Any], file: str, at: str) -> tuple[str | None, int | None]:
    size, crop = table.get("size"), table.get("do_center_crop")
    window = _square(table.get("crop_size"))
    if size is None:
        return None, window if crop is not False else None
    if type(size) is int:  # written by early versions: the class decides what it means
        if crop is False:
            return "squash", size
        return None, size if window is None else window
    if not isinstance(size, Mapping):
        raise CheckpointError(f"{file}: size = {str(size)[:60]!r} is not valid")
    if (short := size.get("shortest_edge")) is not None:
        if crop is False:
            raise unsupported(
                file, f"{at}do_center_crop", crop, "leaves an image that is not square"
            )
        if window is not None and window != short:
            raise unsupported(file, f"{at}size", dict(size), f"differs from crop_size {window}")
        return "short_side", window or short
    side = _square(size)
    if side is None:
        raise unsupported(file, f"{at}size", dict(size))
    if crop and window not in (None, side):
        raise unsupported(
            file, f"{at}crop_size", table.get("crop_size"), f"differs from size {side}"
        )
    return "squash", side


def _square(size: object) -> int | None:
    """The side of a square; None for anything else."""
    if isinstance(size, Mapping):
        height, width = size.get("height"), size.get("width")
        return height if type(height) is int and height == width else None
    return size if type(size) is int else None


def _read_open_clip(cfg: Mapping[str, Any]) -> PixelSettings:
    file = OPEN_CLIP_CONFIG
    check_keys(cfg, OPEN_CLIP_RULES, file, "preprocess_cfg")
    mode, resample = cfg.get("resize_mode"), cfg.get("interpolation")
    if mode is not None and mode not in MODES:
        raise unsupported(file, "preprocess_cfg.resize_mode", mode)
    if resample is not None and resample not in FILTERS.values():
        raise unsupported(file, "preprocess_cfg.interpolation", resample)
    mean, std = (_three(cfg, name, file) for name in ("mean", "std"))
    return PixelSettings(MODES.get(str(mode)), None, resample, mean, std, file)


def _three(table: Mapping[str, Any], key: str, file: str) -> Sequence[float] | None:
    value = table.get(key)
    if value is None:
        return None
    if type(value) in NUMBERS:
        return (value,) * 3
    if not (isinstance(value, list) and len(value) == 3 and {*map(type, value)} <= NUMBERS):
        raise CheckpointError(f"{file}: {key} must be a list of three numbers")
    return value
