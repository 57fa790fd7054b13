"""The input kinds of the wire: what they accept and reject, and what they expand to."""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import AsyncGenerator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast, get_args

import pytest
from pydantic import BaseModel, ValidationError

from multimodal_embedding_serving.errors import Forbidden, InvalidInput, NotFound, TooLarge
from multimodal_embedding_serving.inputs.items import (
    Embeddable,
    Images,
    InputLimits,
    ItemBatch,
    TextItem,
    Texts,
    Video,
)
from multimodal_embedding_serving.inputs.kinds import (
    KINDS,
    ImageBase64Input,
    ImageUrlInput,
    Input,
    SegmentConfig,
    TextInput,
    VideoFramesInput,
)
from multimodal_embedding_serving.inputs.media_access import LoopFetchers, MediaAccess
from multimodal_embedding_serving.media.encoded import Encoded
from multimodal_embedding_serving.media.video import Segment
from multimodal_embedding_serving.settings import Settings
from multimodal_embedding_serving.types import Modality
from tests.media_files import read_barcode, write_image, write_video

LIMITS = InputLimits(max_items=2048, max_text_chars=20)


class Body(BaseModel):
    input: Input


class FakeFetcher:
    """Records its calls."""

    def __init__(self, data: bytes = b"") -> None:
        self.data = data
        self.calls: list[tuple[str, int]] = []

    async def get(self, url: str, *, max_bytes: int) -> bytes:
        self.calls.append((url, max_bytes))
        return self.data

    async def aclose(self) -> None:
        self.calls.clear()


@pytest.fixture
def media(tmp_path: Path) -> Iterator[MediaAccess]:
    settings = Settings.from_env({}, media_roots=(tmp_path,), max_frames=50)
    access = MediaAccess.from_settings(settings, lambda kind, size: None)
    yield access
    access.close()


def parse(**fields: Any) -> Embeddable:
    return Body.model_validate({"input": fields}).input


async def run(batch: ItemBatch) -> list[Any]:
    """All items of a batch that streams."""
    items = cast("AsyncGenerator[Any, None]", batch.items)
    return [item async for item in items]


def test_each_kind_is_in_the_union_under_a_tag_of_its_own() -> None:
    schema = Body.model_json_schema()["properties"]["input"]
    tags = {kind.model_json_schema()["properties"]["type"]["const"] for kind in KINDS}
    assert set(schema["discriminator"]["mapping"]) == tags
    assert len(tags) == len(schema["oneOf"]) == len(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_names_its_modality_and_expands_to_items(kind: type[BaseModel]) -> None:
    assert getattr(kind, "modality", None) in get_args(Modality)
    assert inspect.iscoroutinefunction(getattr(kind, "expand", None))


async def test_a_string_becomes_a_query_and_a_list_documents(media: MediaAccess) -> None:
    single = await parse(type="text", text="a").expand(media, LIMITS)
    assert (single.items, single.many) == ([TextItem("a", "query")], False)
    several = await parse(type="text", text=["a"]).expand(media, LIMITS)
    assert (several.items, several.many) == ([TextItem("a", "document")], True)


async def test_a_long_text_is_refused_by_its_place(media: MediaAccess) -> None:
    with pytest.raises(TooLarge) as caught:
        await parse(type="text", text=["a", "b" * 21]).expand(media, LIMITS)
    assert caught.value.index == 1
    expected = "the text has 21 characters; the limit is 20 (EMBEDDING_MAX_TEXT_CHARS)"
    assert caught.value.message == expected


async def test_an_images_url_is_fetched_only_when_its_turn_comes(media: MediaAccess) -> None:
    fetcher = FakeFetcher(b"bytes")
    media = replace(media, fetcher=fetcher)
    batch = await parse(type="image_url", image_url=["https://a/b.png", "data:,x"]).expand(
        media, LIMITS
    )
    fetch, encoded = cast("list[Any]", batch.items)
    assert fetcher.calls == []
    assert media.image_source(await fetch()) == b"bytes"
    assert fetcher.calls == [("https://a/b.png", 32 * 2**20)]
    assert encoded == Encoded("data:,x")


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, Segment()),
        ({"num_frames": None, "fps": None}, Segment()),
        ({"num_frames": 0}, Segment(num_frames=0)),
        ({"extraction_fps": 2}, Segment(extraction_fps=2)),
        ({"fps": 0.5, "startOffsetSec": 3}, Segment(extraction_fps=0.5, start_offset=3)),
        ({"frame_indexes": [3, 1], "other": {}}, Segment(frame_indexes=(3, 1))),
        ({"clip_duration": -1, "pooling": "mean"}, Segment(pooling="mean")),
    ],
)
def test_a_segment_config_fills_in_the_defaults(config: dict[str, Any], expected: Segment) -> None:
    assert SegmentConfig.model_validate(config).segment(Segment()) == expected


