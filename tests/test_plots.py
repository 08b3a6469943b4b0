"""What each figure draws, by hand-made values; what the published numbers say; and that text stays apart."""

from itertools import combinations

import matplotlib.pyplot as plt
import matplotlib.text
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from routerlab.evaluate.calibration import reliability
from routerlab.evaluate.frontier import Frontier
from routerlab.evaluate.sweep import Curve, sweep
from routerlab.figures import plots, published
from routerlab.figures.style import COLOURS, GREY, style

Text = matplotlib.text.Text


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


def _words(figure):
    """The texts of a figure that are seen, with their boxes."""
    figure.draw_without_rendering()
    hidden = set()
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]:
                if not low <= tick.get_loc() <= high:
                    hidden |= {tick.label1, tick.label2}
    found = [t for t in figure.findobj(Text) if t.get_text().strip() and t.get_visible()]
    return [(t, Text.get_window_extent(t)) for t in found if t not in hidden]


@pytest.fixture(scope="module")
def paper():
    frame = published.read()
    frame = frame[frame["where"] != "IFEval_m2"].replace({"IFEval_m1": "IFEval"})
    return frame, [name for name in frame["model"].unique() if name.startswith("xRouter")]


@pytest.fixture(scope="module")
def all_figures(paper):
    lams, models = np.geomspace(1, 1e4, 9), [f"model-{i}" for i in range(6)]
    three = pd.DataFrame([[0.4, 0.1, 0.5], [0.5, 0.2, 0.3], [0.7, 0.1, 0.2]], columns=["hard", "medium", "simple"])
    weights = np.array([[np.exp(-((i - j * 0.6) ** 2)) for i in range(6)] for j in range(9)])
    share = pd.DataFrame(weights / weights.sum(1, keepdims=True), lams, models)
    rng = np.random.default_rng(0)
    routers = [f"Router {i}" for i in range(5)]
    domains = ["arithmetic", "counting letters", "logic", "palindromes", "spelling", "words"]
    mean = pd.DataFrame(rng.uniform(0.2, 0.9, (6, 5)), domains, routers)
    guess = rng.random((4, 900))
    tables = {name: reliability(p, rng.random(900) < p) for name, p in zip(routers, guess, strict=False)}
    usd = pd.DataFrame(rng.uniform(0, 1e-4, (5, 6)), routers, models)
    own = pd.Series(1e-5, routers)
    return [
        lambda: plots.call_share("The dear ones go", share),
        lambda: plots.quality_by_domain("Words are hard", mean, mean - 0.05, mean + 0.05),
        lambda: plots.calibration("They know", tables),
        lambda: plots.costs("It costs", usd, own),
        lambda: published.dominance("It is beaten", published.dominators(*paper)),
        lambda: published.suites("It is beaten", *paper),
        lambda: plots.bands("Levels are hard", three),
        lambda: plots.distributions("They cost", _long(rng), "usd", "model", "Cost (US$, log scale)", log=True),
        lambda: plots.oracle_matrix("They differ", *_matrix()),
        lambda: plots.call_share("With intervals", share, queries=300),
        lambda: plots.lambda_sweep("It falls", {f"Router {i}": sweep(*_outcomes(i)) for i in range(3)}),
    ]


def _outcomes(seed):
    rng = np.random.default_rng(seed)
    return rng.random((200, 3)), rng.uniform(0.5, 2, (200, 3)) * [1e-5, 1e-4, 1e-3]


def _long(rng):
    return pd.DataFrame({"usd": rng.lognormal(-9, 1, 600), "model": [f"model-{i}" for i in range(6)] * 100})


def _matrix():
    share = pd.DataFrame([[0.4, 0.05, 0.05], [0.1, 0.1, 0.05], [0.05, 0.05, 0.15]], GRADES, GRADES)
    names = pd.DataFrame([["Standard"] * 3, ["Complex"] * 3, ["Ambiguous"] * 3], GRADES, GRADES)
    return share.rename_axis(index="pocket-mini", columns="pocket-max"), names


GRADES = ["CORRECT", "INCORRECT", "IDK"]


