"""How hard a question is: the pass rate of a reference model over several tries, with an interval, in bands.

The published recipe takes 16 tries at temperature 1 of a 7B model and edges at 0.15 and 0.65. Its guides overlap, count
edges twice and count failed calls as wrong; here bands are half-open, and a call that failed is no try.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from routerlab.core.outcomes import OutcomeError, OutcomeTable
from routerlab.evaluate.stats import wilson

if TYPE_CHECKING:
    import pandas as pd

EDGES = (0.15, 0.65)
NAMES = ("hard", "medium", "simple")
ENOUGH = 16  # tries before none or all of them passing means impossible or perfect
LEVEL = 0.9  # of the intervals: 5 % lie on either side


def difficulty(
    table: OutcomeTable,
    model: str,
    *,
    temperature: float | None = None,
    edges: Sequence[float] = EDGES,
    names: Sequence[str] = NAMES,
    enough: int = ENOUGH,
    level: float = LEVEL,
) -> "pd.DataFrame":
    """One line a query of the table: tries, passed, errors (which are no tries), rate, the ends of its Wilson interval,
    its band and whether the band is certain (the whole interval lies in it).

    A rate is in band k when edges[k-1] <= rate < edges[k]. Of `enough` tries, none passed is `impossible` and all
    passed is `perfect`, apart from the other bands; without tries the band is `unknown`.

    Args: the `table`; the reference `model`; the `temperature` of its tries (tries of several are not mixed); the
    `edges` and `names` of the bands; `enough` tries for impossible and perfect; the `level` of the intervals.
    """
    import pandas as pd

    _check(edges, names)
    query, graded, passed = _tries(table, model, temperature)
    size = len(table.queries)
    tries = np.bincount(query[graded], minlength=size)
    hits = np.bincount(query[passed], minlength=size)
    errors = np.bincount(query[~graded], minlength=size)
    low, high = wilson(hits, tries, level)
    with np.errstate(invalid="ignore"):
        rate = np.where(tries > 0, hits / np.maximum(tries, 1), np.nan)
    number = band_of(rate, edges)
    band = np.array([*names, "unknown"], object)[np.where(tries > 0, number, len(names))]
    band[(hits == 0) & (tries >= enough)] = "impossible"
    band[(hits == tries) & (tries >= enough)] = "perfect"
    certain = _inside(low, high, edges) & (tries > 0)
    columns = {"tries": tries, "passed": hits, "errors": errors, "rate": rate}
    columns |= {"low": low, "high": high, "band": band, "certain": certain}
    return pd.DataFrame(columns, index=pd.Index(table.queries, name="query"))


def band_of(rate: np.ndarray | float, edges: Sequence[float] = EDGES) -> np.ndarray:
    """The number of the half-open band of a rate: 0 below the first edge, which itself is in band 1."""
    return np.searchsorted(np.asarray(edges), np.asarray(rate, float), side="right")


def needs_more(
    passed: Any, tries: Any, *, edges: Sequence[float] = EDGES, most: int = ENOUGH, level: float = LEVEL
) -> np.ndarray:
    """Whether each query needs another try: it has had fewer than `most`, and its Wilson interval does not lie inside
    one band yet.

    Looking after every try costs some certainty: the interval of a query that stops early holds its level a little less
    often than one of a fixed number of tries.

    Args: `passed` and `tries`, numbers, arrays or columns (`tries` counts graded answers, so a failed call is asked
    again); the `edges` of the bands, the `most` tries of a query, the `level` of the intervals.
    """
    _check(edges, range(len(edges) + 1))
    low, high = wilson(passed, tries, level)
    tries = np.asarray(tries)
    return (tries < most) & ~(_inside(low, high, edges) & (tries > 0))


def _inside(low: np.ndarray, high: np.ndarray, edges: Sequence[float]) -> np.ndarray:
    return band_of(low, edges) == band_of(high, edges)


def _check(edges: Sequence[float], names: Sequence) -> None:
    inside = all(0 < e < 1 for e in edges)
    if not inside or list(edges) != sorted(set(edges)) or len(names) != len(edges) + 1:
        raise OutcomeError(
            f"edges {tuple(edges)} with {len(names)} bands: give rising edges between 0 and 1, and one band more than "
            f"edges"
        )


def _tries(table: OutcomeTable, model: str, temperature: float | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(place of the query, has a grade, is correct) of each try of the model at the temperature."""
    if model not in table.models:
        raise OutcomeError(f"{model!r} is not in this table; it has {', '.join(table.models)}")
    query, column, _ = table.places
    here = column == table.models.index(model)
    heat = table.rows["temperature"].to_numpy()
    temperatures = np.unique(heat[here])
    if temperature is None and len(temperatures) > 1:
        counts = ", ".join(f"{t:g} ({int((heat[here] == t).sum())} tries)" for t in temperatures)
        raise OutcomeError(
            f"{model} was asked at temperatures {counts}, which are not mixed; choose one with temperature="
        )
    if temperature is not None:
        here &= np.isclose(heat, temperature, atol=1e-6)
        if not here.any():
            known = ", ".join(f"{t:g}" for t in temperatures) or "none"
            raise OutcomeError(f"{model} was not asked at temperature {temperature:g}; the table has {known}")
    quality = table.rows["quality"].to_numpy(zero_copy_only=False)[here]
    return query[here], ~np.isnan(quality), quality >= 0.5
