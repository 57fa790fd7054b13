"""A hub, a machine's folders, and real processes that convert: what the conversion tests share."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import numpy as np

from multimodal_embedding_serving.bundles.bundle import TEMPORARY
from multimodal_embedding_serving.checkpoints.sources import HubAccess
from multimodal_embedding_serving.conversion.store import list_bundles, load_bundle
from multimodal_embedding_serving.engine import Engine
from multimodal_embedding_serving.settings import Settings
from multimodal_embedding_serving.types import Vectors
from tests.hub_standin import HubStandIn
from tests.serving import PATIENCE, Running

LAION = "laion/CLIP-ViT-B-32-laion2B-s34B-b79K"
ROW = "CLIP/clip-vit-b-32"
TEXTS = ["a cat", "two red boats on a lake, seen from above", "x"]
MMES = [sys.executable, "-m", "multimodal_embedding_serving"]
SERVE = [*MMES, "serve", "--port", "0"]
CONVERTED = re.compile(
    r"converted \S+ to \S+: (?P<bundle_mb>\d+) MB; "
    r"building took (?P<building_s>[\d.]+) s and (?P<building_mb>\d+) MB of private memory, "
    r"the accuracy check (?P<certifying_s>[\d.]+) s and (?P<certifying_mb>\d+) MB"
)
"""What the log says of a conversion."""


@dataclass
class Place:
    """A hub, and one machine's folders."""

    hub: HubStandIn
    folder: Path
    changes: dict[str, str] = field(default_factory=dict)

    @property
    def models(self) -> Path:
        return self.folder / "models"

    @property
    def environ(self) -> dict[str, str]:
        return {
            "EMBEDDING_MODEL_NAME": ROW,
            "EMBEDDING_OV_MODELS_DIR": str(self.models),
            "HF_ENDPOINT": self.hub.url,
            "HF_HOME": str(self.folder / "home"),
            "HF_HUB_OFFLINE": "",
            "NO_PROXY": "*",
            **self.changes,
        }

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*MMES, *arguments],
            env={**os.environ, **self.environ},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def reopen(self) -> Engine:
        """What the next start finds, or makes: in this process."""
        access = HubAccess(endpoint=self.hub.url, cache=self.folder / "home" / "hub")
        settings = Settings.from_env({}, model=ROW, models_dir=self.models, model_cache=False)
        load_bundle(settings, access=access)
        return Engine.open(settings=settings)


def embed(running: Running, source: Mapping[str, Any]) -> httpx2.Response:
    with httpx2.Client(base_url=running.url, timeout=PATIENCE, trust_env=False) as http:
        return http.post("/embeddings", json={"input": source})


def embed_texts(running: Running) -> Vectors:
    answer = embed(running, {"type": "text", "text": TEXTS})
    assert answer.status_code == 200, answer.text
    return np.array(answer.json()["embedding"], np.float32)


def conversions(*servers: Running) -> int:
    return sum(bool(CONVERTED.search(line)) for each in servers for line in each.log)


def kill_while_converting(place: Place, after: float) -> bool:
    """kill -9 so many seconds after the conversion has told its first word; False: it was done."""
    process = place.start("convert", ROW)
    assert process.stderr is not None
    assert "is licensed under" in process.stderr.readline()
    drain = threading.Thread(target=process.stderr.read)
    drain.start()
    try:
        process.wait(after)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
    status = process.wait(PATIENCE)
    drain.join(PATIENCE)
    process.stderr.close()
    return status == -signal.SIGKILL


def survive_kills(whole: Place, places: Iterator[Place], length: float) -> None:
    """At every moment: what is visible is whole, and the next start gives the right vectors.

    The right ones are those of the place whose conversion was left in peace.
    """
    with whole.reopen() as engine:
        right = engine.info.fingerprint, engine.embed(texts=TEXTS)
    for place in places:
        after = random.uniform(0, length)
        while not kill_while_converting(place, after):  # it was quicker than the first
            shutil.rmtree(place.models)
            after /= 2
        for bundle in list_bundles(place.models):
            bundle.verify()
        with place.reopen() as engine:
            assert engine.info.fingerprint == right[0], f"killed after {after:.2f} s"
            assert np.array_equal(engine.embed(texts=TEXTS), right[1])
        left = [str(path) for path in place.models.glob(f"*/*/{TEMPORARY}*/**/*")]
        left += [str(path) for path in place.models.glob(f"*/*/{TEMPORARY}*")]
        assert not left, f"killed after {after:.2f} of {length:.2f} s"


def length_of_conversion(place: Place, *options: str) -> float:
    """Seconds from the first word of `mmes convert` to its end."""
    process = place.start("convert", ROW, *options)
    assert process.stderr is not None
    assert "is licensed under" in process.stderr.readline()
    started = time.monotonic()
    rest = process.stderr.read()
    process.stderr.close()
    assert process.wait(PATIENCE) == 0, rest
    assert CONVERTED.search(rest)
    return time.monotonic() - started


def several(place: Place, moments: int) -> Iterator[Place]:
    """As many models folders of one machine: the download is shared."""
    for moment in range(moments):
        folder = place.folder / f"moment-{moment}"
        folder.mkdir()
        (folder / "home").symlink_to(place.folder / "home")
        yield Place(place.hub, folder, place.changes)


def follow_until_ready(running: Running) -> list[tuple[str, int]]:
    """(stage, percentage) as /ready tells them until it is 200; the server lives meanwhile."""
    told: list[tuple[str, int]] = []
    with httpx2.Client(base_url=running.url, timeout=PATIENCE, trust_env=False) as http:
        for _ in range(int(PATIENCE * 50)):
            answer = http.get("/ready")
            if answer.status_code == 200:
                return told
            assert answer.status_code == 503, answer.text
            assert http.get("/live").status_code == 200
            told.append((answer.json()["stage"], answer.json()["percent"]))
            time.sleep(0.02)
    raise AssertionError(f"never ready: {told[-3:]}")
