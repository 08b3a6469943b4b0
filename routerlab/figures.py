"""House style, the Pareto figure, and export: every figure leaves with its data and where it came
from.
"""

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from routerlab.evaluate.frontier import Frontier, hull
from routerlab.runs import root, write_atomic

# Okabe and Ito (2008): distinguishable with every common colour blindness; grey is for what is only
# context.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
GREY = "#5F6368"
_STYLE: dict[Any, Any] = {
    "axes.edgecolor": GREY,
    "axes.grid": True,
    "axes.grid.which": "major",
    "axes.labelsize": 9,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "figure.dpi": 110,
    "figure.figsize": (7.0, 4.4),
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.5,
    "legend.frameon": False,
    "pdf.fonttype": 42,
    "savefig.dpi": 200,
    "svg.fonttype": "path",
    "svg.hashsalt": "routerlab",
}


@contextlib.contextmanager
def style() -> Iterator[None]:
    """The house style, for the figures drawn inside."""
    with mpl.rc_context(_STYLE):
        yield


def pareto(
    title: str,
    names: Sequence[str],
    models: Frontier,
    routers: Sequence[Frontier],
    oracle: tuple[Frontier, Frontier] | None = None,
) -> Figure:
    """Quality against cost on a log axis: single models, their random mixes, the oracle bracket and
    routers.

    `models` holds one point a model, in the order of `names`. Bars and bands are 95 % intervals
    over queries.
    """
    with style():
        figure, axes = plt.subplots(layout="constrained")
        axes.set(
            xscale="log",
            xlabel="Cost (US$ per 1,000 queries, log scale)",
            ylabel="Correct answers (%)",
        )
        axes.yaxis.set_major_formatter(lambda value, _: f"{value * 100:.0f}")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set_title(title, wrap=True)
        labels = _points(axes, names, models)
        x, y = hull(models.usd * 1000, models.quality)
        grid = np.geomspace(x[0], x[-1], 200)
        axes.plot(grid, np.interp(grid, x, y), ls="--", lw=1.1, color=GREY, zorder=1)
        for number, router in enumerate(routers):
            labels.append(_line(axes, router, COLOURS[number % len(COLOURS)]))
        if oracle:
            labels.append(_oracle(axes, oracle))
        mix = list(zip(grid, np.interp(grid, x, y), strict=True))
        labels.append(Label("random mix of single models", mix[20:180:8], GREY))
        _place(figure, axes, labels)
    return figure


class Label(NamedTuple):
    """A text, the points (in data coordinates) it may stand beside, and its colour."""

    text: str
    at: list[tuple[float, float]]
    colour: str
    weight: str = "normal"


def _envelope(frontier: Frontier) -> np.ndarray:
    """Indices of the points that no other point of the frontier dominates, by rising cost."""
    order = np.lexsort((-frontier.quality, frontier.usd))
    best = np.maximum.accumulate(frontier.quality[order])
    return order[np.r_[True, best[1:] > best[:-1]]]


def _line(axes: Axes, router: Frontier, colour: str) -> Label:
    at = _envelope(router)
    x, y = router.usd[at] * 1000, router.quality[at]
    band = router.quality_low[at], router.quality_high[at]
    axes.fill_between(x, *band, color=colour, alpha=0.15, lw=0, zorder=2)
    axes.plot(x, y, color=colour, lw=1.8, zorder=3)
    grid = np.geomspace(x[0], x[-1], 40)[4:-4]
    anchors = list(zip(grid, np.interp(grid, x, y), strict=True))
    return Label(router.name, anchors, colour, "bold")


def _oracle(axes: Axes, oracle: tuple[Frontier, Frontier]) -> Label:
    ends = [hull(f.usd * 1000, f.quality) for f in oracle]
    low, high = max(x[0] for x, _ in ends), min(x[-1] for x, _ in ends)
    grid = np.geomspace(low, high, 200)
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
        axes.errorbar(x, y, **bars, fmt=marker, ms=6, color="black", mfc="white", zorder=4)
        labels.append(Label(name, [(x, y)], "black"))
    return labels


_SIDES = [(dx, dy, ha) for dy in (-12, 6, -22, 16) for dx, ha in ((7, "left"), (-7, "right"))]


def _place(figure: Figure, axes: Axes, labels: Sequence[Label]) -> None:
    """Write each label beside one of its points, where it covers least of what is drawn already."""
    figure.draw_without_rendering()
    frame = axes.get_window_extent()
    ink = [_dense(axes.transData.transform(line.get_xydata())) for line in axes.lines]
    drawn, taken = np.vstack(ink), []
    for label in labels:
        best = None
        for point in sorted(label.at, key=lambda p: abs(np.log(p[0] / label.at[-1][0]) + 1.0)):
            for dx, dy, ha in _SIDES:
                note = axes.annotate(
                    label.text,
                    point,
                    (dx, dy),
                    textcoords="offset points",
                    color=label.colour,
                    weight=label.weight,
                    fontsize=8,
                    ha=ha,
                    zorder=6,
                )
                note.set_in_layout(False)
                box = note.get_window_extent().padded(2)
                covered = ((drawn > box.min) & (drawn < box.max)).all(1).sum()
                outside = box.x0 < frame.x0 or box.x1 > frame.x1 + 40 or box.y0 < frame.y0
                cost = covered + 100 * sum(box.overlaps(b) for b in taken) + 50 * outside
                if best is None or cost < best[0]:
                    if best:
                        best[1].remove()
                    best = cost, note, box
                else:
                    note.remove()
        if best:
            taken.append(best[2])


def _dense(path: np.ndarray) -> np.ndarray:
    """Points about every pixel along a path in display coordinates."""
    if len(path) < 2:
        return path
    along = np.r_[0, np.cumsum(np.hypot(*np.diff(path, axis=0).T))]
    grid = np.linspace(0, along[-1], int(along[-1]) + 2)
    return np.stack([np.interp(grid, along, path[:, i]) for i in (0, 1)], 1)


def export(
    figure: Figure, name: str, data, made_from: Mapping[str, Any], folder: Path | None = None
) -> list[Path]:
    """Write `name` as pdf, svg and png, what is plotted as csv, and where it came from as json; the
    same bytes each time.

    `data` is a data frame; `made_from` names parameters and hashes of inputs. The folder is `figures/` if not given.
    """
    folder = folder or root() / "figures"
    undated = {"pdf": {"CreationDate": None}, "svg": {"Date": None}, "png": {"Software": None}}
    made = []
    with style():
        for kind, metadata in undated.items():
            write_atomic(
                folder / f"{name}.{kind}",
                lambda p, k=kind, m=metadata: figure.savefig(p, format=k, metadata=m),
            )
            made.append(folder / f"{name}.{kind}")
    about = json.dumps(dict(made_from), indent=1, sort_keys=True, default=str) + "\n"
    write_atomic(folder / f"{name}.csv", lambda p: data.to_csv(p, index=False, float_format="%.6g"))
    write_atomic(folder / f"{name}.json", lambda p: p.write_text(about))
    return [*made, folder / f"{name}.csv", folder / f"{name}.json"]
