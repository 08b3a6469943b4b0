"""The other figures, in the active style: who is called, where a router is good, whether it knows, what it costs, and
which single model would have done better. Each takes labelled frames, which are also what its csv holds.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from routerlab.core.runs import root
from routerlab.evaluate.calibration import Reliability
from routerlab.evaluate.stats import wilson
from routerlab.figures.export import COLOURS, GREY, MARKERS, active_style
from routerlab.figures.labels import Label, beside, claim, key

_LAM = "Price of money (quality per US$, log scale)"
_OWN = "the router itself"


def call_share(title: str, share: pd.DataFrame, xlabel: str = _LAM) -> Figure:
    """Share of queries that each model (column) gets at each operating point (index: lam, or a cost), stacked; the
    names at the right stand in the order of the stack.

    Points at 0 have no place on the log axis and are left out.
    """
    share = share.loc[share.index > 0].sort_index()
    with active_style():
        figure, axes = plt.subplots(layout="constrained")
        claim(figure, title)
        x, tops = share.index.to_numpy(float), share.to_numpy(float).cumsum(1)
        bottoms = tops - share.to_numpy(float)
        labels = []
        for number, name in enumerate(share.columns):
            band, colour = (bottoms[:, number], tops[:, number]), _colour(number)
            axes.fill_between(x, *band, fc=colour, ec="white", lw=0.6)
            at = x[-1], (number + 0.5) / len(share.columns)
            labels.append(Label(str(name), [at], colour, "bold", "s"))
        axes.set(xscale="log", xlabel=xlabel, ylabel="Share of calls (%)", ylim=(0, 1))
        axes.set_xlim(x[0], x[-1])
        axes.yaxis.set_major_formatter(_percent)
        beside(figure, axes, labels, join=False)
    return figure


def quality_by_domain(title: str, mean: pd.DataFrame, low: pd.DataFrame, high: pd.DataFrame) -> Figure:
    """Quality of each router (column) in each domain (index) as dots with intervals; all frames have like labels."""
    count = len(mean.columns)
    with active_style():
        figure, axes = _rows(len(mean), 0.5 * count + 0.5)
        claim(figure, title)
        handles = []
        for number, name in enumerate(mean.columns):
            y = np.arange(len(mean)) + ((number + 0.5) / count - 0.5) * 0.8
            ends = np.abs([mean[name] - low[name], high[name] - mean[name]])
            marker: dict[str, Any] = {"fmt": _marker(number), "color": _colour(number)}
            handles.append(axes.errorbar(mean[name], y, xerr=ends, ms=3.5, elinewidth=1, **marker))
        for edge in range(1, len(mean)):
            axes.axhline(edge - 0.5, color=GREY, lw=0.4, alpha=0.4)
        axes.set(ylim=(len(mean) - 0.5, -0.5), xlabel="Correct answers (%)")
        axes.set_yticks(range(len(mean)), list(mean.index))
        axes.grid(visible=False, axis="y")
        axes.xaxis.set_major_formatter(_percent)
        key(figure, handles, list(mean.columns))
    return figure


def calibration(title: str, curves: Mapping[str, Reliability]) -> Figure:
    """What came true against what was predicted, for reliability curves by name, over the counts of the bins; bands are
    95 % Wilson intervals.
    """
    with active_style():
        width = mpl.rcParams["figure.figsize"][0]
        figure = plt.figure(layout="constrained", figsize=(width, 0.85 * width))
        axes, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        claim(figure, title)
        axes.plot([0, 1], [0, 1], ls="--", lw=1, color=GREY, zorder=1)
        labels = []
        for number, (name, curve) in enumerate(curves.items()):
            colour, marker = _colour(number), _marker(number)
            passed = np.minimum(curve.happened * curve.count, curve.count)
            band = wilson(passed, curve.count)
            axes.fill_between(curve.predicted, *band, color=colour, alpha=0.15, lw=0)
            for where, y in ((axes, curve.happened), (below, curve.count)):
                where.plot(curve.predicted, y, color=colour, marker=marker, ms=4, lw=1.2)
            end = float(curve.predicted[-1]), float(curve.happened[-1])
            text = f"{name}\nECE {curve.ece:.3f}"
            labels.append(Label(text, [end], colour, "bold", marker))
        axes.margins(0.02)
        axes.set(ylim=(-0.02, 1.02), ylabel="Came true")
        below.set(xlabel="Predicted quality", ylabel="Count", yscale="log")
        figure.align_ylabels()
        beside(figure, axes, labels)
    return figure


def costs(title: str, usd: pd.DataFrame, own: pd.Series | None = None) -> Figure:
    """Mean cost a query (USD) of each router (index) by the model that was paid (column), and of the router itself
    (`own`), as stacked bars with their totals.
    """
    parts = usd if own is None else usd.assign(**{_OWN: own})
    with active_style():
        figure, axes = _rows(len(parts), 2.2)
        claim(figure, title)
        left, handles = np.zeros(len(parts)), []
        for number, name in enumerate(parts.columns):
            mine = own is not None and name == _OWN
            plain, hatched = {"color": _colour(number)}, {"color": GREY, "hatch": "////"}
            look: dict[str, Any] = hatched if mine else plain
            wide = parts[name].to_numpy() * 1000
            handles.append(axes.barh(parts.index, wide, 0.7, left, ec="white", lw=0.5, **look))
            left = left + wide
        totals = [f"{t:#.3g}" for t in left]
        axes.bar_label(handles[-1], totals, padding=3, size=_small())
        axes.set(xlabel="Cost (US$ per 1,000 queries)", xlim=(0, left.max() * 1.15))
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        key(figure, handles, list(parts.columns))
    return figure


def published() -> pd.DataFrame:
    """What the xRouter paper reports: `where` (suite), `model`, mean `quality` in the suite's own unit and `usd` an
    item (for LiveBench: of the whole run). See data/published/README.md.
    """
    names = {"benchmark": "where", "score": "quality", "usd_per_item_or_run": "usd"}
    return pd.read_csv(root() / "data" / "published" / "xrouter_results.csv").rename(columns=names)


def dominators(frame: pd.DataFrame, routers: Sequence[str]) -> pd.DataFrame:
    """Which single model (column) strictly dominates which router where (index): more quality for less cost.

    `frame` has a row for each `model`, single ones and routers, and place (`where`), with `quality` and `usd`.
    """
    wide = frame.pivot(index="where", columns="model", values=["quality", "usd"])
    wide = wide.loc[frame["where"].unique()]
    models = [name for name in frame["model"].unique() if name not in routers]
    found = {
        (where, router): {
            m: row["quality", m] > row["quality", router] and row["usd", m] < row["usd", router] for m in models
        }
        for where, row in wide.iterrows()
        for router in routers
    }
    return pd.DataFrame.from_dict(found, orient="index").loc[:, models]


def dominance(title: str, table: pd.DataFrame) -> Figure:
    """A grid of `dominators`: a cell is dark where the model of its row dominates the router of its column; the last
    row says whether any does.
    """
    places = list(dict.fromkeys(table.index.get_level_values(0)))
    group = np.array([places.index(w) for w in table.index.get_level_values(0)])
    x = np.arange(len(table)) + 0.6 * group
    rows = [*table.columns, "any of them"]
    with active_style():
        figure, axes = _rows(len(rows), 1.5, 11)
        claim(figure, title)
        for row, name in enumerate(rows):
            hit = (table.any(axis=1) if row == len(table.columns) else table[name]).to_numpy(bool)
            height = row + 0.4 * (row == len(table.columns))
            dark = COLOURS[1] if row == len(table.columns) else COLOURS[0]
            axes.bar(x, 0.88, 0.88, height - 0.44, color=np.where(hit, dark, "#E8EAED"))
        names = [
            axes.text(x[group == number].mean(), -0.7, place, ha="center", size=_small())
            for number, place in enumerate(places)
        ]
        axes.set(ylim=(len(rows), -0.6), xlim=(x[0] - 0.6, x[-1] + 0.6))
        axes.set_yticks([*range(len(rows) - 1), len(rows) - 0.6], rows)
        axes.set_xticks(x, list(table.index.get_level_values(1)), rotation=90)
        axes.tick_params(length=0)
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        figure.draw_without_rendering()
        boxes = [name.get_window_extent().padded(4) for name in names]
        if any(a.overlaps(b) for a, b in pairwise(boxes)):
            for name in names:
                name.set(rotation=30, ha="left", rotation_mode="anchor")
    return figure


def suites(title: str, frame: pd.DataFrame, routers: Sequence[str], cost: str = "US$ an item") -> Figure:
    """Quality against cost in a panel for each suite (`frame` as for `dominators`); the shade is what single models
    dominate, and a cross marks the routers in it.
    """
    beaten = dominators(frame, routers).any(axis=1).unstack().loc[:, list(routers)]
    models = [name for name in frame["model"].unique() if name not in routers]
    looks: dict[str, dict[str, Any]] = {m: {"color": GREY, "mfc": "white"} for m in models}
    looks |= {router: {"color": _colour(number)} for number, router in enumerate(routers)}
    for name, look in looks.items():
        look["marker"] = _marker((models if name in models else list(routers)).index(name))
    places = list(frame["where"].unique())
    with active_style():
        width = mpl.rcParams["figure.figsize"][0]
        columns = 3 if width > 4.5 else 2
        rows = -(-len(places) // columns)
        size = width, 0.7 * width / columns * rows + 0.9
        figure = plt.figure(layout="constrained", figsize=size)
        grid = figure.subplots(rows, columns, squeeze=False)
        claim(figure, title)
        for place, axes in zip(places, grid.flat, strict=False):
            rows_ = frame[frame["where"] == place].set_index("model")
            _panel(axes, rows_, looks, models)
            lost = beaten.loc[place]
            axes.set_title(f"{place}: {lost.sum()} of {len(routers)} ×", size=_small(), pad=3)
            for router in np.array(routers)[lost]:
                at = rows_.usd[router], rows_.quality[router]
                axes.plot(*at, "x", color="black", ms=5.5, mew=0.8, zorder=5)
        for axes in grid.flat[len(places) :]:
            axes.set_visible(False)
        for axes in grid[:, 0]:
            axes.set_ylabel("Score", size=_small())
        grid[-1, 0].set_xlabel(f"Cost ({cost}; log scale)", size=_small(), loc="left")
        names = [*looks, "dominated by a model"]
        looks[names[-1]] = {"color": "black", "marker": "x"}
        key(figure, [Line2D([], [], ls="", ms=4, **looks[name]) for name in names], names)
    return figure


def _panel(axes: Axes, rows: pd.DataFrame, looks: Mapping[str, dict], models: Sequence[str]) -> None:
    for name, look in looks.items():
        axes.plot(rows.usd[name], rows.quality[name], ms=4, ls="", **look, zorder=3)
    axes.set_xscale("log")
    axes.margins(0.1)
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    fixed = rows.loc[models].sort_values("usd")
    x, y = np.r_[fixed.usd, right], np.r_[fixed.quality, -np.inf]
    axes.fill_between(x, bottom, np.maximum.accumulate(y), step="post", color=GREY, alpha=0.13, lw=0, zorder=0)
    axes.set(xlim=(left, right), ylim=(bottom, top))


def _rows(rows: int, each: float, more: float = 6) -> tuple[Figure, Axes]:
    """Axes for that many rows, each so many lines of text high."""
    line = 1.2 * mpl.rcParams["font.size"] / 72
    size = mpl.rcParams["figure.figsize"][0], line * (rows * each + more)
    return plt.subplots(layout="constrained", figsize=size)


def _percent(value: float, _) -> str:
    return f"{value * 100:.0f}"


def _small():
    return mpl.rcParams["legend.fontsize"]


def _marker(number: int) -> str:
    return MARKERS[number % len(MARKERS)]


def _colour(number: int) -> str:
    return (*COLOURS, "black", GREY)[number % (len(COLOURS) + 2)]
