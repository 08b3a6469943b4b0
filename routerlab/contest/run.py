"""Many routers on one table: fitted on its training split, their operating points chosen on validation, scored on the
test split; all intervals come from the same resamples of the test questions.
"""

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from routerlab.contest import setup
from routerlab.contest.results import Contest, Entry
from routerlab.contest.served import Served
from routerlab.core.recorded import Recorded
from routerlab.routers import baselines, groups, learned, nonlinear, store
from routerlab.routers.blend import Blend
from routerlab.routers.cascade import Cascade
from routerlab.routers.features import Features, Tfidf
from routerlab.routers.lm import LMRouter
from routerlab.routers.protocol import RouterError, ScoreRouter
from routerlab.sources.split import clusters

KINDS: dict[str, Callable[[Features], Any]] = {
    "length": lambda _: baselines.LengthRule(),
    "keyword": lambda _: baselines.KeywordRule(),
    "random": lambda _: baselines.random_features(),
    "shuffled": baselines.ShuffledLabels,
    "linear": learned.Linear,
    "ridge": learned.Ridge,
    "knn": learned.KNN,
    "logistic": learned.Logistic,
    "boosting": nonlinear.Boosting,
    "forest": nonlinear.Forest,
    "factorisation": nonlinear.Factorisation,
    "mlp": nonlinear.MLP,
    "category": groups.PredictedCategory,
    "kmeans": groups.KMeans,
    "blend": Blend,
    "cascade": Cascade,
}
POINTS = 40


def contest(
    data: Recorded,
    routers: str | Sequence[str] = "all",
    *,
    features: Features | None = None,
    seed: int = 0,
    trainings: int = 1,
    category: str | None = None,
    missing: setup.Missing = "available",
    say: setup.Say = lambda _: None,
) -> Contest:
    """Fit and run routers on a recorded table. A table without the splits train, validation and test is split 60, 10
    and 30, near-duplicates together.

    Args: the table; the `routers`, names of `KINDS`, folders of saved ones, URLs of served ones, or all; the `features`
    of learned routers (default: weighted words and letters); the `seed` of the resampling; the number of `trainings`:
    stochastic routers are fitted with as many seeds, values are means over them and intervals include seed variance
    (shuffled labels are shuffled at least ten times); the `category`, a column of meta that names the kind of a
    question (default: found); how `missing` answers are treated, see `setup.answered`; `say`, called with a line on
    each step.
    """
    if trainings < 1:
        raise RouterError(f"{trainings} trainings; each router has to be fitted at least once: give 1 or more")
    names = list(KINDS) if routers == "all" else routers
    names = [names] if isinstance(names, str) else names
    served = {n: Served(n) for n in names if n.startswith(("http://", "https://"))}  # dead ones are refused now
    known = {*KINDS, *served}
    if unknown := [n for n in names if n not in known and not Path(n or "?").is_dir()] or [""] * (not names):
        raise RouterError(
            f"no router {unknown[0]!r}; there are {', '.join(KINDS)}, and all; or give the folder of a saved router, "
            f"or the URL of a served one"
        )
    if seed < 0:
        raise RouterError(f"the seed is {seed}; give a whole number from 0")
    data = setup.answered(setup.with_splits(data, say), missing, say)
    data = data._replace(pool=data.pool.subset(data.table.models))
    category = setup.category_of(data.queries, category, say)
    every = whole, before, scored = [data.split(n) for n in setup.SPLITS]
    models = setup.worth_fitting(whole)
    if dropped := [m for m in data.table.models if m not in models]:
        say(f"no router calls {', '.join(dropped)}: on every training question another model is as good and as cheap")
    fitted = setup.restricted(data, models)
    shared = features or Tfidf()
    say(f"features ({shared.name}) of {len(whole.queries)} queries")
    shared.fit([q.text for q in whole.queries])
    entries, left_out = [], {}
    enter = functools.partial(_enter, [fitted.split(n) for n in setup.SPLITS], data.table.models)
    for name, router in served.items():  # it may call any model of the table
        say(f"{name}: asked about {len(before.queries) + len(scored.queries)} questions, answered in one token each")
        entries.append(_enter(every, data.table.models, router))
    makers = {n: functools.partial(_fresh, n, shared, category) for n in names if n not in served}
    if category and len(names) > 1:
        makers["lookup"] = functools.partial(baselines.FamilyLookup, key=category, name=f"{category} lookup (told)")
    for name, make in makers.items():
        say(name)
        try:
            entry = enter(make())
            stochastic = getattr(entry.router, "seed", None) is not None and name in KINDS
            seeds = max(trainings, getattr(entry.router, "trainings", 1)) if stochastic else 1
            entries.append(replace(entry, others=tuple(enter(make(), seed=s, lams=entry.lam) for s in range(1, seeds))))
        except RouterError as error:
            left_out[name] = str(error)
    if not entries:
        raise RouterError("; ".join(f"{n} cannot run: {why}" for n, why in left_out.items()))
    tries = [k for k in scored.table.samples if k > 0]
    learned_from = whole.table.matrix("quality", None), whole.table.matrix("usd", None, graded=True)
    quality, usd = _happened(scored)
    best = baselines.best_single(whole.queries, whole.table)
    return Contest(
        test=scored,
        entries=tuple(entries),
        quality=quality,
        usd=usd,
        other=scored.table.matrix("quality", tries) if tries else None,
        single=whole.table.models.index(best.model),
        before=_model_means(*_happened(before)),
        clusters=clusters(scored.queries),
        seed=seed,
        left_out=left_out,
        other_usd=scored.table.matrix("usd", tries, graded=True) if tries else None,
        training=_model_means(*learned_from),
        mix=enter(baselines.RandomMix()),
        category=category,
        trained_on=len(whole.queries),
    )


