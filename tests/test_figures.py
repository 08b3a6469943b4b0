import dataclasses
import hashlib
import json
import re
from itertools import combinations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.colors import to_hex
from matplotlib.text import Text

from routerlab import __version__
from routerlab.evaluate import frontier as fr
from routerlab.figures.export import export
from routerlab.figures.pareto import pareto
from routerlab.figures.style import COLOURS, MARKERS, style


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def drawing():
    rng = np.random.default_rng(0)
    cost = np.array([1e-5, 4e-5, 2e-4]) * rng.uniform(0.8, 1.2, (300, 3))
    quality = (rng.random((300, 3)) < [0.4, 0.6, 0.8]).astype(float)
    lams = fr.lam_grid(cost, 20)
    models = fr.singles(quality, cost, rng=rng)
    router = fr.trace("router", (quality * 0.2 + [0.3, 0.4, 0.5], cost), quality, cost, lams, rng=rng)
    bracket = fr.oracle_bracket(quality, cost, quality, lams, rng=rng)
    return lambda: pareto("A claim", ["a", "b", "c"], models, [router], bracket), router.frame()


def test_two_exports_are_the_same_bytes(tmp_path, drawing):
    draw, frame = drawing
    hashes = []
    for folder in ("one", "two"):
        made = export(draw(), "pareto", frame, {"table": "t", "seed": 0}, tmp_path / folder)
        hashes.append([hashlib.sha256(p.read_bytes()).hexdigest() for p in made])
    assert [p.suffix for p in made] == [".pdf", ".svg", ".png", ".csv", ".json"]
    assert hashes[0] == hashes[1]
    origin = json.loads(made[-1].read_text())
    assert re.fullmatch(rf"routerlab {re.escape(__version__)}, sources [0-9a-f]{{12}}", origin.pop("code"))
    assert origin == {"seed": 0, "table": "t"}
    written = pd.read_csv(made[3])
    np.testing.assert_allclose(written.quality, frame.quality, rtol=1e-5)
    pdf = made[0].read_bytes()
    assert b"/Type3" not in pdf
    assert b"CreationDate" not in pdf
    assert b"dc:date" not in made[1].read_bytes()


@pytest.mark.parametrize("prices", [(0.0, 4e-5, 2e-4), (0.0, 0.0, 0.0)])
def test_what_is_free_has_a_place(prices):
    rng = np.random.default_rng(0)
    quality = (rng.random((300, 3)) < [0.4, 0.6, 0.8]).astype(float)
    cost = np.tile(prices, (300, 1))
    lams, models = fr.lam_grid(cost, 20), fr.singles(quality, cost, rng=rng)
    router = fr.trace("router", (quality + 0.2, cost), quality, cost, lams, rng=rng)
    bracket = fr.oracle_bracket(quality, cost, quality, lams, rng=rng)
    figure = pareto("A claim", ["a", "b", "c"], models, [router], bracket)
    (axes,) = figure.axes
    figure.draw_without_rendering()
    places = axes.transData.transform(np.stack([models.usd * 1000, models.quality], 1))
    assert np.isfinite(places).all()
    assert (axes.bbox.x0 <= places[:, 0]).all()
    assert (places[:, 0] <= axes.bbox.x1).all()
    assert (np.diff(places[:, 0]) > 20).all() == (prices[2] > 0)
    mix = next(line for line in axes.lines if line.get_linestyle() == "--")
    assert np.isfinite(mix.get_xdata()).all()
    assert mix.get_xdata()[0] == 0


def test_a_line_is_what_mixing_its_points_reaches():
    ends = np.array([1e-5, 1e-3]), np.array([0.2, 0.8])
    bounds = [a for q in (ends[1], ends[0]) for a in (q, q, q)]
    router = fr.Frontier("two points", np.zeros(2), *bounds)
    models = fr.Frontier("models", np.zeros(2), *bounds)
    (axes,) = pareto("A claim", ["a", "b"], models, [router]).axes
    line = next(i for i in axes.lines if i.get_color() == COLOURS[0] and i.get_ls() == "-")
    cost, quality = line.get_data()
    np.testing.assert_allclose(quality, np.interp(cost, ends[0] * 1000, ends[1]))
    halfway = np.interp(np.log(0.1), np.log(cost), quality)  # on paper; in dollars a tenth of the way
    assert halfway == pytest.approx(0.2 + 0.6 / 11, abs=0.01)