@pytest.mark.parametrize("venue", ["house", "neurips", "icml"])
@pytest.mark.parametrize("number", range(11))
def test_text_stays_apart_inside_and_large_enough(all_figures, number, venue):
    with style(venue):
        width = plt.rcParams["figure.figsize"][0]
        figure = all_figures[number]()
    assert figure.get_size_inches()[0] == width
    words = _words(figure)
    upright = [(t.get_text(), b) for t, b in words if t.get_rotation() in {0, 90}]
    overlaps = [(a, b) for (a, x), (b, y) in combinations(upright, 2) if x.overlaps(y)]
    assert overlaps == []
    frame = figure.bbox.padded(0.5)
    outside = [t.get_text() for t, b in words if not (frame.contains(*b.min) and frame.contains(*b.max))]
    assert outside == []
    assert min(t.get_fontsize() for t, _ in words) >= 6


def test_shares_are_stacked_and_the_point_at_zero_is_left_out():
    share = pd.DataFrame({"a": [1, 0.25, 0.5], "b": [0, 0.75, 0.5]}, index=[0.0, 10.0, 1.0])
    (axes,) = plots.call_share("x", share).axes
    bottom, top = (c.get_paths()[0].vertices for c in axes.collections)
    assert set(map(tuple, bottom)) >= {(1, 0), (1, 0.5), (10, 0.25)}
    assert set(map(tuple, top)) >= {(1, 0.5), (10, 0.25), (1, 1), (10, 1)}
    assert axes.get_xlim() == (1, 10)
    assert [t.get_text() for t in axes.texts] == ["a", "b"]
    heights = [b.y0 for t, b in _words(axes.figure) if t.get_text() in {"a", "b"}]
    assert heights == sorted(heights), "names stand in the order of the stack"


def test_shares_are_steps_and_empty_decades_are_not_drawn():
    share = pd.DataFrame({"a": [1.0, 0.5, 0.25, 0.0], "b": [0.0, 0.5, 0.75, 1.0]}, index=[1e-3, 10.0, 20.0, 1e6])
    (axes,) = plots.call_share("x", share).axes
    assert axes.get_xlim() == (1, 200)
    bottom = set(map(tuple, axes.collections[0].get_paths()[0].vertices))
    assert bottom >= {(10, 1.0), (10, 0.5), (20, 0.5), (20, 0.25)}, "a share holds up to the next point"


def test_bands_are_stacked_and_named_at_the_last_bar():
    share = pd.DataFrame({"hard": [0.25, 0.5], "simple": [0.75, 0.5]}, index=[0, 3])
    (axes,) = plots.bands("x", share).axes
    assert [[(b.get_y(), b.get_height()) for b in c] for c in axes.containers] == [
        [(0, 0.25), (0, 0.5)],
        [(0.25, 0.75), (0.5, 0.5)],
    ]
    assert [t.get_text() for t in axes.get_xticklabels()] == ["0", "3"]
    assert [(t.get_text(), t.xy[1]) for t in axes.texts] == [("hard", 0.25), ("simple", 0.75)]
    assert [t.get_color() for t in axes.texts] == [to_hex(c[0].get_facecolor()).upper() for c in axes.containers]


def test_distributions_count_what_lies_at_or_below():
    frame = pd.DataFrame({"usd": [1.0, 2.0, 2.0, 4.0, 8.0], "model": ["b", "b", "b", "b", "a"]})
    figure = plots.distributions("x", frame, "usd", "model", "US$", log=True)
    (axes,) = figure.axes
    assert (axes.get_xscale(), axes.get_xlabel()) == ("log", "US$")
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["b", "a"]
    first, second = axes.lines[::-1]
    assert [to_hex(line.get_color()).upper() for line in (first, second)] == list(COLOURS[:2])
    assert first.get_linestyle() != second.get_linestyle()
    x, share = first.get_data()
    assert [share[np.isclose(x, at)].max() for at in (1, 2, 4)] == [0.25, 0.75, 1]
    (axes,) = plots.distributions("x", frame, "usd", "model", "US$").axes
    assert axes.get_xscale() == "linear"


def test_the_oracle_matrix_shows_each_cell_with_its_share_and_policy():
    share, names = _matrix()
    (axes,) = plots.oracle_matrix("x", share, names).axes
    np.testing.assert_array_equal(axes.collections[0].get_array(), share.to_numpy())
    texts = [t.get_text() for t in axes.texts]
    assert texts[:4] == ["40.0%\nStandard", "5.0%\nStandard", "5.0%\nStandard", "10.0%\nComplex"]
    assert (axes.get_ylabel(), axes.get_xlabel()) == ("pocket-mini", "pocket-max")
    assert [t.get_text() for t in axes.get_yticklabels()] == GRADES
    assert axes.yaxis_inverted(), "the first row is on top"


