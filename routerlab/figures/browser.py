"""The outcome browser: questions with the answers that models gave, filtered by grade, model, category and band."""

from collections.abc import Mapping, Sequence
from typing import Any

import ipywidgets
import numpy as np
import pandas as pd

from routerlab.core.recorded import Recorded
from routerlab.figures.widgets import Shown, table

FILTERS = ("grade", "model", "category", "band")


def outcomes(data: Recorded, category: str | None = None, band: Sequence[str] | None = None) -> pd.DataFrame:
    """A row for each question and model of a recorded table: what was asked and answered, its grade, quality and cost.
    `category` is the column of meta that names the kind of a question, `band` the band of difficulty of each.
    """
    shape = len(data.queries), len(data.table.models)
    kinds = [str(query.meta.get(category, "")) if category else "" for query in data.queries]
    asked = {"category": kinds, "band": [""] * shape[0] if band is None else list(band)}
    asked |= {"question": [q.text for q in data.queries], "reference": [q.reference or "" for q in data.queries]}
    frame = pd.DataFrame(asked, dtype=object).loc[lambda f: f.index.repeat(shape[1])].reset_index(drop=True)
    frame["model"] = np.tile(np.array(data.table.models, object), shape[0])
    frame = frame.assign(**{name: data.table.text(name).ravel() for name in ("answer", "grade")})
    frame = frame.assign(**{name: data.table.matrix(name).ravel() for name in ("quality", "usd")})
    return frame.assign(grade=frame["grade"].fillna("missing"), answer=frame["answer"].fillna(""))


def pick(frame: pd.DataFrame, limit: int = 10, **wanted: str) -> pd.DataFrame:
    """The first `limit` rows of `outcomes` with these values, for example `grade="INCORRECT", model="pocket-max"`."""
    if unknown := set(wanted) - set(FILTERS):
        raise ValueError(f"outcomes are not filtered by {', '.join(sorted(unknown))}, but by {', '.join(FILTERS)}")
    for name, value in wanted.items():
        if value not in set(frame[name]):
            raise ValueError(f"no {name} {value!r} here; there are {', '.join(sorted(set(frame[name])))}")
    return frame.loc[_fits(frame, wanted)].head(limit)


def _fits(frame: pd.DataFrame, wanted: Mapping[str, str]) -> np.ndarray:
    fits = np.ones(len(frame), bool)
    for name, value in wanted.items():
        fits &= frame[name].to_numpy() == value
    return fits


def widget(frame: pd.DataFrame, limit: int = 10) -> Shown:
    """A menu for each filter above the rows they leave."""
    choices = {name: sorted(set(frame[name])) for name in FILTERS}
    menus = {
        name: ipywidgets.Dropdown(options=[("all", ""), *((v, v) for v in values)], description=name)
        for name, values in choices.items()
        if len(values) > 1
    }
    rows = ipywidgets.HTML()

    def show(_: Any = None) -> None:
        fits = _fits(frame, {name: menu.value for name, menu in menus.items() if menu.value})
        rows.value = f"<p>{fits.sum()} of {len(frame)} outcomes</p>{table(frame.loc[fits].head(limit))}"

    show()
    for menu in menus.values():
        menu.observe(show, "value")
    return Shown([ipywidgets.HBox(list(menus.values())), rows], pick(frame, limit), "outcomes, the first rows")
