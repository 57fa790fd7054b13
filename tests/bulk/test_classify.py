"""Many inputs are classified by labels of one's own."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from multimodal_embedding_serving.bulk.classify import Classified, Classifier
from multimodal_embedding_serving.bulk.listing import Listing
from multimodal_embedding_serving.bulk.stream import Refusal
from multimodal_embedding_serving.cli import app
from multimodal_embedding_serving.errors import InvalidInput, ModalityNotSupported
from multimodal_embedding_serving.sdk.similarity import Calibration
from tests.bulk.fakes import BAD, FakeModel, fill, vector
from tests.cli.running import mmes
from tests.serving import Running

LABELS = ["cat", "dog", "tree"]


def run(classifier: Classifier, *arguments: str) -> list[Any]:
    async def work() -> list[Any]:
        return [each async for each in classifier.classify(Listing(arguments))]

    return asyncio.run(work())


def test_each_input_is_compared_with_the_labels_in_the_template_of_its_kind(
    tmp_path: Path,
) -> None:
    fill(tmp_path, ["a.jpg", "b.txt"])
    (tmp_path / "c.jpg").write_bytes(BAD)
    (tmp_path / "film.mp4").write_bytes(b"123")
    model = FakeModel()
    image, text, broken, film = run(Classifier(model, LABELS), str(tmp_path))
    assert isinstance(broken, Refusal)
    photos = np.stack([vector(f"a photo of a {each}".encode()) for each in LABELS])
    plain = np.stack([vector(each.encode()) for each in LABELS])
    frames = np.sum([vector(b"123" + bytes([n])) for n in range(4)], axis=0)
    columns: list[tuple[Any, Any, Any]] = [
        (image, vector(b"a.jpg"), photos),
        (text, vector(b"b.txt"), plain),
        (film, frames / np.linalg.norm(frames), photos),
    ]
    for found, row, labels in columns:
        assert isinstance(found, Classified)
        logits = 100.0 * (labels.astype(np.float64) @ row)
        powers = np.exp(logits - logits.max())
        assert np.allclose(found.scores, powers / powers.sum(), atol=1e-4)
        assert found.label == LABELS[int(logits.argmax())]
    assert model.requests.count("cat") == 1  # the labels are embedded once, not per input
    assert model.requests.count("a photo of a cat") == 1


def test_templates_and_the_activation_can_be_chosen(tmp_path: Path) -> None:
    fill(tmp_path, ["a.jpg"])
    classifier = Classifier(FakeModel(), LABELS, ["a {}"], "sigmoid")
    (found,) = run(classifier, str(tmp_path / "a.jpg"))
    cosines = [float(vector(f"a {each}".encode()) @ vector(b"a.jpg")) for each in LABELS]
    assert np.allclose(found.scores, 1 / (1 + np.exp(-100 * np.array(cosines))), atol=1e-4)


@pytest.mark.parametrize(
    ("labels", "templates", "message"),
    [
        ([], None, "labels: must have at least one"),
        (["a", ""], None, "labels[1]: must be a string"),
        (["a"], ["photo"], "template[0]: must contain {}"),
    ],
)
def test_wrong_labels_are_named(
    labels: list[str], templates: list[str] | None, message: str
) -> None:
    with pytest.raises(InvalidInput) as error:
        Classifier(FakeModel(), labels, templates)
    assert str(error.value).startswith(message)


def test_a_model_that_reads_no_labels_is_rejected() -> None:
    with pytest.raises(ModalityNotSupported, match="Fake/one does not embed text"):
        Classifier(FakeModel(kinds=("image", "video")), LABELS)


def test_a_server_names_its_learned_scalars() -> None:
    from multimodal_embedding_serving.client.protocol import read_calibration

    assert read_calibration({"logit_scale": 3.0, "logit_bias": -1.0}) == Calibration(3.0, -1.0)
    assert not read_calibration({"model": "M"}).learned


def test_the_command_prints_a_line_for_each_input(samples: Path, tmp_path: Path) -> None:
    arguments = ["classify", str(samples / "cat.jpg"), "gone.jpg", "--text", "a cup of tea"]
    done = mmes(*arguments, "-l", "cat", "-l", "tea", "--json")
    assert done.returncode == 4
    assert "gone.jpg: no such file" in done.stderr
    assert "Builtin/mini has no learned scale" in done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(row["kind"], row["label"]) for row in rows] == [("image", "cat"), ("text", "tea")]
    for row in rows:
        assert list(row["scores"]) == ["cat", "tea"]
        assert sum(row["scores"].values()) == pytest.approx(1)


def test_a_server_classifies_the_same(server: Running, samples: Path) -> None:
    arguments = ["classify", str(samples / "cat.jpg"), "-l", "cat", "-l", "tea"]
    done = mmes(*arguments, "--server", server.url)
    assert done.stdout == mmes(*arguments).stdout
    assert done.stdout.split()[1] == "cat"


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["classify", "-l", "cat"], 2, "no input"),
        (["classify", "x"], 2, "--label"),
        (["classify", "x", "-l", "cat", "--activation", "relu"], 2, "softmax"),
    ],
)
def test_wrong_usage_is_named(arguments: list[str], status: int, message: str) -> None:
    done = CliRunner(env={"COLUMNS": "200"}).invoke(app, arguments)
    assert done.exit_code == status
    assert message in done.stderr