def test_a_lambda_sweep_is_drawn_as_steps_without_its_end_at_infinity():
    curve = Curve(np.array([np.inf, 10.0, 1.0]), np.array([0.25, 0.5, 1.0]), np.array([1.0, 2.0, 3.0]))
    (axes,) = plots.lambda_sweep("x", {"r": curve}).axes
    (line,) = axes.lines
    assert line.get_xydata().tolist() == [[10, 0.5], [1, 1]]
    assert line.get_drawstyle() == "steps-post"
    assert (axes.get_xscale(), [t.get_text() for t in axes.texts]) == ("log", ["r"])
    assert "Cost weight" in axes.get_xlabel()


def test_a_lambda_sweep_has_its_bands_and_grey_baselines():
    curve = Curve(np.array([np.inf, 10.0, 1.0]), np.array([0.25, 0.5, 1.0]), np.array([1.0, 2.0, 3.0]))
    lam, quality = np.array([0.5, 1.0, 10.0]), np.array([1.0, 0.8, 0.5])
    band = Frontier("r", lam, quality, quality - 0.1, quality + 0.1, quality, quality, quality)
    (axes,) = plots.lambda_sweep("x", {"r": curve, "one model": curve}, {"r": band}, ["one model"]).axes
    assert [line.get_color() for line in axes.lines] == [COLOURS[0], GREY]
    corners = {(x, round(y, 6)) for x, y in axes.collections[0].get_paths()[0].vertices}
    assert corners >= {(1, 0.7), (1, 0.9), (10, 0.4), (10, 0.6)}
    assert not any(x == 0.5 for x, _ in corners), "outside of the curve"


def test_borders_of_shares_have_their_wilson_intervals():
    share = pd.DataFrame({"a": [0.5, 0.25], "b": [0.5, 0.75]}, index=[1.0, 10.0])
    (axes,) = plots.call_share("x", share, queries=4).axes
    ends = {(x, round(y, 4)) for x, y in axes.collections[-1].get_paths()[0].vertices}
    assert ends >= {(1, 0.15), (1, 0.85)}, "Wilson: 2 of 4"


def test_totals_have_their_intervals():
    usd = pd.DataFrame({"m": [1e-3, 2e-3]}, index=["r", "s"])
    (axes,) = plots.costs("x", usd, ends=(np.array([5e-4, 1e-3]), np.array([2e-3, 4e-3]))).axes
    bars = next(c for c in axes.containers if not hasattr(c, "patches")).lines[2][0]
    np.testing.assert_allclose([s[:, 0] for s in bars.get_segments()], [[0.5, 2], [1, 4]])
    assert axes.texts[1].get_position()[0] > 4


def test_domains_are_rows_and_intervals_are_theirs():
    mean = pd.DataFrame({"r": [0.5, 0.7], "s": [0.2, 0.9]}, index=["up", "down"])
    figure = plots.quality_by_domain("x", mean, mean - 0.1, mean + 0.05)
    (axes,) = figure.axes
    assert [c.lines[0].get_xdata().tolist() for c in axes.containers] == [[0.5, 0.7], [0.2, 0.9]]
    segments = axes.containers[0].lines[2][0].get_segments()
    np.testing.assert_allclose([s[:, 0] for s in segments], [[0.4, 0.55], [0.6, 0.75]])
    assert [t.get_text() for t in axes.get_yticklabels()] == ["up", "down"]
    assert len({c.lines[0].get_marker() for c in axes.containers}) == 2
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["r", "s"]


def test_calibration_by_hand():
    guess, happened = np.array([0.1, 0.3, 0.9, 1.0]), np.array([0, 1, 1, 1])
    figure = plots.calibration("x", {"r": reliability(guess, happened, 2, equal_mass=False)})
    above, below = figure.axes
    assert above.lines[1].get_xydata().tolist() == [[0.2, 0.5], [0.95, 1.0]]
    assert below.lines[0].get_ydata().tolist() == [2, 2]
    assert above.texts[0].get_text() == "r\nECE 0.175"
    ends = set(map(tuple, above.collections[0].get_paths()[0].vertices.round(4)))
    assert ends >= {(0.95, 1.0), (0.95, 0.3424)}, "Wilson: of 2, none failed"