def test_the_defaults_of_a_segment_come_from_the_settings() -> None:
    defaults = Segment(start_offset=1, clip_duration=2, num_frames=3)
    assert SegmentConfig().segment(defaults) == defaults


@pytest.mark.parametrize(
    "config",
    [
        {"num_frames": -1},
        {"num_frames": 1.5},
        {"clip_duration": 0},
        {"clip_duration": float("inf")},
        {"fps": 0},
        {"frame_indexes": [-1]},
        {"frame_indexes": [2**60]},
        {"pooling": "max"},
        {"startOffsetSec": float("nan")},
    ],
)
def test_a_segment_config_out_of_range_is_refused(config: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        SegmentConfig.model_validate(config)


async def test_a_videos_frames_stream_and_are_named_as_they_come(media: MediaAccess) -> None:
    data = write_video(frames=20, rate=10)
    batch = await Video(data, Segment(frame_indexes=(3, 11))).expand(media, LIMITS)
    assert (batch.count, batch.video, batch.many, batch.frames) == (0, True, True, [])
    assert [read_barcode(rgb) for rgb in await run(batch)] == [3, 11]
    assert [(frame.index, frame.timestamp) for frame in batch.frames or []] == [(3, 0.3), (11, 1.1)]


async def test_a_video_outside_the_roots_fails_when_it_is_loaded(media: MediaAccess) -> None:
    batch = await parse(type="video_file", video_path="/etc/passwd").expand(media, LIMITS)
    with pytest.raises(Forbidden):
        await run(batch)


async def test_a_video_in_base64_above_its_limit_is_not_decoded(media: MediaAccess) -> None:
    limits = replace(media.videos, max_bytes=100)
    batch = await parse(type="video_base64", video_base64="A" * 9000).expand(
        replace(media, videos=limits), LIMITS
    )
    with pytest.raises(TooLarge):
        await run(batch)


def write_manifest(folder: Path, **manifest: Any) -> Embeddable:
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return parse(type="frames_batch", frames_manifest_path="manifest.json")


def entry(number: int, **more: Any) -> dict[str, Any]:
    return {"frame_number": number, "timestamp": number / 25, "type": "full_frame", **more}


async def test_a_manifest_takes_images_first_and_then_the_video(
    media: MediaAccess, tmp_path: Path
) -> None:
    (tmp_path / "a.png").write_bytes(write_image("png"))
    (tmp_path / "v.mp4").write_bytes(write_video(frames=12))
    crop = entry(9, crop_bbox=[0, 0, 32.5, 16], type="detected_crop")
    frames = [entry(9), entry(4, image_path="a.png"), entry(2), crop, entry(40)]
    manifest = write_manifest(tmp_path, frames=frames, video_path="v.mp4")
    batch = await manifest.expand(media, LIMITS)
    image, second, ninth, crop_of_ninth = await run(batch)
    assert image == (tmp_path / "a.png").resolve()
    assert (read_barcode(second), read_barcode(ninth)) == (2, 9)
    assert crop_of_ninth.shape == (16, 32, 3)
    assert batch.order == [1, 2, 0, 3]
    assert [skipped.frame_number for skipped in batch.skipped or []] == [40]


async def test_a_manifests_video_that_cant_be_read_leaves_its_frames_out(
    media: MediaAccess, tmp_path: Path
) -> None:
    (tmp_path / "a.png").write_bytes(write_image("png"))
    frames = [entry(1), entry(2, image_path="a.png"), entry(3, image_path="b.png")]
    batch = await write_manifest(tmp_path, frames=frames, video_path="gone.mp4").expand(
        media, LIMITS
    )
    assert len(await run(batch)) == 1
    errors = {skipped.frame_number: skipped.error for skipped in batch.skipped or []}
    assert set(errors) == {1, 3}
    assert all(isinstance(error, NotFound) for error in errors.values())


async def test_frame_metadata_with_images_takes_the_place_of_frames(
    media: MediaAccess, tmp_path: Path
) -> None:
    """As a data preparation writes it: repeated numbers, crops in files, some from the video."""
    (tmp_path / "a.png").write_bytes(write_image("png"))
    (tmp_path / "v.mp4").write_bytes(write_video(frames=12))
    metadata = [
        entry(5, image_path="a.png"),
        entry(5, image_path="a.png", type="detected_crop"),
        entry(3),
        entry(7, image_path="gone.png"),
        entry(3, image_path=""),
    ]
    parts: dict[str, Any] = {"frames": [entry(5), entry(3)], "total_metadata_entries": 5}
    manifest = write_manifest(tmp_path, **parts, all_frame_metadata=metadata, video_path="v.mp4")
    batch = await manifest.expand(media, LIMITS)
    first, again, third, other_third = await run(batch)
    assert first == again == (tmp_path / "a.png").resolve()
    assert (read_barcode(third), read_barcode(other_third)) == (3, 3)
    assert batch.order == [0, 1, 2, 4]
    assert [skipped.frame_number for skipped in batch.skipped or []] == [7]
    without = await write_manifest(tmp_path, **parts, all_frame_metadata=metadata).expand(
        media, LIMITS
    )
    assert len(await run(without)) == 2
    assert without.order == [0, 1]
    errors = [(each.frame_number, str(each.error)) for each in without.skipped or []]
    assert [number for number, _ in errors] == [3, 7, 3]
    assert errors[0][1] == "the entry has no image_path, and the manifest no video_path"


@pytest.mark.parametrize(
    "metadata", [None, [], [entry(5)] * 3, [{"of": "another form"}], {"a": 1}, "none"]
)
async def test_frame_metadata_without_an_image_leaves_frames_as_they_are(
    media: MediaAccess, tmp_path: Path, metadata: Any
) -> None:
    (tmp_path / "v.mp4").write_bytes(write_video(frames=12))
    manifest = write_manifest(
        tmp_path, frames=[entry(5)], all_frame_metadata=metadata, video_path="v.mp4"
    )
    assert len(await run(await manifest.expand(media, LIMITS))) == 1


async def test_malformed_frame_metadata_names_its_field(media: MediaAccess, tmp_path: Path) -> None:
    metadata = [entry(5, image_path="a.png"), {"image_path": "b.png"}]
    manifest = write_manifest(tmp_path, frames=[entry(5)], all_frame_metadata=metadata)
    with pytest.raises(InvalidInput, match=r"all_frame_metadata\[1\]\.frame_number"):
        await manifest.expand(media, LIMITS)


async def test_an_image_file_is_resolved_below_the_roots_when_its_turn_comes(
    media: MediaAccess, tmp_path: Path
) -> None:
    (tmp_path / "a.png").write_bytes(write_image("png"))
    one = await parse(type="image_file", image_path="a.png").expand(media, LIMITS)
    assert (one.count, one.many) == (1, False)
    names = ["a.png", str(tmp_path / "a.png"), "../a.png", "/etc/hostname", "b.png"]
    several = await parse(type="image_file", image_path=names).expand(media, LIMITS)
    assert (several.count, several.many) == (5, True)
    inside, absolute, *outside, missing = list(cast("list[Any]", several.items))
    assert await inside() == await absolute() == (tmp_path / "a.png").resolve()
    for item in outside:
        with pytest.raises(Forbidden):
            await item()
    with pytest.raises(NotFound):
        await missing()


async def test_an_image_outside_the_roots_is_refused_by_its_place(
    media: MediaAccess, tmp_path: Path
) -> None:
    frames = [entry(1, image_path="a.png"), entry(2, image_path="/etc/hostname")]
    batch = await write_manifest(tmp_path, frames=frames).expand(media, LIMITS)
    with pytest.raises(Forbidden) as caught:
        await run(batch)
    assert caught.value.index == 1


async def test_a_manifest_of_too_many_frames_is_refused(media: MediaAccess, tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path, frames=[entry(1)] * 51, video_path="v.mp4")
    with pytest.raises(TooLarge):
        await manifest.expand(media, LIMITS)


@pytest.mark.parametrize(
    "frame",
    [{}, {"frame_number": -1, "timestamp": 0}, entry(1), entry(1, crop_bbox=[1, 2, 3])],
)
async def test_a_malformed_manifest_names_its_field(
    media: MediaAccess, tmp_path: Path, frame: dict[str, Any]
) -> None:
    with pytest.raises(InvalidInput, match=r"frames\[0\]"):
        await write_manifest(tmp_path, frames=[frame]).expand(media, LIMITS)


async def test_images_of_this_process_are_taken_as_they_are(
    media: MediaAccess, tmp_path: Path
) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"content")
    batch = await Images([b"bytes", path, "data:;base64,AA=="]).expand(media, LIMITS)
    sources = [media.image_source(item) for item in cast("list[Any]", batch.items)]
    assert sources == [b"bytes", b"content", b"\0"]


