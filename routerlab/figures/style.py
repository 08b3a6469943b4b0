"""The look of every figure: one palette, the house style, and the page widths and type sizes of venues."""

import contextlib
import functools
import re
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter
from tueplots import bundles

_HOUSE: dict[Any, Any] = dict(mpl.rc_params_from_file(Path(__file__).with_name("house.mplstyle"), False, False))
COLOURS = tuple(_HOUSE["axes.prop_cycle"].by_key()["color"])
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
GREY = "#5F6368"  # for context


VENUE = "neurips"  # of every figure for which no other style was chosen


def style(venue: str = VENUE, column: str = "one", ratio: float | None = None):
    """A context: figures drawn inside have a venue's width and type sizes in the house palette, or the house style,
    which is wider and has no serifs.

    Sizes of venues ("neurips", "icml", "jmlr" …; an unknown one lists them all) are those of tueplots. Their type is
    STIX, which resembles Times and comes with matplotlib, so every machine draws the same figure without LaTeX or
    installed fonts. `column` is "one" or "all" columns of the page, `ratio` height by width, if not the venue's. Export
    keeps the drawn width.
    """
    settings = _settings(venue, column, ratio)
    _load_backend()
    return mpl.rc_context(settings)


def use_style(venue: str = VENUE) -> None:
    """Draw every later figure in `style(venue)`: one call at the top of a notebook."""
    settings = _settings(venue, "one", None)
    _load_backend()
    mpl.rcParams.update(settings)


def active_style():
    """A context that keeps the `style` that is active, or applies that of the usual venue where none is."""
    ours = mpl.rcParams["svg.hashsalt"] == _HOUSE["svg.hashsalt"]
    return contextlib.nullcontext() if ours else style()


@functools.cache
def _load_backend() -> None:
    """Load matplotlib's backend before the first style: loaded inside a style, its switch to interactive would be
    undone when the style ends, and a notebook would show its first figure only.
    """
    plt.switch_backend(mpl.get_backend())


def _settings(venue: str, column: str, ratio: float | None) -> dict[Any, Any]:
    newest = {name[:-4]: name for name in sorted(dir(bundles)) if re.fullmatch(r"[a-z]+\d{4}", name)}
    if venue not in newest and venue != "house":
        raise ValueError(f"{venue!r} is not a known venue (house, {', '.join(newest)})")
    if column not in {"one", "all"}:
        raise ValueError(f"column is 'one' or 'all', not {column!r}")
    settings = dict(_HOUSE)
    if venue != "house":
        bundle = getattr(bundles, newest[venue])
        has_columns = "column" in (bundle.__kwdefaults__ or {})
        theirs = bundle(column="half" if column == "one" else "full") if has_columns else bundle()
        settings |= {name: value for name, value in theirs.items() if name.endswith("size")}
        settings |= {"font.family": "STIXGeneral", "mathtext.fontset": "stix", "text.usetex": False}
        settings |= {"lines.linewidth": 1.2, "lines.markersize": 4}
    if ratio:
        width = settings["figure.figsize"][0]
        settings["figure.figsize"] = (width, width * ratio)
    return settings


def colour(number: int) -> str:
    """The colour of the `number`-th thing on a figure: the palette, then black and grey, then from the beginning."""
    return (*COLOURS, "black", GREY)[number % (len(COLOURS) + 2)]


def marker(number: int) -> str:
    """The marker of the `number`-th thing on a figure."""
    return MARKERS[number % len(MARKERS)]


def small():
    """The size of small text: legends, labels and the titles of panels."""
    return mpl.rcParams["legend.fontsize"]


def describe(axes: Axes, **settings: Any) -> None:
    """Name axes and set their ends; an axis in percent or points has whole numbers of them."""
    axes.set(**settings)
    for axis in (axes.xaxis, axes.yaxis):
        if axis.get_label_text().endswith(("(%)", "(points)")):
            axis.set_major_formatter(PercentFormatter(1, 0, ""))