def test_costs_stack_up_to_their_total():
    usd = pd.DataFrame({"m": [1e-3, 2e-3], "n": [3e-3, 0.0]}, index=["r", "s"])
    figure = plots.costs("x", usd, pd.Series({"r": 0.0, "s": 5e-4}))
    (axes,) = figure.axes
    bars = [[(b.get_x(), b.get_width()) for b in c] for c in axes.containers]
    np.testing.assert_allclose(bars, [[(0, 1), (0, 2)], [(1, 3), (2, 0)], [(4, 0), (2, 0.5)]])
    assert [t.get_text() for t in axes.texts] == ["4.00", "2.50"]
    names = [t.get_text() for t in figure.legends[0].get_texts()]
    assert names == ["m", "n", "the router itself"]
    assert axes.yaxis_inverted()
    assert axes.containers[-1][0].get_hatch()
    assert not axes.containers[0][0].get_hatch()
    assert axes.get_xlim() == (0, pytest.approx(4.6))


def test_what_costs_nothing_has_no_place_in_the_legend():
    usd = pd.DataFrame({"m": [1e-3, 2e-3], "free": [0.0, 0.0], "n": [3e-3, 1e-3]}, index=["r", "s"])
    figure = plots.costs("x", usd, pd.Series({"r": 0.0, "s": 1e-15}))
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["m", "n"]
    hues = [to_hex(c[0].get_facecolor()).upper() for c in figure.axes[0].containers]
    assert hues == [COLOURS[0], COLOURS[2]], "a model keeps its colour"
    (axes,) = plots.costs("x", usd * 0).axes
    assert [t.get_text() for t in axes.texts] == ["0.00", "0.00"]


def test_domination_is_strict_in_both():
    rows = [
        ("q", "r", 0.5, 2.0),
        ("q", "same", 0.5, 1.0),
        ("q", "dear", 0.6, 2.0),
        ("q", "best", 0.6, 1.9),
    ]
    frame = pd.DataFrame(rows, columns=["where", "model", "quality", "usd"])
    table = published.dominators(frame, ["r"])
    assert table.loc[("q", "r")].to_dict() == {"same": False, "dear": False, "best": True}
    (axes,) = published.dominance("x", table).axes
    (cells,) = axes.collections
    colours = [to_hex(c).upper() for c in cells.to_rgba(np.ravel(cells.get_array()))]
    assert colours == ["#E8EAED", "#E8EAED", COLOURS[0], COLOURS[1]]
    assert [t.get_text() for t in axes.get_yticklabels()] == [*table.columns, "any of them"]


def test_published_routers_are_dominated_by_a_fixed_model_on_most_suites(paper):
    table = published.dominators(*paper)
    beaten = table.any(axis=1).unstack()
    assert beaten.shape == (6, 3)
    assert dict(beaten.sum()) == {"xRouter-7b-λ1": 4, "xRouter-7b-λ2": 5, "xRouter-7b-λ3": 5}
    assert beaten.to_numpy().sum() == 14
    assert set(beaten.index[beaten.all(axis=1)]) == {"MTBench", "IFEval", "LiveBench"}
    assert beaten.any(axis=1).all(), "each suite has a router point that a fixed model dominates"
    both = published.dominators(published.read(), paper[1])
    assert (both.loc["IFEval_m1"] & both.loc["IFEval_m2"]).any(axis=1).all(), "on both measures"


def test_a_panel_a_suite_marks_what_is_dominated(paper):
    figure = published.suites("x", *paper)
    assert len(figure.axes) == 6
    titles = [a.get_title(loc="left") for a in figure.axes]
    assert titles[:2] == ["LiveCodeBenchv5\n1 of 3 dominated", "GPQADiamond\n2 of 3 dominated"]
    assert titles[2] == "AIME25\n2 of 3 dominated"
    crosses = [sum(line.get_marker() == "x" for line in a.lines) for a in figure.axes]
    assert crosses == [1, 2, 2, 3, 3, 3]
    assert all(a.get_xscale() == "log" and len(a.lines) == 11 + n for a, n in zip(figure.axes, crosses, strict=True))
    point = next(line for line in figure.axes[0].lines if line.get_marker() == "x").get_xydata()
    assert point.tolist() == [[0.006447, 0.4229]]
    assert len(figure.legends[0].get_texts()) == 12
    units = {t.split("\n")[0]: axes.get_xlabel() for t, axes in zip(titles, figure.axes, strict=True)}
    assert units.pop("LiveBench") == "US$ per run", "its costs are not per item"
    assert set(units.values()) == {"US$ per item"}