async def test_texts_keep_their_role_and_instruction(media: MediaAccess) -> None:
    batch = await Texts(["a", (1, 2)], "query", "Find").expand(media, LIMITS)
    assert batch.items == [TextItem("a", "query", "Find"), TextItem((1, 2), "query", "Find")]


def test_each_event_loop_has_a_fetcher_of_its_own() -> None:
    created: list[FakeFetcher] = []

    def make() -> FakeFetcher:
        created.append(FakeFetcher(b"bytes"))
        return created[-1]

    fetchers = LoopFetchers(make)

    async def twice() -> None:
        await fetchers.get("a", max_bytes=1)
        await fetchers.get("b", max_bytes=2)

    asyncio.run(twice())
    asyncio.run(twice())
    assert [fetcher.calls for fetcher in created] == [[("a", 1), ("b", 2)]] * 2
    asyncio.run(fetchers.aclose())


class Untouched(list[Any]):
    """Two million items that nobody may look at."""

    def __len__(self) -> int:
        return 2_000_000

    def __iter__(self) -> Iterator[Any]:
        raise AssertionError("an item was read before the items were counted")


@pytest.mark.parametrize(
    "expandable",
    [
        Texts(Untouched()),
        Images(Untouched()),
        TextInput.model_construct(type="text", text=Untouched()),
        ImageUrlInput.model_construct(type="image_url", image_url=Untouched()),
        ImageBase64Input.model_construct(type="image_base64", image_base64=Untouched()),
        VideoFramesInput.model_construct(type="video_frames", video_frames=Untouched()),
    ],
    ids=lambda each: type(each).__name__,
)
async def test_items_are_counted_before_any_is_read(
    expandable: Embeddable, media: MediaAccess
) -> None:
    with pytest.raises(TooLarge, match=r"has 2,000,000 items; the limit is 2,048"):
        await expandable.expand(media, LIMITS)
