"""Parts of the playground that compute something, against other people's code."""

from __future__ import annotations

import csv
import io
from typing import Any

import numpy as np
import pytest

from tests.browser.playground import Playground

RUN = """async ([module, code, argument]) => {
  const exported = await import(`./playground/${module}`);
  return RUNS[code](exported, argument);
}"""
RUNS = """const RUNS = {
  project: ({ project }, vectors) => project(vectors.map(each => Float32Array.from(each)))
    .map(place => [...place]),
  texts: ({ readTexts }, [name, text]) => readTexts(new File([text], name)),
  siglip: ({ Calibration }, [scale, bias, cosines]) => {
    const calibration = new Calibration(null, { logit_scale: scale, logit_bias: bias }, () => {});
    const score = calibration.scorer({ kind: "description" }, []);
    return cosines.map(cosine => score({ kind: "image" }, cosine));
  },
  neutral: async ({ Calibration }, [vectors, items, cosines]) => {
    const service = { embedQueries: async () => vectors };
    const calibration = new Calibration(service, {}, () => {});
    calibration.load();
    await new Promise(done => setTimeout(done));
    const all = items.map((vector, id) => ({ kind: "image", id, vectors: [vector] }));
    const score = calibration.scorer({ kind: "description" }, all);
    return cosines.map(cosine => score({ kind: "image" }, cosine));
  },
};"""


def run(playground: Playground, module: str, code: str, argument: Any) -> Any:
    function = RUN.replace("{\n", "{\n" + RUNS + "\n", 1)
    return playground.page.evaluate(function, [module, code, argument])


@pytest.mark.parametrize(("count", "size"), [(40, 16), (3, 8), (2, 4)])
def test_the_map_shows_the_principal_components(quick: Playground, count: int, size: int) -> None:
    vectors = np.random.default_rng(7).normal(size=(count, size)) * (1 + np.arange(size)) ** 2
    places = np.array(run(quick, "pca.js", "project", vectors.tolist()))
    centered = vectors - vectors.mean(axis=0)
    _, _, axes = np.linalg.svd(centered, full_matrices=False)
    expected = centered @ axes[:2].T
    for place, right in zip(places.T, expected.T, strict=True):
        error = min(np.abs(place - right).max(), np.abs(place + right).max())  # either direction
        assert error < 1e-3 * np.abs(expected).max()


def test_the_map_of_equal_vectors_is_a_point(quick: Playground) -> None:
    assert run(quick, "pca.js", "project", [[1, 2, 3]] * 4) == [[0, 0]] * 4


def test_a_model_with_a_bias_gives_its_own_probability(quick: Playground) -> None:
    cosines = [-1.0, 0.0, 0.08, 0.12, 0.15, 1.0]
    scores = run(quick, "calibration.js", "siglip", [112.7, -16.8, cosines])
    expected = 1 / (1 + np.exp(-(112.7 * np.array(cosines) - 16.8)))
    assert np.allclose(scores, expected, atol=1e-9)


def test_other_models_are_compared_with_neutral_texts(quick: Playground) -> None:
    rng = np.random.default_rng(3)
    neutral, items = rng.normal(size=(30, 8)).tolist(), rng.normal(size=(12, 8)).tolist()
    cosines = np.array(neutral) @ np.array(items).T
    mean, deviation = cosines.mean(), cosines.std()
    asked = [mean, mean + 1.8 * deviation, mean + 4 * deviation]
    scores = run(quick, "calibration.js", "neutral", [neutral, items, asked])
    assert scores[0] < 0.01
    assert scores[1] == pytest.approx(0.5)
    assert scores[2] > 0.99


def test_a_column_of_texts_is_read_as_python_reads_it(quick: Playground) -> None:
    rows = [["id", "Caption", "x"], ["1", 'a "quoted" cat, here', ""], ["2", "two\nlines", "y"]]
    out = io.StringIO()
    csv.writer(out).writerows(rows)
    texts = run(quick, "textfiles.js", "texts", ["images.csv", "\ufeff" + out.getvalue()])
    assert texts == [row[1] for row in csv.reader(io.StringIO(out.getvalue()))][1:]


@pytest.mark.parametrize(
    ("name", "content", "texts"),
    [
        ("a.txt", "one\r\n\n  two  \nthree, four", ["one", "two", "three, four"]),
        ("a.csv", "one,1\ntwo,2\n", ["one", "two"]),
        ("a.tsv", "n\ttitle\n1\tfirst\n2\n", ["first"]),
        ("a.csv", "", []),
    ],
)
def test_text_files_become_texts(
    quick: Playground, name: str, content: str, texts: list[str]
) -> None:
    assert run(quick, "textfiles.js", "texts", [name, content]) == texts
