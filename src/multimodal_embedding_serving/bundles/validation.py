"""A manifest's fields, checked one by one: types by the dataclasses' annotations, then ranges.

A manifest may come from another machine, and what follows relies on it: paths are opened beneath
the bundle, sizes are allocated, names decide how a text is cut. A field that is missing, unknown or
out of range is named.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from multimodal_embedding_serving.errors import BundleError
from multimodal_embedding_serving.transforms.image import ImageTransform
from multimodal_embedding_serving.transforms.text import TextSpec, check_prompts

TRANSFORMS: Mapping[str, type] = {"image": ImageTransform, "text": TextSpec}
FILE_NAME = re.compile(r"[\w@+-][\w.@+-]*", re.ASCII)
MAX_DIMENSION, MAX_SIDE, MAX_TOKENS, MAX_ID = 1 << 16, 1 << 13, 1 << 17, 1 << 31
MAX_FILE_BYTES = 1 << 44
_SHA256, _XXH3 = re.compile("[0-9a-f]{64}"), re.compile("[0-9a-f]{32}")

_FINGERPRINT = re.compile(r"[\w.+-]{0,80}", re.ASCII)
SHOWN_TEXTS = ("model", "family", "licence", "notice", "created", "tokenizer", "fallback_from")
MAX_SHOWN_CHARS = 2000
MAX_COSINE = 1.001
"""Of vectors whose length is rounded."""

RANGES: Mapping[str, tuple[int, int]] = {
    "size": (1, MAX_SIDE),
    "patches": (1, MAX_ID),
    "max_length": (1, MAX_TOKENS),
    "default_length": (1, MAX_TOKENS),
    "entries": (1, MAX_ID),
    "pad_id": (0, MAX_ID),
}
"""Least and greatest value of the whole numbers of a transform."""


def check_fields(cls: type, data: object, where: str) -> Mapping[str, Any]:
    """Check an object against a dataclass: no field missing, none unknown, each of its type.

    Raises BundleError with the field.
    """
    if not isinstance(data, dict):
        raise BundleError(f"{where} is not an object")
    prefix = "" if where == "it" else f"{where}."
    required = {
        each.name
        for each in dataclasses.fields(cls)
        if each.default is dataclasses.MISSING and each.default_factory is dataclasses.MISSING
    }
    hints = get_type_hints(cls)
    for name in sorted(required - data.keys()):
        raise BundleError(f"{prefix}{name} is missing")
    for name, value in data.items():
        if name not in hints:
            raise BundleError(f"{prefix}{shorten(name)} is not a known field")
        if not _conforms(value, hints[name]):
            raise BundleError(
                f"{prefix}{name} has a value that is not allowed: {show_value(value)}"
            )
    return data


def _conforms(value: object, hint: Any) -> bool:
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin in (Union, UnionType):
        return any(_conforms(value, each) for each in arguments)
    if origin is Literal:
        return value in arguments
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return isinstance(value, dict) and all(
            _conforms(each, arguments[1]) for each in value.values()
        )
    if isinstance(origin, type) and issubclass(origin, Sequence):
        return isinstance(value, list) and all(_conforms(each, arguments[0]) for each in value)
    if hint in (None, NoneType):
        return value is None
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and _finite(value)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if dataclasses.is_dataclass(hint):  # checked by itself, with its own name
        return isinstance(value, dict)
    return isinstance(value, hint)


def _finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond a float
        return False


def check_transform(modality: str, data: Any, where: str) -> None:
    """Check a tower's preprocessing. Raises BundleError with the field."""
    if modality not in TRANSFORMS:
        raise BundleError(f"towers.{shorten(modality)} is not a tower; known: image, text")
    for name, value in check_fields(TRANSFORMS[modality], data, where).items():
        if name in RANGES and isinstance(value, int):
            check_range(value, *RANGES[name], f"{where}.{name}")
    try:
        check_prompts(data.get("prompts", {}))
    except BundleError as error:
        raise BundleError(f"{where}.{error.message}") from None


def check_range(value: int, low: int, high: int, where: str) -> None:
    if not low <= value <= high:
        raise BundleError(f"{where} is {show_value(value)}; allowed: {low} to {high}")


