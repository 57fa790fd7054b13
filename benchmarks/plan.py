"""How much to measure: the full run, or the quick one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.checkpoints import QWEN_LAYERS
from benchmarks.inputs import (
    IMAGES_PER_SIZE,
    SIZES,
    TEXTS,
    VIDEOS,
    Video,
    byte_texts,
    image_files,
    sentences,
)
from benchmarks.load import Request, image_requests, text_requests

SHORT, FULL, LONG = 8, 77, 512
"""Tokens of a text."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    quick: bool = False
    seconds: float = 4.5
    """For one load."""
    rounds: int = 2
    """Of measuring the service and its limit back to back."""
    callers: Sequence[int] = (1, 8, 64)
    text_lengths: Sequence[int] = (SHORT, FULL)
    sizes: Sequence[tuple[int, int]] = SIZES
    image_count: int = IMAGES_PER_SIZE
    videos: Sequence[Video] = VIDEOS
    qwen_layers: int = QWEN_LAYERS
    qwen_callers: Sequence[int] = (1,)
    app_seconds: int = 4
    """For one run of benchmark_app."""
    batches: Sequence[int] = (1, 8, 32)
    mixed_load_seconds: float = 15.0
    warm_starts: bool = True
    """Start each system twice, and time the second start."""


WHOLE = Plan()
QUICK = Plan(
    quick=True,
    seconds=3.0,
    rounds=1,
    callers=(1, 8),
    sizes=(SIZES[0], SIZES[-1]),
    image_count=48,
    videos=VIDEOS[:1],
    qwen_layers=4,
    qwen_callers=(1,),
    app_seconds=2,
    batches=(1, 32),
    mixed_load_seconds=6.0,
    warm_starts=False,
)


@dataclass(frozen=True)
class Case:
    """One kind of item; `requests` renders them only when needed, because they are large."""

    name: str
    requests: Callable[[], list[Request]]


def text_case(tokens: int) -> str:
    return f"text, {tokens} tokens"


def jpeg_case(size: tuple[int, int]) -> str:
    return f"JPEG, {size[0]}x{size[1]}"


def clip_cases(plan: Plan, tokenizer: Path) -> list[Case]:
    def texts(tokens: int) -> Case:
        return Case(text_case(tokens), lambda: text_requests(sentences(tokenizer, tokens)))

    def jpegs(size: tuple[int, int]) -> Case:
        return Case(jpeg_case(size), lambda: image_requests(image_files(size, plan.image_count)))

    return [*map(texts, plan.text_lengths), *map(jpegs, plan.sizes)]


def qwen_case() -> Case:
    return Case(text_case(LONG), lambda: text_requests(byte_texts(LONG, TEXTS // 8)))
