"""A model that came out yesterday: a fitted router meets it by its outcomes on a few probes, which are questions that
the known models have answered already. No known model is asked again, and the router is not fitted again.

The quality of the new model is a ridge regression with a prior. On a question with predicted qualities p of the known
models (mean p̄), probabilities g of groups and dense features x it is

    f = 1 + p̄ + (p - p̄) (u + v) + g k + x d        (each term with its own coefficient; prior: f = p̄)

and on a probe, where the actual outcomes a of the known models are known, the outcome is y = f + (r - r̄) v + r̄ + noise
with r = a - p: a question that was harder than predicted for similar models was probably harder for the new one. This
control takes noise out of few probes. Penalties are chosen by treating every known model as new in turn.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from routerlab.core.outcomes import OutcomeTable
from routerlab.core.queries import Query
from routerlab.core.threads import one_thread
from routerlab.routers.features import Views
from routerlab.routers.groups import Grouped, KMeans, PredictedCategory
from routerlab.routers.learned import CATEGORIES, Learned
from routerlab.routers.protocol import RouterError

# Penalties of (1, p̄, u, r̄, v, k, d), and those tried for u, v, k and d.
START = np.array([1.0, 5.0, 10.0, 5.0, 10.0, 20.0, 20.0])
TRIED = {2: (3, 10, 30, 1e6), 4: (3, 10, 30), 5: (5, 20, 60, 1e6), 6: (5, 10, 20, 60)}


class Newcomers(Learned):
    """A router that knows one model more than its first member; its second member predicts groups of questions."""

    name = "newcomers"
    members: Sequence[Any] = ()

    def estimate(self, views):
        known = self.members[0].estimate(views)
        new = _design(known, None, self.members[1].probabilities(views), views.dense) @ self.arrays["coefficients"]
        return np.column_stack([known, new])


def choose_probes(router: Learned, groups: Grouped, queries: Sequence[Query], count: int) -> list[Query]:
    """The questions to ask a new model, spread evenly over all, sorted by their likeliest group and, within a group, by
    the known models' mean predicted quality: so easy and hard questions of every group have their share. Steps of the
    golden ratio keep any number of probes even, and more probes extend fewer.
    """
    if not 0 < count <= len(queries):
        raise RouterError(f"{count} probes of {len(queries)} recorded questions; choose a number between")
    queries = sorted(queries, key=lambda q: q.id)
    views = router.features.views([q.text for q in queries])
    likeliest = groups.probabilities(views).argmax(1)
    order = np.lexsort((router.estimate(views).mean(1), likeliest))
    steps = np.arange(1, 3 * len(queries) + 1) * (5**0.5 - 1) / 2 % 1  # as many as visit every place
    places = list(dict.fromkeys((steps * len(queries)).astype(int)))[:count]
    return [queries[i] for i in order[places]]


def groups_of(router: Learned, queries: Sequence[Query], table: OutcomeTable) -> Grouped:
    """A predictor of groups on the router's features: of categories where the queries have them, else of clusters."""
    named = any(all(name in q.meta for q in queries) for name in CATEGORIES)
    return (PredictedCategory if named else KMeans)(router.features).fit(queries, table)