def check_names(data: Mapping[str, Any]) -> None:
    """Check the texts that logs, headers and terminals show. Raises BundleError with the field."""
    for name in SHOWN_TEXTS:
        text = data.get(name) or ""
        if len(text) > MAX_SHOWN_CHARS or not text.isprintable():
            raise BundleError(f"{name} is not a line of at most {MAX_SHOWN_CHARS} characters")
    if not _FINGERPRINT.fullmatch(data.get("fingerprint", "")):
        raise BundleError(f"fingerprint is malformed: {show_value(data['fingerprint'])}")
    for name, value in data.get("source", {}).items():
        if name in ("repo", "revision") and not (value is None or _is_line(value)):
            raise BundleError(f"source.{name} is not a line of text: {show_value(value)}")


def _is_line(value: object) -> bool:
    return isinstance(value, str) and value.isprintable() and len(value) <= MAX_SHOWN_CHARS


def check_parity(modality: str, figures: object) -> None:
    """Check the accuracy figures of one tower. Raises BundleError with the field."""
    where = f"parity.{modality}"
    if not isinstance(figures, dict):
        raise BundleError(f"{where} is not an object")
    for name in ("minimum", *(key for key in figures if key != "minimum")):
        value = figures.get(name)
        number = isinstance(value, int | float) and _conforms(value, float)
        optional = name != "minimum" and (value is None or _is_line(value))
        if not number and not optional:
            raise BundleError(f"{where}.{shorten(name)} has a value that is not allowed")
    if not -1 <= figures["minimum"] <= MAX_COSINE:
        raise BundleError(f"{where}.minimum is {show_value(figures['minimum'])}; it is a cosine")


def check_files(files: Mapping[str, Mapping[str, Any]], manifest_name: str, *, fast: bool) -> None:
    """Check names (plain ones: nothing outside the bundle), sizes and hashes.

    `fast`: the format has XXH3 checksums too.
    """
    for name, facts in files.items():
        if not FILE_NAME.fullmatch(name) or name == manifest_name:
            raise BundleError(f"files: {show_value(name)} is not the plain name of a file")
        known = {"sha256", "size"} | ({"xxh3"} if fast else set())
        if facts.keys() != known:
            raise BundleError(f"files.{name} has other fields than {', '.join(sorted(known))}")
        size = facts["size"]
        if not _conforms(size, int):
            raise BundleError(f"files.{name}.size is not a whole number")
        check_range(size, 0, MAX_FILE_BYTES, f"files.{name}.size")
        for kind, pattern in (("sha256", _SHA256), ("xxh3", _XXH3)):
            if kind in known and not (
                isinstance(facts[kind], str) and pattern.fullmatch(facts[kind])
            ):
                raise BundleError(f"files.{name}.{kind} is malformed")


def check_probes(modality: str, entry: Mapping[str, Any], dimension: int) -> None:
    """Check the form of a tower's probe inputs and vectors. Raises BundleError."""
    where = f"probes.{modality}"
    if entry.keys() != {"inputs", "vectors", "reference"}:
        raise BundleError(f"{where} has other fields than inputs, reference, vectors")
    inputs, vectors = entry["inputs"], entry["vectors"]
    if not isinstance(entry["reference"], str):
        raise BundleError(f"{where}.reference is not a text")
    try:
        size = len(base64.b64decode(vectors, validate=True))
    except (binascii.Error, TypeError, ValueError):
        raise BundleError(f"{where}.vectors is not base64") from None
    rows, rest = divmod(size, 4 * dimension)
    if not rows or rest:
        raise BundleError(
            f"{where}.vectors does not hold float32 vectors of {dimension} dimensions"
        )
    if modality == "image":
        if not (isinstance(inputs, str) and _SHA256.fullmatch(inputs)):
            raise BundleError(f"{where}.inputs is not a SHA-256")
        return
    ids = inputs if isinstance(inputs, list) else []
    if len(ids) != rows or not all(_is_ids(row) for row in ids):
        raise BundleError(f"{where}.inputs does not hold the token ids of {rows} texts")


def _is_ids(row: object) -> bool:
    return (
        isinstance(row, list)
        and 0 < len(row) <= MAX_TOKENS
        and all(_conforms(number, int) and 0 <= number < MAX_ID for number in row)
    )


def shorten(name: object) -> str:
    """A name from a file for a message: one line, and not a long one."""
    text = str(name)[:40]
    return text if text.isprintable() else ascii(text)


def show_value(value: object) -> str:
    try:
        text = repr(value)
    except ValueError:  # an integer of more digits than Python writes
        text = "a number of thousands of digits"
    return text if len(text) <= 60 else text[:59] + "…"