def test_a_line_leaves_out_the_points_that_another_dominates():
    cost, quality = np.array([1e-5, 2e-5, 3e-5]), np.array([0.5, 0.4, 0.8])
    router = fr.Frontier("router", np.zeros(3), quality, quality, quality, cost, cost, cost)
    (axes,) = pareto("A claim", ["a", "b", "c"], router, [router]).axes
    line = next(i for i in axes.lines if i.get_color() == COLOURS[0] and i.get_ls() == "-")
    assert np.interp(0.02, *line.get_data()) == pytest.approx(0.65, abs=1e-3)
    marked = next(i for i in axes.lines if i.get_color() == COLOURS[0] and i.get_ls() == "None").get_xdata()
    assert 0.02 not in marked


def test_the_figure_shows_what_a_reader_needs(drawing):
    figure = drawing[0]()
    (axes,) = figure.axes
    texts = [t.get_text() for t in axes.texts]
    assert {"a", "b", "c", "router", "oracle bracket", "random mix"} <= set(texts)
    assert axes.get_xscale() == "log"
    assert "US$" in axes.get_xlabel()
    assert figure.get_suptitle() == "A claim"
    assert min(t.get_fontsize() for t in axes.texts) >= 6
    assert len(axes.containers) == 3, "every model has its error bars"


NAMES = ["pocket-nano", "pocket-mini", "pocket-math", "pocket-words", "pocket-max", "pocket-think"]


@pytest.fixture(scope="module")
def crowd():
    """Six models, and six routers of which two are the same and the others nearly."""
    rng = np.random.default_rng(1)
    cost = np.geomspace(5e-6, 3e-4, 6) * rng.uniform(0.8, 1.2, (400, 6))
    quality = (rng.random((400, 6)) < [0.2, 0.4, 0.15, 0.35, 0.5, 0.6]).astype(float)
    lams = fr.lam_grid(cost, 40)
    noise = [0.5, 0.5, 0.52, 0.54, 0.9, 2.0]
    routers = [
        fr.trace(
            f"Router number {number}",
            (quality + rng.normal(0, sd, quality.shape), cost),
            quality,
            cost,
            lams,
            rng=rng,
        )
        for number, sd in enumerate(noise)
    ]
    routers[1] = dataclasses.replace(routers[0], name="Its twin")
    bracket = fr.oracle_bracket(quality, cost, quality * 0.5 + 0.2, lams, rng=rng)
    return fr.singles(quality, cost, rng=rng), routers, bracket


@pytest.mark.parametrize("venue", ["house", "neurips", "icml"])
def test_a_crowded_figure_stays_readable_at_every_width(crowd, venue):
    models, routers, bracket = crowd
    title = "A claim that is as long as claims in a paper tend to be and does not fit on a line"
    with style(venue, ratio=None if venue == "house" else 0.8):
        size = plt.rcParams["figure.figsize"]
        figure = pareto(title, NAMES, models, routers, bracket)
    figure.draw_without_rendering()
    (axes,) = figure.axes
    assert tuple(figure.get_size_inches()) == pytest.approx(tuple(size))
    texts = [*axes.texts, *figure.texts, axes.xaxis.label, axes.yaxis.label]
    boxes = [Text.get_window_extent(t) for t in texts]
    overlaps = [
        (a.get_text(), b.get_text())
        for (a, x), (b, y) in combinations(zip(texts, boxes, strict=True), 2)
        if x.overlaps(y)
    ]
    assert overlaps == []
    assert all(figure.bbox.contains(*b.min) and figure.bbox.contains(*b.max) for b in boxes)
    assert " ".join(figure.get_suptitle().split()) == title
    assert min(t.get_fontsize() for t in figure.findobj(Text) if t.get_text()) >= 6
    assert {r.name for r in routers} | {*NAMES} <= {t.get_text() for t in axes.texts}


