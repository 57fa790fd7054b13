"""Bulk work on a real local Ray cluster of several nodes, one of which is lost in the middle."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from multimodal_embedding_serving import Engine
from multimodal_embedding_serving.bulk.job import Tally
from tests.media_files import photo, write_image, write_video

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")]

PICTURES, SHARD = 600, 20
PATIENCE = 240.0


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures that are all different, a film, and one file that is no picture."""
    folder = tmp_path_factory.mktemp("media")
    for number in range(PICTURES):
        picture = photo(320, 240, number)
        picture.paste((number % 256, number // 256, 99), (0, 0, 60 + number % 99, 80))
        (folder / f"{number:04}.jpg").write_bytes(write_image("jpeg", picture))
    (folder / "film.mp4").write_bytes(write_video("mp4", frames=12))
    (folder / "broken.jpg").write_bytes(b"no picture")
    return folder


def table(out: Path) -> pa.Table:
    return ds.dataset(out, format="parquet").to_table()


def vectors(out: pa.Table) -> dict[tuple[str, int | None], NDArray[np.float32]]:
    """(name, frame) -> vector; each is there once."""
    names = [(Path(row["path"]).name, row["frame"]) for row in out.to_pylist()]
    assert not [name for name, count in Counter(names).items() if count > 1]
    flat = out["vector"].combine_chunks().flatten().to_numpy()
    return dict(zip(names, flat.reshape(len(names), -1), strict=True))


def test_a_lost_node_costs_no_row_and_makes_none_twice(
    cluster: Any, media: Path, tmp_path: Path
) -> None:
    from multimodal_embedding_serving.scale.ray_data import Options, embed

    out = tmp_path / "out"
    done: list[Tally] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            done.append(embed([media], out, Options(cpus=1, shard_items=SHARD)))
        except BaseException as error:
            errors.append(error)
            raise

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    begun = time.monotonic()
    while thread.is_alive() and not in_the_middle(out):
        assert time.monotonic() < begun + PATIENCE, "the nodes were never at work together"
        time.sleep(0.01)
    lost = next(iter(cluster.worker_nodes))
    cluster.remove_node(lost, allow_graceful=False)
    thread.join(PATIENCE)
    assert not thread.is_alive()
    assert not errors
    (tally,) = done
    assert tally.failed == 1
    assert tally.embedded == PICTURES + 1
    found = vectors(table(out))
    assert len(found) == tally.rows == PICTURES + 12
    with Engine.open() as engine:
        names = [f"{number:04}.jpg" for number in range(PICTURES)]
        alone = engine.embed(images=[media / name for name in names])
    together = np.stack([found[name, None] for name in names])
    assert np.abs(together - alone).max() < 1e-5
    lines = [
        json.loads(line)
        for path in (out / "_errors").glob("*.jsonl")
        for line in path.read_text().splitlines()
    ]
    assert [Path(line["path"]).name for line in lines] == ["broken.jpg"]
    assert not list(out.glob("_*.parquet"))


def in_the_middle(out: Path) -> bool:
    """Both nodes have a shard under way, some shards are done, and many are not."""
    done = len(list(out.glob("part-*")))
    return len(list(out.glob("_*.parquet"))) == 2 and 2 <= done < PICTURES / SHARD - 5


def test_a_table_is_embedded_by_rows_and_a_second_run_has_nothing_to_do(
    cluster: Any, tmp_path: Path
) -> None:
    from multimodal_embedding_serving.scale.ray_data import Options, embed

    texts = [f"a photo of {number} cats" for number in range(50)]
    pq.write_table(pa.table({"text": texts, "id": texts}), tmp_path / "list.parquet")
    options = Options(cpus=1, shard_items=20, dtype="f16")
    tally = embed([tmp_path / "list.parquet"], tmp_path / "out", options)
    assert (tally.embedded, tally.rows, tally.unchanged) == (50, 50, 0)
    found = table(tmp_path / "out")
    assert sorted(found["path"].to_pylist()) == sorted(texts)
    assert found.schema.field("vector").type.value_type == pa.float16()
    again = embed([tmp_path / "list.parquet"], tmp_path / "out", options)
    assert (again.embedded, again.rows, again.unchanged) == (0, 50, 50)
