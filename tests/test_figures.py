import hashlib
import json
import re

import numpy as np
import pandas as pd
import pytest

from routerlab import figures
from routerlab.evaluate import frontier as fr


@pytest.fixture(scope="module")
def drawing():
    rng = np.random.default_rng(0)
    cost = np.array([1e-5, 4e-5, 2e-4]) * rng.uniform(0.8, 1.2, (300, 3))
    quality = (rng.random((300, 3)) < [0.4, 0.6, 0.8]).astype(float)
    lams = fr.lam_grid(cost, 20)
    models = fr.singles(quality, cost, rng=rng)
    router = fr.trace(
        "router", (quality * 0.2 + [0.3, 0.4, 0.5], cost), quality, cost, lams, rng=rng
    )
    bracket = fr.oracle_bracket(quality, cost, quality, lams, rng=rng)
    return lambda: figures.pareto(
        "A claim", ["a", "b", "c"], models, [router], bracket
    ), router.frame()


def test_two_exports_are_the_same_bytes(tmp_path, drawing):
    draw, frame = drawing
    hashes = []
    for folder in ("one", "two"):
        made = figures.export(draw(), "pareto", frame, {"table": "t", "seed": 0}, tmp_path / folder)
        hashes.append([hashlib.sha256(p.read_bytes()).hexdigest() for p in made])
    assert [p.suffix for p in made] == [".pdf", ".svg", ".png", ".csv", ".json"]
    assert hashes[0] == hashes[1]
    assert json.loads(made[-1].read_text()) == {"seed": 0, "table": "t"}
    written = pd.read_csv(made[3])
    np.testing.assert_allclose(written.quality, frame.quality, rtol=1e-5)
    pdf = made[0].read_bytes()
    assert b"/Type3" not in pdf
    assert b"CreationDate" not in pdf
    assert b"dc:date" not in made[1].read_bytes()


def test_the_figure_shows_what_a_reader_needs(drawing):
    figure = drawing[0]()
    (axes,) = figure.axes
    texts = [t.get_text() for t in axes.texts]
    assert {"a", "b", "c", "router", "oracle bracket", "random mix of single models"} <= set(texts)
    assert axes.get_xscale() == "log"
    assert "US$" in axes.get_xlabel()
    assert axes.get_title(loc="left") == "A claim"
    assert min(t.get_fontsize() for t in axes.texts) >= 6
    assert len(axes.containers) == 3, "every model has its error bars"


def test_the_palette_is_distinct():
    assert len(set(figures.COLOURS)) == len(figures.COLOURS)
    assert all(re.fullmatch("#[0-9A-F]{6}", c) for c in figures.COLOURS)
    assert len(set(figures.MARKERS)) == len(figures.MARKERS)
