"""Figures of results that papers published: which single models beat their routers, and in which suites."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from routerlab.core.runs import root
from routerlab.figures.labels import claim, key, titled
from routerlab.figures.style import COLOURS, GREY, active_style, colour, marker, small


def read() -> pd.DataFrame:
    """What the xRouter paper reports: `where` (suite), `model`, mean `quality` in the suite's own unit, and `usd` for
    each of what `per` names (an item; for LiveBench the whole run). See data/published/README.md.
    """
    names = {"benchmark": "where", "score": "quality", "usd_per_item_or_run": "usd"}
    frame = pd.read_csv(root() / "data" / "published" / "xrouter_results.csv").rename(columns=names)
    return frame.assign(per=np.where(frame["where"] == "LiveBench", "run", "item"))


def dominators(frame: pd.DataFrame, routers: Sequence[str]) -> pd.DataFrame:
    """Which single model (column) strictly dominates which router in which suite (index): more quality for less cost.

    `frame` has a row for each suite (`where`) and `model`, single models and routers, with `quality` and `usd`.
    """
    wide = frame.pivot(index="where", columns="model", values=["quality", "usd"])
    quality, usd = (wide[name].loc[frame["where"].unique()] for name in ("quality", "usd"))
    models = [name for name in frame["model"].unique() if name not in routers]
    beaten = {
        (where, router): (quality.loc[where, models] > quality.loc[where, router])
        & (usd.loc[where, models] < usd.loc[where, router])
        for where in quality.index
        for router in routers
    }
    return pd.DataFrame.from_dict(beaten, orient="index").loc[:, models]


def dominance(title: str, table: pd.DataFrame) -> Figure:
    """A grid of `dominators`: a cell is dark where the model of its row dominates the router of its column; the last
    row is dark where any model does.
    """
    suites = list(dict.fromkeys(table.index.get_level_values(0)))
    cells = table.astype(float).assign(**{"any of them": 2.0 * table.any(axis=1)}).T
    with titled(title, 1.5 * len(cells) + 11) as (figure, axes):
        colours = ListedColormap(["#E8EAED", COLOURS[0], COLOURS[1]])
        sns.heatmap(cells, vmin=0, vmax=2, cmap=colours, cbar=False, linewidths=1, ax=axes)
        axes.axhline(len(cells) - 1, color="white", lw=5)
        edges = np.cumsum([len(table.loc[suite]) for suite in suites])
        for edge in edges[:-1]:
            axes.axvline(edge, color="white", lw=7)
        middles = edges - np.diff(edges, prepend=0) / 2
        names = [axes.text(x, -0.2, suite, ha="center", size=small()) for x, suite in zip(middles, suites, strict=True)]
        axes.set(xlabel="", ylabel="")
        axes.set_xticks(np.arange(len(table)) + 0.5, list(table.index.get_level_values(1)), rotation=90)
        axes.tick_params(length=0)
        axes.grid(visible=False)
        figure.draw_without_rendering()
        boxes = [name.get_window_extent().padded(4) for name in names]
        if any(a.overlaps(b) for a, b in pairwise(boxes)):
            plt.setp(names, rotation=30, ha="left", rotation_mode="anchor")
    return figure


def suites(title: str, frame: pd.DataFrame, routers: Sequence[str]) -> Figure:
    """Quality against cost in a panel for each suite; single models dominate the shaded area, and a cross marks the
    routers inside it. `frame` is as for `dominators`; its column `per` names what the costs of a suite are for.
    """
    beaten = dominators(frame, routers).any(axis=1).unstack().loc[:, list(routers)]
    models = [name for name in frame["model"].unique() if name not in routers]
    looks: dict[str, dict[str, Any]] = {
        name: {"color": GREY, "mfc": "white", "marker": marker(number)} for number, name in enumerate(models)
    }
    looks |= {name: {"color": colour(number), "marker": marker(number)} for number, name in enumerate(routers)}
    places = list(frame["where"].unique())
    with active_style():
        width = mpl.rcParams["figure.figsize"][0]
        columns = 3 if width > 4.5 else 2
        rows = -(-len(places) // columns)
        figure = plt.figure(layout="constrained", figsize=(width, 0.8 * width / columns * rows + 0.9))
        grid = figure.subplots(rows, columns, squeeze=False)
        claim(figure, title)
        for where, axes in zip(places, grid.flat, strict=False):
            suite = frame[frame["where"] == where].set_index("model")
            _panel(axes, suite, looks, models)
            lost = beaten.loc[where]
            axes.set_title(f"{where}\n{lost.sum()} of {len(routers)} dominated", size=small(), pad=3)
            axes.set_xlabel(f"US$ per {suite['per'].iloc[0]}", size=small())
            for router in lost.index[lost]:
                axes.plot(suite.usd[router], suite.quality[router], "x", color="black", ms=5.5, mew=0.8, zorder=5)
        for axes in grid.flat[len(places) :]:
            axes.set_visible(False)
        for axes in grid[:, 0]:
            axes.set_ylabel("Score", size=small())
        looks["dominated by a model"] = {"color": "black", "marker": "x"}
        key(figure, [Line2D([], [], ls="", ms=4, **look) for look in looks.values()], list(looks))
    return figure


def _panel(axes: Axes, suite: pd.DataFrame, looks: Mapping[str, dict], models: Sequence[str]) -> None:
    for name, look in looks.items():
        axes.plot(suite.usd[name], suite.quality[name], ms=4, ls="", **look, zorder=3)
    axes.set_xscale("log")
    axes.margins(0.1)
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    fixed = suite.loc[models].sort_values("usd")
    x, y = np.r_[fixed.usd, right], np.r_[fixed.quality, -np.inf]
    axes.fill_between(x, bottom, np.maximum.accumulate(y), step="post", color=GREY, alpha=0.13, lw=0, zorder=0)
    axes.set(xlim=(left, right), ylim=(bottom, top))