def _fresh(name: str, features: Features, category: str | None) -> Any:
    router = KINDS[name](features) if name in KINDS else store.load(name)
    if isinstance(router, learned.Learned):
        router.category = category  # routers that predict it learn this column
    return router


class _AmongAnswered(ScoreRouter):
    """A router that calls, for each query of a table, the best of the table's models that answered it there."""

    def __init__(self, router: ScoreRouter, answers: Any) -> None:
        self.name, self.models, self._router, self._answers = router.name, answers.models, router, answers

    def _predict(self, queries):
        columns = [self._router.models.index(m) for m in self.models]
        known = ~np.isnan(self._answers.select([q.id for q in queries]).matrix("quality"))
        return tuple(np.where(known, scores[:, columns], np.nan) for scores in self._router.predict(queries))

    def own_usd(self, queries):
        return self._router.own_usd(queries)


def _enter(
    parts: Sequence[Recorded],
    every: tuple[str, ...],
    router: Any,
    seed: int | None = None,
    lams: np.ndarray | None = None,
) -> Entry:
    """Fit a router (unless it is fitted) and run it at its operating points on validation and test.

    Args: the splits (`parts`), with the models that routers are fitted on; `every` model of the whole table; the
    router; the seed of a further fit of a stochastic router, and the cost weights `lams` of its first fit.
    """
    train, validation, test = parts
    if seed is not None:
        router.seed = seed
    if isinstance(router, LMRouter):
        router = router.of(train.pool)  # it reads the cards and prices of this table's pool
    started = time.perf_counter()
    if not router.models:
        router.fit(train.queries, train.table)
    fitted = time.perf_counter()
    models = [m for m in train.table.models if m in router.models]
    if not models:
        raise RouterError(f"{router.name} knows none of the models of this table; it knows {', '.join(router.models)}")
    if len(models) < len(train.table.models):
        validation, test = (setup.restricted(part, models) for part in (validation, test))
    runs = [_answering(router, part) for part in (validation, test)]
    points = runs[0].operating_points(validation.queries, validation.table, POINTS) if lams is None else lams
    (reached, paid, _), (quality, usd, choice) = map(_played, runs, (validation, test), (points, points))
    with np.errstate(invalid="ignore"):
        means = np.nanmean(reached, 1, dtype=float), np.nanmean(paid, 1, dtype=float)
    choice = np.array([every.index(m) for m in models])[choice]
    return Entry(router.name, router, points, quality, usd, choice, means, fitted - started)


def _answering(router: Any, part: Recorded) -> Any:
    same = router.models == part.table.models and not np.isnan(part.table.matrix("quality")).any()
    fixed = not isinstance(router, ScoreRouter) or isinstance(router, baselines.RandomMix)
    return router if fixed or same else _AmongAnswered(router, part.table)


def _played(router: Any, part: Recorded, lams: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(quality, usd, choice) at each cost weight of each query (points x queries), NaN where a call has no outcome."""
    runs = router.decisions(part.queries, part.pool, lams, part.table)
    happened = _happened(part)
    right, paid = np.stack([d.outcomes(*happened) for d in runs], 1)
    return right, paid, np.stack([d.choice for d in runs])


def _happened(part: Recorded) -> tuple[np.ndarray, np.ndarray]:
    """Quality and cost (USD) of each first answer; NaN where there is none, whatever a failed call was charged."""
    quality = part.table.matrix("quality")
    return quality, np.where(np.isnan(quality), np.nan, part.table.matrix("usd"))


def _model_means(quality: np.ndarray, usd: np.ndarray) -> np.ndarray:
    """Mean quality of each model, then its mean cost."""
    return np.concatenate([np.nanmean(m, 0, dtype=float) for m in (quality, usd)])
