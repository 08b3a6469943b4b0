"""The explorer: a router's whole curve over the cost weight λ, with the questions behind each of its points. The figure
and the table are plain; the widget and the page draw the same numbers in the browser, without asking a kernel.
"""

import base64
import functools
import html
import json
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

import anywidget
import numpy as np
import orjson
import pandas as pd
import traitlets
from matplotlib.figure import Figure

from routerlab.core.recorded import Recorded
from routerlab.core.runs import write_atomic
from routerlab.evaluate.frontier import Frontier, decide, hull, lam_grid, singles, trace
from routerlab.evaluate.sweep import Curve, sweep
from routerlab.figures.pareto import pareto
from routerlab.figures.style import COLOURS
from routerlab.figures.widgets import Shown, png

_CODE = Path(__file__).with_name("explorer.js")


@dataclass(frozen=True)
class Explored:
    """A router on a recorded table: its `name`, its `scores` (predicted quality and cost in US$, queries x models) and
    the `oracle` bracket, if there is one. Questions that not every model answered are left out.
    """

    name: str
    data: Recorded
    scores: tuple[np.ndarray, np.ndarray]
    oracle: tuple[Frontier, Frontier] | None = None
    seed: int = 0

    @functools.cached_property
    def _known(self) -> np.ndarray:
        return np.flatnonzero(~np.isnan(self.data.table.matrix("quality")).any(1))

    @functools.cached_property
    def happened(self) -> tuple[np.ndarray, np.ndarray]:
        """Quality and cost (US$) that were measured, questions x models."""
        quality, usd = (self.data.table.matrix(name)[self._known].astype(float) for name in ("quality", "usd"))
        return quality, usd

    @functools.cached_property
    def predicted(self) -> tuple[np.ndarray, np.ndarray]:
        """The scores in six digits, as the browser gets them, so that both choose the same models."""
        quality, usd = (_digits(np.asarray(score)[self._known], 6) for score in self.scores)
        return quality, usd

    @functools.cached_property
    def questions(self) -> list[str]:
        """The text of each question."""
        return [self.data.queries[row].text for row in self._known]

    @functools.cached_property
    def curve(self) -> Curve:
        """Quality and cost at every λ."""
        return sweep(*self.happened, self.predicted)

    @functools.cached_property
    def models(self) -> Frontier:
        """The single models."""
        return singles(*self.happened, rng=np.random.default_rng(self.seed))

    def alt(self, lam: float) -> str:
        """The picture in words."""
        quality, usd = self.curve.at(lam)
        return (
            f"Quality against cost of {self.name}, beside {len(self.data.table.models)} single models and their random "
            f"mix; at λ = {lam:g} it gives {quality:.1%} right answers for US$ {usd * 1000:.3g} per 1,000 questions."
        )

    def table(self, lam: float) -> pd.DataFrame:
        """Which question goes to which model at this λ, and why: what was predicted of the model that is called, of the
        next best one, and by how much that one is worth less (quality - λ · cost).
        """
        (quality, usd), rows = self.predicted, np.arange(len(self.questions))
        first = decide(quality, usd, lam)
        others = quality.copy()
        others[rows, first] = np.nan
        second = decide(others, usd, lam)
        worth = quality - lam * usd
        names = np.array(self.data.table.models)
        return pd.DataFrame(
            {
                "question": self.questions,
                "goes to": names[first],
                "predicted quality": quality[rows, first],
                "predicted US$": usd[rows, first],
                "next best": names[second],
                "worth less by": worth[rows, first] - worth[rows, second],
                "quality that happened": self.happened[0][rows, first],
            }
        )

    def picture(self, title: str, lam: float) -> Figure:
        """The curve with its interval, the single models, their random mix and the oracle bracket; a dot marks λ."""
        lams = lam_grid(self.happened[1], 60)
        router = trace(self.name, self.predicted, *self.happened, lams, rng=np.random.default_rng(self.seed))
        figure = pareto(title, self.data.table.models, self.models, [router], self.oracle)
        quality, usd = self.curve.at(lam)
        figure.axes[0].plot([usd * 1000], [quality], "o", ms=8, color=COLOURS[1], mec="white", zorder=7)
        return figure

    def numbers(self, title: str, lam: float) -> dict[str, Any]:
        """All that the browser draws, as plain lists."""
        models, corners = self.models, hull(self.models.usd, self.models.quality)
        each = zip(self.data.table.models, *(getattr(models, n) for n in _POINT.values()), strict=True)
        numbers: dict[str, Any] = {
            "title": title,
            "alt": self.alt(lam),
            "models": [dict(zip(("name", *_POINT), point, strict=True)) for point in each],
            "curve": {name: _digits(values, 9) for name, values in self.curve._asdict().items()},
            "hull": dict(zip(("usd", "quality"), corners, strict=True)),
            "questions": self.questions,
            "predicted": self.predicted[0],
            "predicted_usd": self.predicted[1],
            "quality": self.happened[0],
            "oracle": None,
        }
        if self.oracle:
            (x, low), (x_high, high) = (hull(f.usd, f.quality) for f in self.oracle)
            grid = np.geomspace(max(x[0], x_high[0], 1e-12), max(min(x[-1], x_high[-1]), 1e-12), 80)
            numbers["oracle"] = {"usd": grid, "low": np.interp(grid, x, low), "high": np.interp(grid, x_high, high)}
        return json.loads(orjson.dumps(numbers, default=np.ndarray.tolist, option=orjson.OPT_SERIALIZE_NUMPY))

    def widget(self, title: str, lam: float) -> Any:
        """The explorer in a notebook; where no kernel runs, `picture` stands in its place."""

        class Explorer(anywidget.AnyWidget):
            _esm = _CODE
            data = traitlets.Dict().tag(sync=True)
            lam = traitlets.Float().tag(sync=True)

        return Shown(
            [Explorer(data=self.numbers(title, lam), lam=lam)], self.picture(title, lam), f"the explorer of {self.name}"
        )

    def page(self, title: str, lam: float, path: Path) -> Path:
        """Write the explorer as one HTML file that needs no kernel and no network; readers without scripts see
        `picture`.
        """
        picture = base64.b64encode(png(self.picture(title, lam))).decode()
        numbers = json.dumps({"data": self.numbers(title, lam), "lam": lam}).replace("<", "\\u003c")
        code = _CODE.read_text(encoding="utf-8").replace("export default { render };", "")
        shown = {"title": html.escape(title), "alt": html.escape(self.alt(lam))}
        template = Template(_CODE.with_suffix(".html").read_text(encoding="utf-8"))
        text = template.substitute(shown, picture=picture, numbers=numbers, code=code)
        write_atomic(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
        return path


_POINT = {"usd": "usd", "quality": "quality", "low": "quality_low", "high": "quality_high"}


def _digits(values: np.ndarray, count: int) -> np.ndarray:
    return np.vectorize(lambda value: float(f"{value:.{count}g}"), otypes=[float])(values)
