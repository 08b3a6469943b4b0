"""The Pareto figure: quality against cost, and the gain over the random mix."""

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from routerlab.evaluate.frontier import Frontier, hull
from routerlab.evaluate.sweep import Curve
from routerlab.figures.labels import Label, beside, place, titled
from routerlab.figures.style import COLOURS, GREY, describe, marker


def pareto(
    title: str,
    names: Sequence[str],
    models: Frontier,
    routers: Sequence[Frontier],
    oracle: tuple[Frontier, Frontier] | None = None,
    gains: Sequence[Frontier] = (),
) -> Figure:
    """Quality against cost on a log axis, which is linear below the least paid cost where something is free.

    Bars and bands are 95 % intervals over queries. The first router lies on top, with a thicker line and its band.
    With `gains` a second panel shows by how much each router is better than the random mix at the same cost.

    Args:
        title: the claim.
        names: of the single models.
        models: one point for each model, in the order of `names`; the hull of these points is drawn as the random mix.
        routers: lines with their markers, the leader first.
        oracle: the honest and the naive oracle, the ends of the bracket.
        gains: of the same routers, with quality less that of the random mix (`contest.breakdown.gains`).
    """
    with titled(title, panels=(1, 0.4) if gains else (1,)) as (figure, panels):
        axes = panels[0] if gains else panels
        _cost_axes(axes, models, *routers, *(oracle or ()))
        inside = _points(axes, names, models)
        x, y = hull(models.usd * 1000, models.quality)
        grid = _grid(axes, x[0], x[-1])
        mix = np.interp(grid, x, y)
        axes.plot(grid, mix, ls="--", lw=1.1, color=GREY, zorder=1)
        lines = [_line(axes, router, number, len(routers)) for number, router in enumerate(routers)]
        if oracle:
            inside.append(_oracle(axes, oracle))
        inside.append(Label("random mix", list(zip(grid, mix, strict=True))[20:180:8], GREY))
        if gains:
            _gains(axes, panels[1], gains)
        if lines:
            beside(figure, axes, lines)
        place(figure, axes, inside)
    return figure


def _cost_axes(axes: Axes, *shown: Frontier | Curve) -> None:
    usd = np.concatenate([s.usd for s in shown]) * 1000
    describe(axes, xlabel="Cost (US$ per 1,000 queries, log scale)", ylabel="Correct answers (%)")
    if (usd > 0).all():
        axes.set_xscale("log")
    else:  # what is free has no place on a log axis
        least = usd.min(initial=usd.max(), where=usd > 0) or 1.0
        axes.set_xscale("symlog", linthresh=least, linscale=0.5)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_minor_formatter(lambda value, _: _between_decades(axes, value))


def _grid(axes: Axes, low: float, high: float, count: int = 200) -> np.ndarray:
    """That many costs from low to high, evenly spaced on the axis."""
    scale = axes.xaxis.get_transform()
    start, end = scale.transform(np.array([low, high]))
    return np.r_[low, scale.inverted().transform(np.linspace(start, end, count)[1:-1]), high]


def _envelope(frontier: Frontier) -> np.ndarray:
    """Indices of the points that no other point of the frontier dominates, by rising cost."""
    order = np.lexsort((-frontier.quality, frontier.usd))
    best = np.maximum.accumulate(frontier.quality[order])
    return order[np.r_[True, best[1:] > best[:-1]]]


def _line(axes: Axes, router: Frontier, number: int, of: int) -> Label:
    at = _envelope(router)
    x, y, low, high = router.usd[at] * 1000, router.quality[at], router.quality_low[at], router.quality_high[at]
    hue, sign = COLOURS[number % len(COLOURS)], marker(number)
    over = 3 - number / of  # the first lies on top
    # Between two points a router mixes them: straight in dollars, so a curve on this axis.
    grid = np.union1d(x, _grid(axes, x[0], x[-1]))
    if number == 0 or of <= 3:
        look = {"color": hue, "alpha": 0.3 if number == 0 else 0.2, "lw": 0, "zorder": over - 1}
        axes.fill_between(grid, np.interp(grid, x, low), np.interp(grid, x, high), **look)
    wide = mpl.rcParams["lines.linewidth"] * (1.2 if number == 0 else 0.8)
    axes.plot(grid, np.interp(grid, x, y), color=hue, lw=wide, zorder=over)
    # Markers stand at different places on each line, so that lines which coincide can be told apart.
    wanted = _grid(axes, x[0], x[-1], 3 * of + 2)[1:-1][number::of]
    marks = np.unique(np.abs(x[:, None] - wanted).argmin(0))
    axes.vlines(x[marks], low[marks], high[marks], color=hue, lw=0.9, alpha=0.7, zorder=over)
    axes.plot(x[marks], y[marks], sign, color=hue, ms=0.7 * mpl.rcParams["lines.markersize"], zorder=over)
    return Label(router.name, [(x[-1], y[-1])], hue, "bold", sign)


def _gains(above: Axes, axes: Axes, gains: Sequence[Frontier]) -> None:
    """Lines of gains below the panel with the costs, whose axis is written here; the leader's has its band."""
    for number, gain in reversed([*enumerate(gains)]):
        order = np.argsort(gain.usd, kind="stable")
        x, hue = gain.usd[order] * 1000, COLOURS[number % len(COLOURS)]
        axes.plot(x, gain.quality[order], color=hue, lw=(1.2 if number == 0 else 0.8) * mpl.rcParams["lines.linewidth"])
        if number == 0:
            axes.fill_between(x, gain.quality_low[order], gain.quality_high[order], color=hue, alpha=0.3, lw=0)
    axes.axhline(0, ls="--", lw=1.1, color=GREY, zorder=1)
    describe(axes, xlabel=above.get_xlabel(), ylabel="Gain (points)")
    above.set_xlabel("")
    above.figure.align_ylabels()


def _oracle(axes: Axes, oracle: tuple[Frontier, Frontier]) -> Label:
    ends = [hull(f.usd * 1000, f.quality) for f in oracle]
    grid = _grid(axes, max(x[0] for x, _ in ends), min(x[-1] for x, _ in ends))
    bottom, top = (np.interp(grid, *corners) for corners in ends)
    axes.fill_between(grid, bottom, top, color=GREY, alpha=0.12, lw=0, zorder=0)
    axes.plot(grid, bottom, color=GREY, lw=0.8, zorder=1)
    axes.plot(grid, top, color=GREY, lw=0.8, ls=":", zorder=1)
    return Label("oracle bracket", list(zip(grid, top, strict=True))[40::8], GREY)


def _points(axes: Axes, names: Sequence[str], models: Frontier) -> list[Label]:
    labels = []
    for number, name in enumerate(names):
        x, y = models.usd[number] * 1000, models.quality[number]
        wide = np.array([[models.usd_low[number]], [models.usd_high[number]]]) * 1000
        tall = np.array([[models.quality_low[number]], [models.quality_high[number]]])
        bars = {"xerr": np.abs(wide - x), "yerr": np.abs(tall - y), "elinewidth": 0.9}
        axes.errorbar(x, y, **bars, fmt=marker(number), color="black", mfc="white", zorder=4)
        labels.append(Label(name, [(x, y)]))
    return labels


def _between_decades(axes: Axes, value: float) -> str:
    """2 and 5 of a decade, where so few decades are shown that their ends alone would not do."""
    low, high = axes.get_xlim()
    if value <= 0:
        return ""
    digit = round(value / 10 ** np.floor(np.log10(value) + 1e-9), 6)
    return f"{value:g}" if digit in (2, 5) and high < 40 * low else ""
