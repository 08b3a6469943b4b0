"""What a paper takes from here: a figure with its data and its origin, and LaTeX tables."""

import functools
import hashlib
import json
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from routerlab import __version__
from routerlab.core.runs import root, write_atomic
from routerlab.figures.style import style


def folder_of_figures() -> Path:
    """Where figures go: `figures/`, or the folder named by ROUTERLAB_FIGURES, which `routerlab run` sets: a run with
    other parameters leaves the figures of the usual run alone.
    """
    return Path(os.environ.get("ROUTERLAB_FIGURES") or root() / "figures")


@functools.cache
def _code() -> str:
    """The version of the package, and of its sources the first digits of a hash."""
    digest, home = hashlib.sha256(), Path(__file__).resolve().parents[1]
    for path in sorted(home.rglob("*.py")):
        digest.update(f"{path.relative_to(home)}\n".encode() + path.read_bytes())
    return f"routerlab {__version__}, sources {digest.hexdigest()[:12]}"


def export(
    figure: Figure,
    name: str,
    data: pd.DataFrame,
    made_from: Mapping[str, Any],
    folder: Path | None = None,
) -> list[Path]:
    """Write a figure as pdf, svg and png, its data as csv and its origin as json, with the version of the code; the
    same input gives the same bytes.

    Args:
        figure: what is drawn.
        name: of the five files, without a suffix.
        data: the plotted numbers.
        made_from: parameters and hashes to note in the json.
        folder: where the files go; by default that of `folder_of_figures`.

    Returns:
        The paths of the pdf, svg, png, csv and json.
    """
    folder = folder or folder_of_figures()
    text = json.dumps({"code": _code(), **made_from}, indent=1, sort_keys=True, default=str) + "\n"
    undated = {"pdf": {"CreationDate": None}, "svg": {"Date": None}, "png": {"Software": None}}
    paths = {kind: folder / f"{name}.{kind}" for kind in (*undated, "csv", "json")}
    with style():
        for kind, metadata in undated.items():
            write_atomic(paths[kind], lambda p, k=kind, m=metadata: figure.savefig(p, format=k, metadata=m))
    write_atomic(paths["csv"], lambda p: data.to_csv(p, index=False, float_format="%.6g"))
    write_atomic(paths["json"], lambda p: p.write_text(text))
    return list(paths.values())


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
    mean: pd.DataFrame,
    low: pd.DataFrame | None = None,
    high: pd.DataFrame | None = None,
    *,
    alike: pd.DataFrame | None = None,
    smaller: Collection[str] = (),
    digits: int | Mapping[str, int] = 3,
    compact: bool = False,
) -> str:
    r"""A booktabs `tabular`: the best cell of each column is bold, cells not significantly worse are underlined, a NaN
    is a dash, and text is escaped.

    Args:
        mean: routers (index) x measures (columns).
        low: lower ends of intervals; with `high`, a cell is mean ± half of (high - low).
        high: upper ends of intervals.
        alike: which cells are not significantly worse than the best of their column: booleans, or p-values of the
            paired difference from the best, where 0.05 and above counts as alike.
        smaller: columns in which less is better.
        digits: places after the decimal point, for all columns or by column.
        compact: in small type with narrow gaps, so that six columns fit into 5.5 inches.
    """
    numbers = mean.select_dtypes("number").columns

    def cell(row: int, column: str) -> str:
        value = mean[column].iloc[row]
        if column not in numbers:
            return _escape(value)
        if np.isnan(value):
            return "--"
        places = digits if isinstance(digits, int) else digits[column]
        text = f"{value:.{places}f}"
        if value == (mean[column].min() if column in smaller else mean[column].max()):
            text = rf"\mathbf{{{text}}}"
        elif alike is not None and float(alike[column].iloc[row]) >= 0.05:  # True counts as p = 1, False as p = 0
            text = rf"\underline{{{text}}}"
        if low is None or high is None:
            return f"${text}$"
        return rf"${text} \pm {(high[column].iloc[row] - low[column].iloc[row]) / 2:.{places}f}$"

    table = pd.DataFrame({_escape(name): [cell(row, name) for row in range(len(mean))] for name in mean.columns})
    table.insert(0, _escape(mean.index.name or ""), [*map(_escape, mean.index)], allow_duplicates=True)
    spec = "l" + "".join("r" if c in numbers else "l" for c in mean.columns)
    text = table.style.hide(axis="index").to_latex(column_format=spec, hrules=True)
    return f"{{\\footnotesize\\setlength{{\\tabcolsep}}{{4pt}}%\n{text}}}\n" if compact else text


def _escape(value: object) -> str:
    return "".join(_SPECIAL.get(c, c) for c in str(value))
