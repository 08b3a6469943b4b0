"""The policy view of two models: how a router's policies are spread, how right each is, and what routing by them is
worth beside always calling the medium and always calling the large model.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from routerlab.contest.results import Contest, Entry
from routerlab.core.decisions import realised
from routerlab.evaluate.stats import Interval, wilson
from routerlab.label.oracle import Policy, label
from routerlab.routers.protocol import RouterError

# What the published two-model system expects: share of queries with each policy, and the share of cost saved.
PUBLISHED = {Policy.STANDARD: (0.60, 0.70), Policy.COMPLEX: (0.25, 0.35), Policy.AMBIGUOUS: (0.05, 0.10)}
PUBLISHED_SAVING = (0.40, 0.60)


class PolicyReport(NamedTuple):
    """`by_policy`: a line a policy; `routing`: a line for the router and for what it is compared with (pandas)."""

    by_policy: Any
    routing: Any

    def as_json(self) -> str:
        """Both tables, an interval as [value, low, high], and the published expectations."""
        tables = {n: {r: dict(c) for r, c in f.iterrows()} for n, f in self._asdict().items()}
        return json.dumps(tables | {"published saving": PUBLISHED_SAVING}, indent=1) + "\n"


def likeliest(medium: np.ndarray, large: np.ndarray) -> np.ndarray:
    """The likeliest policy where the models are right with these probabilities, independently: Standard (the medium one
    is right), Complex (only the large one is), Ambiguous (neither is); of equals the first.
    """
    chances = np.stack([medium, (1 - medium) * large, (1 - medium) * (1 - large)], 1)
    return np.array([Policy.STANDARD, Policy.COMPLEX, Policy.AMBIGUOUS], object)[chances.argmax(1)]


def policies_of(results: Contest, entry: Entry, medium: str, large: str) -> np.ndarray:
    """The policy of each test query by a router's predicted qualities of two models."""
    names = results.test.table.models
    if absent := [m for m in (medium, large) if m not in names]:
        raise RouterError(f"no model {absent[0]!r} in this table; it has {', '.join(names)}")
    predicted = np.clip(results.predicted(entry)[0][:, [names.index(medium), names.index(large)]], 0, 1)
    if np.isnan(predicted).all(0).any():
        raise RouterError(
            f"{entry.name} predicts nothing about {medium} or {large}: another model is as good and cheap"
        )
    return likeliest(*predicted.T)


def policy_report(
    results: Contest,
    policies: Sequence[Policy],
    medium: str,
    large: str,
    models: Mapping[Policy, str] | None = None,
    resamples: int = 2000,
) -> PolicyReport:
    """Score policies on the test questions that both models answered.

    Args:
        results: a contest on the table.
        policies: one for each test query.
        medium, large: ids of the two models.
        models: the model of each policy; by default the large one for Complex only.
        resamples: of clusters of test questions, for 95 % intervals.

    Returns: by policy its share (and the published one), agreement with the oracle's policies, and the accuracy of both
    models there; and accuracy, cost and saving of the router, of both models, and of the oracle's policies.
    """
    import pandas as pd

    names, where = results.test.table.models, {}
    columns = [names.index(medium), names.index(large)]
    models = models or {p: large if p is Policy.COMPLEX else medium for p in Policy}
    quality, usd = results.quality[:, columns].astype(float), results.usd[:, columns].astype(float)
    known = np.asarray(~np.isnan(quality + usd).any(1))
    quality, usd, never = quality[known], usd[known], np.zeros(known.sum(), int)
    told = np.array(policies, object)[known]
    oracle = label(results.test.table.text("grade", 0)[known][:, columns], usd.mean(0)).policy
    for p, published in PUBLISHED.items():
        at = np.asarray(told == p)
        low, high = wilson(at.sum(), len(at))
        right = quality[at].mean(0) if at.any() else (np.nan, np.nan)
        where[p.value] = {
            "share": Interval(float(at.mean()), float(low), float(high)),
            "published share": f"{published[0]:.0%} to {published[1]:.0%}",
            "oracle agrees": float((oracle[at] == p).mean()) if at.any() else np.nan,
            **{f"{m} right": float(r) for m, r in zip((medium, large), right, strict=True)},
        }
    called, ideal = ([int(models[p] == large) for p in of] for of in (told, oracle))
    choices = {"policies": called, f"always {medium}": never, f"always {large}": never + 1, "oracle's policies": ideal}
    values = np.column_stack([values for c in choices.values() for values in realised(np.array(c), quality, usd)])
    drawn = results.resampled(values, resamples, known).reshape(-1, len(choices), 2)
    saved = 1 - drawn[..., 1] / drawn[:, 2:3, 1]
    parts = {"right": drawn[..., 0], f"right less {large}'s": drawn[..., 0] - drawn[:, 2:3, 0], "saving": saved}
    table = {n: [Interval.of(v[0, i], v[1:, i]) for i in range(len(choices))] for n, v in parts.items()}
    return PolicyReport(pd.DataFrame(where).T, pd.DataFrame(table, index=list(choices)))
