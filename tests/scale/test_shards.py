"""A folder of shards: planned once, done by anyone, whole at every moment."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from multimodal_embedding_serving.bulk.formats import Parquet
from multimodal_embedding_serving.bulk.items import Failure, Item
from multimodal_embedding_serving.bulk.ledger import OutputDamaged
from multimodal_embedding_serving.bulk.schema import Layout, Rows
from multimodal_embedding_serving.bulk.stream import Answer, Refusal
from multimodal_embedding_serving.errors import InvalidInput, ModelMismatch
from multimodal_embedding_serving.scale.shards import Request, Shards
from tests.bulk.fakes import fill, vector
from tests.safety.flips import flip

LAYOUT = Layout("Fake/one", "f1", 8)
NAMES = [f"{number:02}.jpg" for number in range(7)]


@pytest.fixture
def media(tmp_path: Path) -> Path:
    fill(tmp_path / "media", NAMES)
    return tmp_path / "media"


def plan(out: Path, *arguments: Path | str, **options: object) -> Shards:
    shards = Shards(out)
    shards.plan(Request(tuple(map(str, arguments)), shard_items=3), **options)  # type: ignore[arg-type]
    return shards


def do(shards: Shards, number: int, layout: Layout = LAYOUT) -> None:
    """Embed a shard with nothing but the names."""
    with shards.write(number, layout, group_rows=2) as file:
        for item in shards.items(number):
            assert isinstance(item, Item)
            file.add(Answer(item, vector(item.key.encode())[None]))
        file.publish()


def paths(out: Path) -> list[str]:
    """Names in the folder as a reader of Parquet folders sees it."""
    table = ds.dataset(out, format="parquet").to_table(["path"])
    return sorted(Path(path).name for path in table["path"].to_pylist())


def test_a_listing_is_cut_into_shards_that_together_are_it(media: Path, tmp_path: Path) -> None:
    (tmp_path / "texts.jsonl").write_text('{"text": "a text", "id": "a text"}')
    shards = plan(tmp_path / "out", media, tmp_path / "texts.jsonl")
    assert shards.pending() == [0, 1, 2]
    items = [item for number in shards.pending() for item in shards.items(number)]
    assert [item.key for item in items] == [*(str(media / name) for name in NAMES), "a text"]
    assert isinstance(items[0], Item)
    assert (items[0].kind, items[0].source) == ("image", media / "00.jpg")
    assert isinstance(items[-1], Item)
    assert (items[-1].kind, items[-1].source) == ("text", "a text")


def test_a_table_is_cut_without_being_read_and_its_rows_are_the_items(tmp_path: Path) -> None:
    texts = [f"text {number}" for number in range(8)]
    pq.write_table(pa.table({"text": texts}), tmp_path / "list.parquet")
    shards = plan(tmp_path / "out", tmp_path / "list.parquet")
    assert shards.pending() == [0, 1, 2]
    items = [item for number in shards.pending() for item in shards.items(number)]
    assert [item.source for item in items if isinstance(item, Item)] == texts
    assert shards.totals().items == 8


def test_a_shard_is_done_when_its_file_has_its_name(media: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shards = plan(out, media)
    do(shards, 1)
    assert shards.pending() == [0, 2]
    with shards.write(0, LAYOUT):
        assert paths(out) == ["03.jpg", "04.jpg", "05.jpg"]  # an unfinished file is ignored
    assert shards.pending() == [0, 2]
    do(shards, 0)
    do(shards, 2)
    do(shards, 1)  # twice, by two machines
    assert shards.pending() == []
    assert paths(out) == NAMES
    totals = shards.totals()
    assert (totals.shards, totals.done, totals.items, totals.rows) == (3, 3, 7, 7)


def test_a_file_is_as_bulk_work_writes_it(media: Path, tmp_path: Path) -> None:
    shards = plan(tmp_path / "out", media)
    do(shards, 2)
    table = pq.read_table(tmp_path / "out" / "part-000002.parquet")
    Parquet(LAYOUT).write(tmp_path / "bulk", Rows())
    schema = pq.read_schema(tmp_path / "bulk.parquet")
    assert table.schema.equals(schema, check_metadata=True)
    actual = np.array(table["vector"].to_pylist(), np.float32)
    assert np.array_equal(actual, [vector(str(media / "06.jpg").encode())])


def test_the_same_words_go_on_and_others_are_refused(media: Path, tmp_path: Path) -> None:
    do(plan(tmp_path / "out", media), 0)
    assert plan(tmp_path / "out", media).pending() == [1, 2]
    with pytest.raises(InvalidInput, match="was started with arguments"):
        plan(tmp_path / "out", media, "more")
    assert plan(tmp_path / "out", media, "more", fresh=True).pending() == [0, 1, 2]
    assert not list((tmp_path / "out").glob("part-*"))


def test_a_plan_of_the_previous_version_resumes(media: Path, tmp_path: Path) -> None:
    """As format 1 (commit a1035f3) wrote it: its facts, and the names of its files."""
    out = tmp_path / "out"
    do(plan(out, media), 1)
    facts = {"arguments": [str(media)], "dtype": "f32", "segment": None, "shard_items": 3}
    text = json.dumps({"format": 1, **facts, "shards": 3, "items": 7})
    (out / "_plan" / "plan.json").write_text(text)
    (out / "_plan" / "model.json").write_text(
        '{"model": "Fake/one", "fingerprint": "f1", "dimension": 8, "dtype": "f32"}'
    )
    assert sorted(path.name for path in (out / "_plan").iterdir()) == [
        *(f"{number:06}.jsonl" for number in range(3)),
        "model.json",
        "plan.json",
    ]
    shards = plan(out, media)
    shards.agree(LAYOUT)
    assert shards.pending() == [0, 2]


def test_a_plan_of_a_newer_version_is_left_alone(media: Path, tmp_path: Path) -> None:
    plan(tmp_path / "out", media)
    path = tmp_path / "out" / "_plan" / "plan.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 2}))
    with pytest.raises(InvalidInput, match="made by a newer version"):
        plan(tmp_path / "out", media)


def test_a_shard_has_its_rows_and_how_each_item_ended(media: Path, tmp_path: Path) -> None:
    shards = plan(tmp_path / "out", media)
    good, bad, _ = shards.items(0)
    assert isinstance(good, Item)
    assert isinstance(bad, Item)
    with shards.write(0, LAYOUT) as file:
        file.add(Answer(good, vector(b"a")[None]))
        file.add(Refusal(bad, InvalidInput("not an image")))
        file.add(Failure("list.csv:3", InvalidInput("an empty line")))
        file.publish()
    assert (file.row_count, len(file.part.done)) == (1, 3)
    lines = (tmp_path / "out" / "_errors" / "000000.jsonl").read_text().splitlines()
    assert [json.loads(line)["path"] for line in lines] == [bad.key, "list.csv:3"]


def test_a_plan_that_was_not_finished_is_made_anew(media: Path, tmp_path: Path) -> None:
    plan(tmp_path / "out", media)
    (tmp_path / "out" / "_plan" / "plan.json").unlink()
    (tmp_path / "out" / "_plan" / "000007.jsonl").write_text("of a longer plan")
    assert plan(tmp_path / "out", media).pending() == [0, 1, 2]


def test_a_folder_of_somebody_elses_files_is_left_alone(media: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "part-000000.parquet").write_bytes(b"somebody's")
    with pytest.raises(InvalidInput, match="of another job"):
        plan(tmp_path / "out", media)


def test_a_machine_with_another_model_may_not_join(media: Path, tmp_path: Path) -> None:
    shards = plan(tmp_path / "out", media)
    shards.agree(LAYOUT)
    shards.agree(LAYOUT)
    with pytest.raises(ModelMismatch, match="Fake/one"):
        shards.agree(Layout("Fake/one", "f2", 8))


def test_names_that_are_no_utf8_come_through(tmp_path: Path) -> None:
    media = tmp_path / "media"
    media.mkdir()
    odd = bytes(media) + b"/\xff.jpg"
    Path(odd.decode(errors="surrogateescape")).write_bytes(b"x")
    shards = plan(tmp_path / "out", media)
    (item,) = shards.items(0)
    assert isinstance(item, Item)
    assert isinstance(item.source, Path)
    assert item.source.read_bytes() == b"x"


def test_what_can_not_be_listed_is_an_error_of_the_plan(media: Path, tmp_path: Path) -> None:
    shards = plan(tmp_path / "out", media, "missing.jpg")
    (line,) = (tmp_path / "out" / "_errors" / "plan.jsonl").read_text().splitlines()
    assert json.loads(line)["code"] == "not_found"
    assert shards.totals().errors == 1


def test_what_lost_machines_left_is_removed(media: Path, tmp_path: Path) -> None:
    shards = plan(tmp_path / "out", media)
    (tmp_path / "out" / "_000001.abc.parquet").write_bytes(b"half")
    do(shards, 0)
    shards.tidy()
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["_errors", "_plan", "_sums", "part-000000.parquet"]


def test_a_flipped_bit_in_any_file_of_the_folder_is_found(media: Path, tmp_path: Path) -> None:
    """Each bit in turn, at random places: refused in one line, or nothing that counts differs."""
    out = tmp_path / "out"
    first = plan(out, media)
    first.agree(LAYOUT)
    do(first, 0)
    do(first, 1)
    expected, keys = paths(out), [item.key for item in items_of(first)]
    rng, outcomes, messages = random.Random(0), Counter[str](), list[str]()
    for _ in range(120):
        path = rng.choice([each for each in out.rglob("*.*") if each.stat().st_size])
        before = flip(path, rng.randrange(path.stat().st_size), rng.randrange(8))
        try:
            shards = plan(out, media)
            shards.agree(LAYOUT)
            assert [item.key for item in items_of(shards)] == keys, path
            assert shards.count(2) == 1
        except InvalidInput as error:
            messages.append(error.message)
            outcomes["rejected"] += 1
        else:
            assert paths(out) == expected, path
            assert path.parent.name == "_errors", path
            outcomes["same"] += 1
        path.write_bytes(before)
    assert outcomes["rejected"] > 60
    assert all(message.isprintable() for message in messages)


def items_of(shards: Shards) -> list[Item]:
    return [item for number in range(3) for item in shards.items(number) if isinstance(item, Item)]


def test_a_damaged_part_is_embedded_again_once_it_is_deleted(media: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    do(plan(out, media), 1)
    part = out / "part-000001.parquet"
    flip(part, part.stat().st_size // 2, 3)
    with pytest.raises(OutputDamaged, match=r"part-000001\.parquet is damaged; delete it"):
        plan(out, media)
    part.unlink()
    shards = plan(out, media)
    assert shards.pending() == [0, 1, 2]
    do(shards, 1)
    assert plan(out, media).pending() == [0, 2]
    do(shards, 1, LAYOUT)  # a second machine finishes it, too
    assert plan(out, media).pending() == [0, 2]


def test_a_plan_of_an_earlier_version_is_continued(media: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    plan(out, media)
    path = out / "_plan" / "plan.json"
    facts = json.loads(path.read_text())
    del facts["checksum"], facts["checksums"]
    path.write_text(json.dumps(facts))
    shards = plan(out, media)
    assert len(items_of(shards)) == len(NAMES)
