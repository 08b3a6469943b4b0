"""House style, the Pareto figure, and export: every figure leaves with its data and where it came
from.
"""

import contextlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

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

    `models` holds one point a model, in the order of `names`. Bars and bands are 95 % intervals over queries.
    """
    with style():
        figure, axes = plt.subplots(layout="constrained")
        x, y = hull(models.usd * 1000, models.quality)
        grid = np.geomspace(x[0], x[-1], 200)
        axes.plot(grid, np.interp(grid, x, y), ls="--", lw=1.1, color=GREY, zorder=1)
        if oracle:
            _oracle(axes, oracle)
        for number, router in enumerate(routers):
            _line(axes, router, COLOURS[number % len(COLOURS)])
        _points(axes, names, models)
        middle = math.sqrt(grid[0] * grid[-1])
        _note(
            axes,
            "random mix of single models",
            (middle, float(np.interp(middle, x, y))),
            GREY,
            (6, -14),
        )
        axes.set(
            xscale="log",
            xlabel="Cost (US$ per 1,000 queries, log scale)",
            ylabel="Correct answers (%)",
        )
        axes.yaxis.set_major_formatter(lambda value, _: f"{value * 100:.0f}")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set_title(title, wrap=True)
    return figure


def _envelope(frontier: Frontier) -> np.ndarray:
    """Indices of the points that no other point of the frontier dominates, by rising cost."""
    order = np.lexsort((-frontier.quality, frontier.usd))
    best = np.maximum.accumulate(frontier.quality[order])
    return order[np.r_[True, best[1:] > best[:-1]]]


def _line(axes: Axes, router: Frontier, colour: str) -> None:
    at = _envelope(router)
    x = router.usd[at] * 1000
    axes.fill_between(
        x, router.quality_low[at], router.quality_high[at], color=colour, alpha=0.15, lw=0, zorder=2
    )
    axes.plot(x, router.quality[at], color=colour, lw=1.8, zorder=3)
    middle = len(at) // 2
    _note(
        axes,
        router.name,
        (x[middle], router.quality[at][middle]),
        colour,
        (-8, 10),
        bold=True,
        ha="right",
    )


def _oracle(axes: Axes, oracle: tuple[Frontier, Frontier]) -> None:
    ends = [hull(f.usd * 1000, f.quality) for f in oracle]
    low, high = max(x[0] for x, _ in ends), min(x[-1] for x, _ in ends)
    grid = np.geomspace(low, high, 200)
    bottom, top = (np.interp(grid, *corners) for corners in ends)
    axes.fill_between(grid, bottom, top, color=GREY, alpha=0.12, lw=0, zorder=0)
    axes.plot(grid, bottom, color=GREY, lw=0.8, zorder=1)
    axes.plot(grid, top, color=GREY, lw=0.8, ls=":", zorder=1)
    _note(axes, "oracle bracket", (grid[-1], float(bottom[-1] + top[-1]) / 2), GREY, (6, -3))


def _points(axes: Axes, names: Sequence[str], models: Frontier) -> None:
    for number, name in enumerate(names):
        x, y = models.usd[number] * 1000, models.quality[number]
        bars = {
            "xerr": np.abs(
                np.array([[models.usd_low[number]], [models.usd_high[number]]]) * 1000 - x
            ),
            "yerr": np.abs(
                np.array([[models.quality_low[number]], [models.quality_high[number]]]) - y
            ),
        }
        marker = MARKERS[number % len(MARKERS)]
        axes.errorbar(
            x, y, **bars, fmt=marker, ms=6, color="black", mfc="white", elinewidth=0.9, zorder=4
        )
        _note(axes, name, (x, y), "black", (7, -11))


def _note(
    axes: Axes, text: str, at: tuple[float, float], colour: str, offset, bold=False, ha="left"
) -> None:
    weight = "bold" if bold else "normal"
    axes.annotate(
        text,
        at,
        offset,
        textcoords="offset points",
        color=colour,
        fontsize=8,
        weight=weight,
        ha=ha,
        zorder=6,
    )


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
