"""The sampling contract against a plain reading of it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multimodal_embedding_serving.errors import InvalidInput
from multimodal_embedding_serving.media.video import Segment, choose


def plainly(segment: Segment, frames: int, rate: float) -> list[int]:
    """The contract, word by word; an empty list where it says 422."""
    start = int(rate * segment.start_offset)
    end = frames
    if segment.clip_duration >= 0:
        end = min(frames, start + int(rate * segment.clip_duration))
    if start >= frames or start >= end:
        return []
    if segment.frame_indexes:
        inside = [index for index in segment.frame_indexes if start <= index < end]
        if inside:
            return sorted(set(inside))
    elif segment.extraction_fps:
        steps = []
        count = 0
        while start + count * rate / segment.extraction_fps < end:
            steps.append(int(start + count * rate / segment.extraction_fps))
            count += 1
        return sorted(set(steps))
    if segment.num_frames == 0:
        return list(range(start, end))
    return sorted({int(x) for x in np.linspace(start, end, segment.num_frames, endpoint=False)})


def chosen(segment: Segment, frames: int, rate: float) -> list[int]:
    try:
        return choose(segment, frames, rate)
    except InvalidInput as error:
        return [] if f"{frames} frames" in error.message else [-1]


SEGMENTS = st.builds(
    Segment,
    start_offset=st.one_of(st.just(0), st.floats(0, 200)),
    clip_duration=st.one_of(st.just(-1), st.floats(0, 200)),
    num_frames=st.integers(0, 400),
    extraction_fps=st.one_of(st.none(), st.floats(0.01, 240)),
    frame_indexes=st.one_of(st.none(), st.lists(st.integers(-5, 3000), max_size=20).map(tuple)),
)
RATES = st.one_of(
    st.sampled_from([25.0, 30.0, 24000 / 1001, 30000 / 1001, 60.0, 12.5, 1.0]), st.floats(0.1, 240)
)


@settings(max_examples=300, deadline=None)
@given(segment=SEGMENTS, frames=st.integers(0, 3000), rate=RATES)
def test_the_choice_is_what_the_contract_says(segment: Segment, frames: int, rate: float) -> None:
    numbers = chosen(segment, frames, rate)
    assert numbers == plainly(segment, frames, rate)
    assert numbers == sorted(set(numbers))
    assert all(0 <= number < frames for number in numbers)


@pytest.mark.parametrize(
    ("segment", "expected"),
    [
        (Segment(num_frames=4), [0, 25, 50, 75]),
        (Segment(num_frames=0, clip_duration=0.2), [0, 1, 2, 3, 4]),
        (Segment(num_frames=3, start_offset=2, clip_duration=1), [50, 58, 66]),
        (Segment(num_frames=1000, start_offset=3.9), [97, 98, 99]),
        (Segment(extraction_fps=1), [0, 25, 50, 75]),
        (Segment(extraction_fps=2, start_offset=1, clip_duration=1), [25, 37]),
        (Segment(extraction_fps=1000, clip_duration=0.2), [0, 1, 2, 3, 4]),
        (Segment(frame_indexes=(99, 3, 3, 500, -1, 0)), [0, 3, 99]),
        (Segment(frame_indexes=(99, 3), extraction_fps=1, num_frames=1), [3, 99]),
        (Segment(frame_indexes=(500,), extraction_fps=1, num_frames=2), [0, 50]),
        (Segment(frame_indexes=(), extraction_fps=1, num_frames=2), [0, 25, 50, 75]),
        (Segment(frame_indexes=(3, 60), start_offset=1), [60]),
        (Segment(num_frames=2, clip_duration=1e9), [0, 50]),
        (Segment(num_frames=2, clip_duration=math.inf), [0, 50]),
        (Segment(num_frames=2, clip_duration=-5), [0, 50]),
        (Segment(extraction_fps=5e-324), [0]),
        (Segment(extraction_fps=math.inf, clip_duration=0.1), [0, 1]),
        (Segment(num_frames=10**12, clip_duration=0.1), [0, 1]),
    ],
)
def test_four_seconds_at_25_frames_a_second(segment: Segment, expected: list[int]) -> None:
    assert choose(segment, 100, 25.0) == expected


@pytest.mark.parametrize(
    "segment",
    [
        Segment(start_offset=4),
        Segment(start_offset=1e300),
        Segment(start_offset=math.inf),
        Segment(clip_duration=0),
        Segment(clip_duration=0.01),
    ],
)
def test_a_segment_without_frames_is_a_422_that_says_the_length(segment: Segment) -> None:
    with pytest.raises(InvalidInput, match=r"100 frames \(4\.00 s\)"):
        choose(segment, 100, 25.0)


@pytest.mark.parametrize(
    "segment",
    [
        Segment(start_offset=-1),
        Segment(start_offset=math.nan),
        Segment(clip_duration=math.nan),
        Segment(num_frames=-1),
        Segment(extraction_fps=-2),
        Segment(extraction_fps=math.nan),
    ],
)
def test_a_number_that_makes_no_sense_is_a_422(segment: Segment) -> None:
    with pytest.raises(InvalidInput, match="must be a number"):
        choose(segment, 100, 25.0)