def test_points_lines_and_markers_stand_where_the_numbers_are(crowd):
    models, routers, bracket = crowd
    (axes,) = pareto("x", NAMES, models, routers, bracket).axes
    lines = [line for line in axes.lines if line.get_transform() == axes.transData]
    drawn = {tuple(line.get_xydata()[0]) for line in lines if len(line.get_xydata()) == 1}
    assert drawn == set(zip(models.usd * 1000, models.quality, strict=True))
    coloured = {line.get_color(): line for line in lines if line.get_color() in COLOURS}
    assert len(coloured) == 6
    for router, colour in zip(routers, COLOURS, strict=True):
        line = coloured[colour].get_xydata()
        assert set(map(tuple, line)) <= set(zip(router.usd * 1000, router.quality, strict=True))
        assert (np.diff(line, axis=0) > 0).all(), "only points that no other dominates"
    assert len({line.get_marker() for line in coloured.values()}) == 6


def test_the_leader_lies_on_top_with_its_band_and_markers_have_their_intervals(crowd):
    models, routers, bracket = crowd
    (axes,) = pareto("x", NAMES, models, routers, bracket).axes
    lines = [line for line in axes.lines if line.get_transform() == axes.transData and line.get_ls() == "-"]
    solid = {line.get_color(): line for line in lines}
    orders = [solid[colour].get_zorder() for colour in COLOURS]
    assert orders == sorted(orders, reverse=True)
    assert len(set(orders)) == 6
    widths = [solid[colour].get_linewidth() for colour in COLOURS]
    assert widths[0] > max(widths[1:])
    filled = [to_hex(c.get_facecolor()[0]).upper() for c in axes.collections if isinstance(c, PolyCollection)]
    assert [c for c in filled if c in COLOURS] == [COLOURS[0]], "more than three bands would cover each other"
    bars = [c for c in axes.collections if isinstance(c, LineCollection)]
    for router, colour in zip(routers, COLOURS, strict=True):
        (own,) = [c for c in bars if to_hex(c.get_color()[0]).upper() == colour]
        ends = set(zip(router.usd * 1000, router.quality_low, router.quality_high, strict=True))
        drawn = {(s[0, 0], s[0, 1], s[1, 1]) for s in own.get_segments()}
        assert 1 <= len(drawn) <= 3
        assert drawn <= ends


def test_three_routers_all_have_their_bands(crowd):
    models, routers, _ = crowd
    (axes,) = pareto("x", NAMES, models, routers[2:5]).axes
    filled = [to_hex(c.get_facecolor()[0]).upper() for c in axes.collections if isinstance(c, PolyCollection)]
    assert filled == list(COLOURS[:3])


def test_a_figure_without_routers_or_oracle_is_drawn(crowd):
    (axes,) = pareto("x", NAMES, crowd[0], []).axes
    assert len(axes.texts) == 7


def test_the_palette_is_distinct():
    assert len(set(COLOURS)) == len(COLOURS)
    assert all(re.fullmatch("#[0-9A-F]{6}", c) for c in COLOURS)
    assert len(set(MARKERS)) == len(MARKERS)


def test_the_gain_stands_below_with_the_band_of_the_leader(crowd):
    models, routers, bracket = crowd
    gains = [dataclasses.replace(r, quality=r.quality - 0.3, quality_low=r.quality - 0.4) for r in routers]
    above, below = pareto("x", NAMES, models, routers, bracket, gains).axes
    lines = {line.get_color(): line.get_xydata() for line in below.lines if line.get_color() in COLOURS}
    for gain, hue in zip(gains, COLOURS, strict=True):
        assert set(map(tuple, lines[hue])) == set(zip(gain.usd * 1000, gain.quality, strict=True))
    assert [to_hex(c.get_facecolor()[0]).upper() for c in below.collections] == [COLOURS[0]]
    assert below.lines[-1].get_ydata() == [0, 0], "where a router is as good as the random mix"
    assert (above.get_xlabel(), below.get_xlabel()[:4]) == ("", "Cost")
    assert below.lines[-2].get_color() == COLOURS[0], "the leader lies on top"


def test_labels_have_halos_and_the_leaders_band_is_seen(crowd):
    models, routers, bracket = crowd
    (axes,) = pareto("x", NAMES, models, routers, bracket).axes
    assert all(t.get_path_effects() for t in axes.texts)
    (band,) = [c for c in axes.collections if isinstance(c, PolyCollection) and c.get_alpha() == 0.3]
    assert to_hex(band.get_facecolor()[0]).upper() == COLOURS[0]
