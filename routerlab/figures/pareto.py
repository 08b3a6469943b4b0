"""The Pareto figure, quality against cost, and the explorer that moves a router's operating point along its curve."""

from collections.abc import Callable, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from routerlab.evaluate.frontier import Frontier, hull
from routerlab.evaluate.sweep import Curve
from routerlab.figures.labels import Label, beside, claim, place, titled
from routerlab.figures.style import COLOURS, GREY, active_style, marker, percent


def pareto(
    title: str,
    names: Sequence[str],
    models: Frontier,
    routers: Sequence[Frontier],
    oracle: tuple[Frontier, Frontier] | None = None,
) -> Figure:
    """Quality against cost on a log axis, which is linear below the least paid cost where something is free.

    Bars and bands are 95 % intervals over queries. The first router lies on top, with a thicker line and its band.

    Args:
        title: the claim.
        names: of the single models.
        models: one point for each model, in the order of `names`; the hull of these points is drawn as the random mix.
        routers: lines with their markers, the leader first.
        oracle: the honest and the naive oracle, the ends of the bracket.
    """
    with titled(title) as (figure, axes):
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
        if lines:
            beside(figure, axes, lines)
        place(figure, axes, inside)
    return figure


def _cost_axes(axes: Axes, *shown: Frontier | Curve) -> None:
    usd = np.concatenate([s.usd for s in shown]) * 1000
    axes.set(xlabel="Cost (US$ per 1,000 queries, log scale)", ylabel="Correct answers (%)")
    if (usd > 0).all():
        axes.set_xscale("log")
    else:  # what is free has no place on a log axis
        least = usd.min(initial=usd.max(), where=usd > 0) or 1.0
        axes.set_xscale("symlog", linthresh=least, linscale=0.5)
    axes.yaxis.set_major_formatter(percent())
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
        axes.fill_between(grid, np.interp(grid, x, low), np.interp(grid, x, high), color=hue, alpha=0.16, lw=0)
    wide = mpl.rcParams["lines.linewidth"] * (1.2 if number == 0 else 0.8)
    axes.plot(grid, np.interp(grid, x, y), color=hue, lw=wide, zorder=over)
    # Markers stand at different places on each line, so that lines which coincide can be told apart.
    wanted = _grid(axes, x[0], x[-1], 3 * of + 2)[1:-1][number::of]
    marks = np.unique(np.abs(x[:, None] - wanted).argmin(0))
    axes.vlines(x[marks], low[marks], high[marks], color=hue, lw=0.9, alpha=0.7, zorder=over)
    size = 0.7 * mpl.rcParams["lines.markersize"]
    axes.plot(x[marks], y[marks], ls="", color=hue, marker=sign, ms=size, zorder=over)
    return Label(router.name, [(x[-1], y[-1])], hue, "bold", sign)


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


def explorer(title: str, curve: Curve, names: Sequence[str], models: Frontier) -> Callable[[float], bytes]:
    """A function from a cost weight λ to a picture (PNG): the router's whole curve and the single models, drawn once,
    with the operating point at that λ marked. It is fast enough to follow a slider.
    """
    from io import BytesIO

    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    with active_style():
        figure = Figure(layout="constrained")
        canvas = FigureCanvasAgg(figure)
        axes = figure.subplots()
        _cost_axes(axes, curve, models)
        claim(figure, title)
        axes.plot(curve.usd * 1000, curve.quality, color=COLOURS[0], lw=1.5)
        labels = _points(axes, names, models)
        (point,) = axes.plot([], [], "o", ms=10, color=COLOURS[1], animated=True, zorder=5)
        text = axes.text(0.02, 0.95, "", transform=axes.transAxes, animated=True, weight="bold")
        place(figure, axes, labels)
        canvas.draw()
        background = canvas.copy_from_bbox(figure.bbox)

    def move(lam: float) -> bytes:
        quality, usd = curve.at(lam)
        canvas.restore_region(background)
        point.set_data([usd * 1000], [quality])
        text.set_text(f"{quality:.1%} right at US$ {usd * 1000:.4f} per 1,000")
        axes.draw_artist(point)
        axes.draw_artist(text)
        picture = BytesIO()
        Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB").save(picture, "PNG", compress_level=1)
        return picture.getvalue()

    return move