@one_thread()
def meet(
    router: Learned,
    groups: Grouped,
    recorded: tuple[Sequence[Query], OutcomeTable],
    model: str,
    outcomes: OutcomeTable,
) -> Newcomers:
    """The router that also knows `model`, from its outcomes on some probes.

    Args:
        router: a fitted router, and `groups` on its features (`groups_of`).
        recorded: training queries and the table of the known models; penalties are chosen on them.
        model: the new model's id.
        outcomes: what it did on the probes, some of the recorded queries; missing outcomes are left out.

    Returns: a router of `router.models` and `model`, which can be saved.
    """
    if model in router.models:
        raise RouterError(f"{router.name} knows {model!r} already; a new price or a smaller pool needs no probes")
    by_id = {q.id: q for q in recorded[0]}
    if absent := [q for q in outcomes.queries if q not in by_id]:
        raise RouterError(f"probe {absent[0]} is not among the recorded questions; choose probes with choose_probes")
    column = outcomes.models.index(model)
    y, usd = (outcomes.matrix(n, None, graded=True)[:, column].astype(float) for n in ("quality", "usd"))
    answered = ~np.isnan(y)
    if answered.sum() < 10:
        raise RouterError(f"{answered.sum()} answered probes of {model}; ask at least 10")
    probes = sorted((q for q, a in zip(outcomes.queries, answered, strict=True) if a))
    place = [outcomes.queries.index(q) for q in probes]
    y, usd = y[place], usd[place]
    rest = sorted((q for q in by_id.values() if q.id not in set(probes)), key=lambda q: q.id)[:1000]
    asked, unseen = (_seen(router, groups, qs, recorded[1]) for qs in ([by_id[q] for q in probes], rest))
    met = Newcomers(router.features, lam=router.lam, members=[router, groups])
    met._own, met.name, met.models = False, router.name, (*router.models, model)
    penalties = _tuned(asked, unseen) if len(rest) >= 50 and len(router.models) > 2 else START
    met.arrays["coefficients"] = _solve(*asked, y, penalties)
    met.values["penalties"] = [float(p) for p in penalties]
    # The cost has the shape of the known models' costs (relative to their means) and the level of the probes.
    weights, base, _ = router._cost
    dense = router.features.views([by_id[q].text for q in probes]).dense
    level = np.maximum((dense @ weights + base).mean(0), 1e-12)
    shape, start = (weights / level).mean(1), (base / level).mean()
    paid = float(np.nanmean(usd))
    added = paid * shape[:, None], [paid * start], [float(np.nanmin(usd)) / 2]
    met._cost = tuple(np.concatenate(pair, -1) for pair in zip(router._cost, added, strict=True))  # pyright: ignore
    return met


def _seen(router: Learned, groups: Grouped, queries: Sequence[Query], table: OutcomeTable):
    """(predicted, actual) qualities of the known models on these queries, probabilities of groups, dense features."""
    views: Views = router.features.views([q.text for q in queries])
    known = router.estimate(views)
    outcomes = table.select([q.id for q in queries])
    actual = outcomes.matrix("quality", None)[:, [outcomes.models.index(m) for m in router.models]]
    return known, np.where(np.isnan(actual), known, actual), groups.probabilities(views), views.dense


def _design(known: np.ndarray, residual: np.ndarray | None, groups: np.ndarray, dense: np.ndarray) -> np.ndarray:
    """The columns of the regression: 1, p̄, u, r̄, v, k, d; without residuals (on new questions) theirs are 0."""
    mean = known.mean(1, keepdims=True)
    off, r = known - mean, np.zeros_like(known) if residual is None else residual
    level = r.mean(1, keepdims=True)
    return np.hstack([np.ones_like(mean), mean, off, level, off + r - level, groups, dense])


def _solve(known, actual, groups, dense, y: np.ndarray, penalties: np.ndarray) -> np.ndarray:
    """The coefficients of `_design` that minimise squared error + penalty * (coefficient - prior)^2; the prior is 1 for
    p̄ and for r̄, 0 for all others.
    """
    x, models = _design(known, actual - known, groups, dense), known.shape[1]
    prior = np.zeros(x.shape[1])
    prior[[1, 2 + known.shape[1]]] = 1
    scaled = x / np.repeat(penalties, (1, 1, models, 1, models, groups.shape[1], dense.shape[1]))
    # In its dual form, whose size is the number of probes.
    return prior + scaled.T @ np.linalg.solve(x @ scaled.T + np.eye(len(y)), y - x @ prior)


def _tuned(asked, unseen) -> np.ndarray:
    """Penalties, one kind after the other, with the least squared error where each known model in turn is the new one:
    fitted on the probes and compared with its actual outcomes on other recorded questions.
    """
    (known, actual, groups, dense), (far, truth, *others) = asked, unseen
    rests = ~np.eye(known.shape[1], dtype=bool)
    new = [_design(far[:, rest], None, *others) for rest in rests]

    def error(penalties: np.ndarray) -> float:
        solved = [_solve(known[:, r], actual[:, r], groups, dense, actual[:, ~r][:, 0], penalties) for r in rests]
        guesses = np.stack([x @ coefficients for x, coefficients in zip(new, solved, strict=True)], 1)
        return float(((guesses - truth) ** 2).mean())

    best, least = START.copy(), error(START)
    for place, values in TRIED.items():
        for value in values:
            trial = best.copy()
            trial[place] = value
            if trial[place] != best[place] and (reached := error(trial)) < least:
                best, least = trial, reached
    return best
