"""What leaves for a paper: the house style and those of venues, a figure with its data and origin, and LaTeX tables."""

import contextlib
import functools
import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from cycler import cycler
from matplotlib.figure import Figure

from routerlab.core.runs import Run, root, sha256, write_atomic

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
    "axes.prop_cycle": cycler(color=COLOURS),
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
    "legend.fontsize": 8,
    "legend.frameon": False,
    "pdf.fonttype": 42,
    "savefig.bbox": "standard",
    "savefig.dpi": 200,
    "svg.fonttype": "path",
    "svg.hashsalt": "routerlab",
    "xtick.minor.size": 0,
}


@functools.cache
def _chosen_backend() -> None:
    """Load the backend before the first style: loaded inside one, its switch to interactive would end with the style,
    and a notebook would show the first figure only.
    """
    plt.switch_backend(mpl.get_backend())


def style():
    """The house style, for the figures drawn inside."""
    _chosen_backend()
    return mpl.rc_context(_STYLE)


def paper_style(venue: str, column: str = "one", ratio: float | None = None):
    """The style of a venue (`neurips`, `icml`, `jmlr`, ...): its width and font sizes, in the house palette.

    `column` is "one" or "all" the columns of a page; `ratio` is height over width, the golden one if not given. The
    sizes are those of tueplots. Type is STIX, which is cut like Times and comes with matplotlib, so no LaTeX and no
    font need be installed and every machine draws the same; figures are exported as wide as they are drawn.
    """
    from tueplots import bundles

    dated = [name for name in sorted(dir(bundles)) if re.fullmatch(r"[a-z]+\d{4}", name)]
    newest = {name[:-4]: name for name in dated}
    if venue not in newest:
        raise ValueError(f"{venue!r} is not a known venue ({', '.join(newest)})")
    if column not in {"one", "all"}:
        raise ValueError(f"column is 'one' or 'all', not {column!r}")
    bundle = getattr(bundles, newest[venue])
    two = "column" in (bundle.__kwdefaults__ or {})
    made = bundle(column="half" if column == "one" else "full") if two else bundle()
    width, height = made["figure.figsize"]
    sizes = {name: value for name, value in made.items() if name.endswith("size")}
    rest = {
        "figure.figsize": (width, width * ratio if ratio else height),
        "font.family": "STIXGeneral",
        "lines.linewidth": 1.2,
        "lines.markersize": 4,
        "mathtext.fontset": "stix",
        "text.usetex": False,
    }
    both: dict[Any, Any] = _STYLE | sizes | rest
    _chosen_backend()
    return mpl.rc_context(both)


def active_style():
    """The house or paper style around it, or the house style where there is none: every figure is drawn in this."""
    ours = mpl.rcParams["svg.hashsalt"] == _STYLE["svg.hashsalt"]
    return contextlib.nullcontext() if ours else style()


def export(
    figure: Figure,
    name: str,
    data,
    made_from: Mapping[str, Any],
    folder: Path | None = None,
    *,
    inputs: Collection[Path] = (),
    run: Run | None = None,
) -> list[Path]:
    """Write `name` as pdf, svg and png, what is plotted as csv, and where it came from as json; the
    same bytes each time.

    `data` is a data frame; `made_from` names parameters and hashes of inputs. The SHA-256 of files in `inputs` and of
    all files of `run` are added to it. The folder is `figures/` if not given.
    """
    folder = folder or root() / "figures"
    about = dict(made_from)
    hashes = {"/".join(path.parts[-2:]): sha256(path) for path in map(Path, inputs)}
    if run:
        about["run"] = run.name
        hashes |= {file: known["sha256"] for file, known in run.manifest().items()}
    if hashes:
        about["inputs"] = hashes
    undated = {"pdf": {"CreationDate": None}, "svg": {"Date": None}, "png": {"Software": None}}
    made = []
    with style():
        for kind, metadata in undated.items():
            write_atomic(
                folder / f"{name}.{kind}",
                lambda p, k=kind, m=metadata: figure.savefig(p, format=k, metadata=m),
            )
            made.append(folder / f"{name}.{kind}")
    text = json.dumps(about, indent=1, sort_keys=True, default=str) + "\n"
    write_atomic(folder / f"{name}.csv", lambda p: data.to_csv(p, index=False, float_format="%.6g"))
    write_atomic(folder / f"{name}.json", lambda p: p.write_text(text))
    return [*made, folder / f"{name}.csv", folder / f"{name}.json"]


_SPECIAL = {c: f"\\{c}" for c in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "λ": r"$\lambda$",
    "±": r"$\pm$",
}


def latex_table(
    mean,
    low=None,
    high=None,
    *,
    alike=None,
    brackets: bool = False,
    smaller: Collection[str] = (),
    digits: int | Mapping[str, int] = 3,
) -> str:
    r"""A booktabs `tabular` of a frame of means (routers x measures): the best of each column bold, and what is not
    significantly worse than it underlined.

    With the ends `low` and `high` of intervals a cell is mean ± half their distance, or with `brackets` mean [low,
    high]. `alike` says what is not significantly worse than the best: booleans, or p-values of the paired difference to
    the best, of which 0.05 and more count. `smaller` names the columns where less is better; `digits` are those after
    the point, by column if they differ. A NaN is a dash; text is escaped.
    """
    numbers = mean.select_dtypes("number").columns

    def cell(row: int, column: str) -> str:
        value = mean[column].iloc[row]
        if column not in numbers:
            return _escape(value)
        if np.isnan(value):
            return "--"
        places = digits if isinstance(digits, int) else digits[column]
        best = mean[column].min() if column in smaller else mean[column].max()
        text = f"{value:.{places}f}"
        if value == best:
            text = rf"\mathbf{{{text}}}"
        elif alike is not None and _alike(alike[column].iloc[row]):
            text = rf"\underline{{{text}}}"
        if low is None or high is None:
            return f"${text}$"
        ends = low[column].iloc[row], high[column].iloc[row]
        if brackets:
            return f"${text}$ [${ends[0]:.{places}f}$, ${ends[1]:.{places}f}$]"
        return rf"${text} \pm {(ends[1] - ends[0]) / 2:.{places}f}$"

    rows = [[_escape(mean.index[row]), *(cell(row, column) for column in mean.columns)] for row in range(len(mean))]
    head = [_escape(mean.index.name or ""), *map(_escape, mean.columns)]
    spec = "l" + "".join("r" if c in numbers else "l" for c in mean.columns)
    lines = [" & ".join(line) + r" \\" for line in (head, *rows)]
    top = [rf"\begin{{tabular}}{{{spec}}}", r"\toprule", lines[0], r"\midrule"]
    return "\n".join([*top, *lines[1:], r"\bottomrule", r"\end{tabular}", ""])


def _alike(value) -> bool:
    return bool(value) if isinstance(value, bool | np.bool_) else bool(value >= 0.05)


def _escape(value) -> str:
    return "".join(_SPECIAL.get(c, c) for c in str(value))
