"""The Pareto figure and the explorer over it, in the active style; with `style`, `paper_style` and `export` at hand."""

from collections.abc import Callable, Sequence

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from routerlab.evaluate.frontier import Frontier, hull
from routerlab.evaluate.sweep import Curve
from routerlab.figures.export import COLOURS, GREY, MARKERS, active_style, export, paper_style, style
from routerlab.figures.labels import Label, beside, claim, place

__all__ = [
    "COLOURS",
    "GREY",
    "MARKERS",
    "explorer",
    "export",
    "paper_style",
    "pareto",
    "plt",
    "style",
]


def pareto(
    title: str,
    names: Sequence[str],
    models: Frontier,
    routers: Sequence[Frontier],
    oracle: tuple[Frontier, Frontier] | None = None,
) -> Figure:
    """Quality against cost on a log axis, linear below the least that is paid where something is free: single models,
    their random mixes, the oracle bracket and routers.

    `models` holds one point a model, in the order of `names`. Bars and bands are 95 % intervals over queries.
    """
    with active_style():
        figure, axes = plt.subplots(layout="constrained")
        _cost_axes(axes, models, *routers, *(oracle or ()))
        claim(figure, title)
        inside = _points(axes, names, models)
        x, y = hull(models.usd * 1000, models.quality)
        grid = _grid(axes, x[0], x[-1])
        mix = np.interp(grid, x, y)
        axes.plot(grid, mix, ls="--", lw=1.1, color=GREY, zorder=1)
        lines = [_line(axes, router, number, len(routers)) for number, router in enumerate(routers)]
        if oracle:
            inside.append(_oracle(axes, oracle))
        anchors = list(zip(grid, mix, strict=True))[20:180:8]
        inside.append(Label("random mix", anchors, GREY))
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
    axes.yaxis.set_major_formatter(lambda value, _: f"{value * 100:.0f}")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_minor_formatter(lambda value, _: _between_decades(axes, value))


def _grid(axes: Axes, low: float, high: float) -> np.ndarray:
    """200 costs from low to high, evenly spaced on the axis."""
    if axes.get_xscale() == "log":
        return np.geomspace(low, high, 200)
    scale = axes.xaxis.get_transform()
    start, end = scale.transform(np.array([low, high]))
    return scale.inverted().transform(np.linspace(start, end, 200))


def _envelope(frontier: Frontier) -> np.ndarray:
    """Indices of the points that no other point of the frontier dominates, by rising cost."""
    order = np.lexsort((-frontier.quality, frontier.usd))
    best = np.maximum.accumulate(frontier.quality[order])
    return order[np.r_[True, best[1:] > best[:-1]]]


def _line(axes: Axes, router: Frontier, number: int, of: int) -> Label:
    at = _envelope(router)
    x, y = router.usd[at] * 1000, router.quality[at]
    colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
    # Between two points a router mixes them: straight in dollars, so a curve on this axis.
    grid = np.union1d(x, _grid(axes, x[0], x[-1]))
    low, mix, high = (
        np.interp(grid, x, part[at]) for part in (router.quality_low, router.quality, router.quality_high)
    )
    axes.fill_between(grid, low, high, color=colour, alpha=0.3 / (1 + of), lw=0, zorder=2)
    axes.plot(grid, mix, color=colour, zorder=3)
    # Markers stand at different places on each line, so that lines which coincide can be told apart.
    every = None if len(x) < 3 else ((number + 0.5) / of * 0.3, 0.3)
    size = 0.7 * mpl.rcParams["lines.markersize"]
    axes.plot(x, y, ls="", color=colour, marker=marker, markevery=every, ms=size, zorder=3)
    return Label(router.name, [(x[-1], y[-1])], colour, "bold", marker)


def _oracle(axes: Axes, oracle: tuple[Frontier, Frontier]) -> Label:
    ends = [hull(f.usd * 1000, f.quality) for f in oracle]
    low, high = max(x[0] for x, _ in ends), min(x[-1] for x, _ in ends)
    grid = _grid(axes, low, high)
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
        marker = MARKERS[number % len(MARKERS)]
        axes.errorbar(x, y, **bars, fmt=marker, color="black", mfc="white", zorder=4)
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
    """A function from a price of money to a picture (PNG): the whole curve and the single models, drawn once, with the
    operating point at that price marked. A slider on top of it moves at the pace of a hand.
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
        image = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
        image.save(picture, "PNG", compress_level=1)
        return picture.getvalue()

    return move
