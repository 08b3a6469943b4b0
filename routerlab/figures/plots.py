"""The other figures: who is called, where a router is good, whether its predictions hold, what it costs. Each takes
labelled frames, which are also what its csv holds.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import cycle
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from routerlab.evaluate.calibration import Reliability
from routerlab.evaluate.frontier import Frontier
from routerlab.evaluate.stats import wilson
from routerlab.evaluate.sweep import Curve
from routerlab.figures.labels import Label, beside, key, place, titled
from routerlab.figures.style import GREY, colour, describe, marker, small

_LAM = "Cost weight λ (quality per US$, log scale)"
_OWN = "the router itself"


def call_share(title: str, share: pd.DataFrame, queries: int = 0) -> Figure:
    """Share of queries that each model (column) gets at each cost weight λ (index), stacked; the names
    at the right stand in the order of the stack.

    A share is drawn up to the next point, as steps. Points at 0 have no place on the log axis and are left out; so is
    what lies more than a decade beyond the second point from either end. Given the number of queries, the 95 % interval
    of each border (Wilson) is drawn as a pale band.
    """
    share = share.loc[share.index > 0].sort_index()
    with titled(title) as (figure, axes):
        x, colours = share.index.to_numpy(float), _colours(share.columns)
        axes.stackplot(x, share.to_numpy(float).T, colors=colours, step="post", lw=0)
        ends = max(x[0], x[:2][-1] / 10), min(x[-1], x[-2:][0] * 10)
        for border in share.to_numpy(float).cumsum(1).T[:-1] if queries else ():
            band = wilson(border.clip(0, 1) * queries, np.full(len(border), queries))
            axes.fill_between(x, *band, color="white", alpha=0.35, lw=0, step="post")
        describe(axes, xscale="log", xlabel=_LAM, ylabel="Share of calls (%)", ylim=(0, 1), xlim=ends)
        evenly = (np.arange(len(share.columns)) + 0.5) / len(share.columns)
        _name_layers(figure, axes, share.columns, ends[1], evenly)
    return figure


def bands(title: str, share: pd.DataFrame, xlabel: str = "Level of the question") -> Figure:
    """Stacked bars, one for each row: the share of questions in each band of difficulty (column)."""
    with titled(title) as (figure, axes):
        look = {"color": _colours(share.columns), "width": 0.75, "rot": 0, "legend": False, "ec": "white", "lw": 0.6}
        share.plot.bar(ax=axes, stacked=True, **look)
        describe(axes, xlabel=xlabel, ylabel="Share of questions (%)", ylim=(0, 1))
        axes.grid(visible=False, axis="x")
        last = share.iloc[-1]
        _name_layers(figure, axes, share.columns, len(share) - 0.625, last.cumsum() - last / 2)
    return figure


def distributions(title: str, frame: pd.DataFrame, value: str, by: str, xlabel: str, log: bool = False) -> Figure:
    """Cumulative distributions of one column of a long frame, a line for each value of another.

    Args:
        title: the claim.
        frame: one row for each measurement.
        value: the column that is distributed, for example a pass rate or a cost.
        by: the column that tells the lines apart, for example the level or the model.
        xlabel: what `value` is, with its unit.
        log: a log axis, for costs.
    """
    with titled(title) as (figure, axes):
        names = list(dict.fromkeys(frame[by]))
        look = {"hue": by, "hue_order": names, "palette": _colours(names), "legend": False}
        sns.ecdfplot(frame, x=value, log_scale=log or None, ax=axes, **look)
        lines = axes.lines[::-1]  # seaborn draws the last name first
        for line, dashes in zip(lines, cycle(("-", "--", "-.", ":"))):
            line.set(linestyle=dashes)
        describe(axes, xlabel=xlabel, ylabel="Share at or below (%)")
        key(figure, lines, list(map(str, names)))
    return figure


def oracle_matrix(title: str, share: pd.DataFrame, names: pd.DataFrame) -> Figure:
    """A heat map of how often one model (rows) gets each grade while another (columns) gets each grade.

    `share` adds up to 1, and its axes are named for the two models; `names` is what to write into each cell below its
    share: the policy that the cell asks for.
    """
    with titled(title) as (figure, axes):
        text = share.map("{:.1%}\n".format) + names.to_numpy()
        sns.heatmap(share, annot=text, fmt="", cmap="Blues", vmin=0, cbar=False, linewidths=1, ax=axes)
        axes.tick_params(length=0)
        axes.tick_params(axis="y", rotation=0)
        axes.grid(visible=False)
    return figure


def lambda_sweep(
    title: str,
    curves: Mapping[str, Curve],
    intervals: Mapping[str, Frontier] | None = None,
    baselines: Collection[str] = (),
) -> Figure:
    """Quality at every cost weight λ, as exact steps, for curves by name: how fast does each give up quality?
    `intervals` are points of some of them with 95 % intervals, drawn as bands; `baselines` are names of curves drawn in
    grey.
    """
    with titled(title) as (figure, axes):
        labels = []
        for number, (name, curve) in enumerate(curves.items()):
            hue = GREY if name in baselines else colour(number)
            lam, quality = curve.lam[1:], curve.quality[1:]
            axes.step(lam, quality, where="post", color=hue, ls=("-", "--", "-.", ":")[number % 4])
            at = np.unique(np.linspace(0.2, 0.8, 13) * (len(lam) - 1), axis=0).astype(int)
            labels.append(Label(name, list(zip(lam[at], quality[at], strict=True)), hue, "bold"))
            if band := (intervals or {}).get(name):
                inside = (band.lam >= lam.min()) & (band.lam <= lam.max())
                ends = band.quality_low[inside], band.quality_high[inside]
                axes.fill_between(band.lam[inside], *ends, color=hue, alpha=0.2, lw=0)
        describe(axes, xscale="log", xlabel=_LAM, ylabel="Correct answers (%)")
        place(figure, axes, labels)
    return figure


def growth(title: str, frame: pd.DataFrame, xlabel: str, ylabel: str) -> Figure:
    """What grows with a number of things (labels, probes, steps; on a log axis): columns `name`, `x`, `mean`, `low` and
    `high`, a line with its interval for each name.
    """
    with titled(title) as (figure, axes):
        labels = []
        for number, (name, line) in enumerate(frame.groupby("name", sort=False)):
            hue, sign = colour(number), marker(number)
            axes.fill_between(line["x"], line["low"], line["high"], color=hue, alpha=0.12, lw=0)
            axes.plot(line["x"], line["mean"], color=hue, marker=sign, ms=4)
            points = list(zip(line["x"], line["mean"], strict=True))
            labels.append(Label(str(name), points[len(points) // 2 :], hue, "bold", sign))
        axes.set(xscale="log", xlabel=xlabel, ylabel=ylabel)
        axes.set_xticks(ticks := sorted(frame["x"].unique()), [f"{x:,.0f}" for x in ticks])
        axes.minorticks_off()
        place(figure, axes, labels)
    return figure


def quality_by_domain(title: str, mean: pd.DataFrame, low: pd.DataFrame, high: pd.DataFrame) -> Figure:
    """Quality of each router (column) in each domain (index) as dots with intervals; the frames have one shape."""
    count = len(mean.columns)
    with titled(title, (0.5 * count + 0.5) * len(mean) + 6) as (figure, axes):
        handles = []
        for number, name in enumerate(mean.columns):
            y = np.arange(len(mean)) + ((number + 0.5) / count - 0.5) * 0.8
            ends = np.abs([mean[name] - low[name], high[name] - mean[name]])
            look: dict[str, Any] = {"fmt": marker(number), "color": colour(number), "ms": 3.5, "elinewidth": 1}
            handles.append(axes.errorbar(mean[name], y, xerr=ends, **look))
        for edge in range(1, len(mean)):
            axes.axhline(edge - 0.5, color=GREY, lw=0.4, alpha=0.4)
        describe(axes, ylim=(len(mean) - 0.5, -0.5), xlabel="Correct answers (%)")
        axes.set_yticks(range(len(mean)), list(mean.index))
        axes.grid(visible=False, axis="y")
        key(figure, handles, list(mean.columns))
    return figure


def calibration(title: str, curves: Mapping[str, Reliability]) -> Figure:
    """Observed against predicted quality of curves by name, above the counts of bins; bands are 95 % intervals."""
    with titled(title, panels=(1, 0.33)) as (figure, (axes, below)):
        axes.plot([0, 1], [0, 1], ls="--", lw=1, color=GREY, zorder=1)
        labels = []
        for number, (name, curve) in enumerate(curves.items()):
            hue, sign = colour(number), marker(number)
            passed = np.minimum(curve.happened * curve.count, curve.count)
            band = wilson(passed, curve.count)
            axes.fill_between(curve.predicted, *band, color=hue, alpha=0.25, lw=0)
            for where, y in ((axes, curve.happened), (below, curve.count)):
                where.plot(curve.predicted, y, color=hue, marker=sign, ms=4, lw=1.2)
            end = float(curve.predicted[-1]), float(curve.happened[-1])
            labels.append(Label(f"{name}\nECE {curve.ece:.3f}", [end], hue, "bold", sign))
        axes.margins(0.02)
        axes.set(ylim=(-0.02, 1.02), ylabel="Observed quality")
        below.set(xlabel="Predicted quality", ylabel="Count", yscale="log")
        figure.align_ylabels()
        beside(figure, axes, labels)
    return figure


def costs(
    title: str,
    usd: pd.DataFrame,
    own: pd.Series | None = None,
    ends: tuple[np.ndarray, np.ndarray] | None = None,
) -> Figure:
    """Stacked bars with totals: the mean cost a query (US$) of each row, such as a router, by what was paid for
    (column), such as a model. `own` is what each router paid for routing itself, `ends` are the 95 % intervals of the
    totals.
    """
    parts = usd if own is None else usd.assign(**{_OWN: own})
    parts, hues = parts * 1000, dict(zip(parts.columns, [*_colours(usd.columns), GREY], strict=False))
    totals = parts.sum(axis=1)
    seen = parts.gt(5e-3 * totals, axis=0).any()  # a part that is too thin to be seen has no place in the legend
    shown = parts.loc[:, seen] if seen.any() else parts
    with titled(title, 2.2 * len(parts) + 6) as (figure, axes):
        look = {"color": hues, "width": 0.7, "legend": False, "ec": "white", "lw": 0.5}
        shown.plot.barh(ax=axes, stacked=True, **look)
        bars: list[Any] = list(axes.containers)
        if own is not None and _OWN in shown:
            plt.setp(bars[-1], hatch="////")
        right = totals.to_numpy()
        if ends:
            low, right = (1000 * np.asarray(end) for end in ends)
            bar = [totals - low, right - totals]
            axes.errorbar(totals, range(len(totals)), xerr=bar, fmt="none", ecolor="black", elinewidth=0.9, capsize=2)
        for row, (end, total) in enumerate(zip(right, totals, strict=True)):
            axes.text(end + 0.01 * right.max(), row, f"{total:#.3g}", va="center", size=small())
        axes.set(xlabel="Cost (US$ per 1,000 queries)", ylabel="", xlim=(0, right.max() * 1.15 or 1))
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        key(figure, bars, list(map(str, shown.columns)))
    return figure


def _name_layers(figure: Figure, axes: Axes, names: pd.Index, x: float, heights: Iterable[float]) -> None:
    """The names of a stack's layers at its right, at these heights, in the order of the stack."""
    each = zip(names, heights, _colours(names), strict=True)
    beside(figure, axes, [Label(str(name), [(x, y)], hue, "bold", "s") for name, y, hue in each], join=False)


def _colours(names: Sequence[Any] | pd.Index) -> list[str]:
    return [colour(number) for number in range(len(names))]
