"""Many routers on one table: fitted on its training split, their operating points chosen on validation, scored on the
test split with intervals that all of them share.
"""

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from routerlab.contest.results import DOMAIN, Contest, Entry
from routerlab.core.recorded import Recorded
from routerlab.routers import baselines, groups, learned, nonlinear
from routerlab.routers.blend import Blend
from routerlab.routers.cascade import Cascade
from routerlab.routers.features import Features, Tfidf
from routerlab.routers.protocol import RouterError
from routerlab.sources.split import clusters, split

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
    say: Callable[[str], None] = lambda _: None,
) -> Contest:
    """Fit and run `routers` (names of `KINDS`, or all) on a recorded table. A table without the splits train,
    validation and test is split 60, 10 and 30, near-duplicates together. Queries some model did not answer are left out
    of validation and test, and not of training.

    Routers that draw lots when they learn are fitted `trainings` times, from other seeds: intervals and p-values then
    hold that luck too, and values are means over trainings. Shuffled labels are shuffled ten times at least.
    """
    if trainings < 1:
        raise RouterError(f"{trainings} trainings: each router has to be fitted once at least")
    names = list(KINDS) if routers == "all" else routers
    names = [names] if isinstance(names, str) else names
    if unknown := [n for n in names if n not in KINDS] or [""] * (not names):
        raise RouterError(f"no router {unknown[0]!r}; there are {', '.join(KINDS)}, and all")
    if seed < 0:
        raise RouterError(f"the seed is {seed}; give a whole number from 0")
    if not {"train", "validation", "test"} <= (there := {q.split for q in data.queries}):
        has = f"only {', '.join(sorted(there))} and is split anew" if len(there) > 1 else "no splits"
        say(f"the table has {has}: 60 % train, 10 % validation, 30 % test, near-duplicates together")
        data = data._replace(queries=split(data.queries, {"train": 6, "validation": 1, "test": 3}))
        if len({q.split for q in data.queries}) < 3:
            raise RouterError(
                f"{len(data.queries)} questions, near-duplicates together, do not fill three splits; record more"
            )
    train = data.split("train")
    validation, test = (_first_try(data.split(n)) for n in ("validation", "test"))
    for name, (kept, whole) in {"validation": validation[:2], "test": test[:2]}.items():
        if len(kept.queries) < whole:
            lost = whole - len(kept.queries)
            say(f"{lost} of {whole} {name} queries lack an answer and are left out")
    best = train.table.models.index(baselines.best_single(train.queries, train.table).model)
    shared = features or Tfidf()
    say(f"features ({shared.name}) of {len(train.queries)} queries")
    shared.fit([q.text for q in train.queries])
    entries, left_out = [], {}
    for name, make in _entrants(names, shared, train):
        say(f"{name}")
        try:
            made = _enter(make(), train, validation[0], test[0])
            drawn = getattr(made.router, "seed", None) is not None
            often = max(trainings, getattr(made.router, "trainings", 1)) if drawn else 1
            others = [_enter(make(), train, validation[0], test[0], seed=s, lams=made.lam) for s in range(1, often)]
            entries.append(replace(made, others=tuple(others)))
        except RouterError as error:
            left_out[name] = str(error)
    if not entries:
        raise RouterError("; ".join(f"{n} cannot run: {why}" for n, why in left_out.items()))
    scored = test[0]
    tries = [k for k in scored.table.samples if k > 0]
    return Contest(
        test=scored,
        entries=tuple(entries),
        quality=scored.table.matrix("quality"),
        usd=scored.table.matrix("usd"),
        other=scored.table.matrix("quality", tries) if tries else None,
        single=best,
        before=np.concatenate([m.mean(0, dtype=float) for m in _happened(validation[0])]),
        clusters=clusters(scored.queries),
        seed=seed,
        left_out=left_out,
        other_usd=scored.table.matrix("usd", tries, graded=True) if tries else None,
    )


def _entrants(names: Sequence[str], features: Features, train: Recorded) -> Iterator[tuple[str, Callable[[], Any]]]:
    for name in names:
        yield name, functools.partial(KINDS[name], features)
    domain = next((k for k in DOMAIN if k in train.queries[0].meta), None)
    if domain and len(names) > 1:
        lookup = baselines.FamilyLookup(key=domain)
        lookup.name = f"{domain} lookup (told)"
        yield "lookup", lambda: lookup


def _first_try(part: Recorded) -> tuple[Recorded, int]:
    holes = np.isnan(part.table.matrix("quality"))
    lacking = holes.sum(1)
    kept = [q for q, missing in zip(part.queries, lacking, strict=True) if not missing]
    if not kept:
        worst = int(holes.sum(0).argmax())
        raise RouterError(
            f"no query of a split was answered by every model; choose fewer models: {part.table.models[worst]} lacks "
            f"{holes[:, worst].sum()} of {len(holes)}"
        )
    table = part.table.select([q.id for q in kept])
    return part._replace(queries=kept, table=table), len(part.queries)


def _enter(
    router: Any,
    train: Recorded,
    validation: Recorded,
    test: Recorded,
    *,
    seed: int | None = None,
    lams: np.ndarray | None = None,
) -> Entry:
    if seed is not None:
        router.seed = seed
    started = time.perf_counter()
    router.fit(train.queries, train.table)
    fitted = time.perf_counter()
    points = router.operating_points(validation.queries, validation.table, POINTS) if lams is None else lams
    on_test, on_validation = (router.decisions(p.queries, p.pool, points, p.table) for p in (test, validation))
    choices = np.stack([d.choice for d in on_test])
    played = [d.realised(*_happened(test)) for d in on_test]
    before = [d.realised(*_happened(validation)) for d in on_validation]
    quality, usd = (np.array([p[i] for p in played], float) for i in (0, 1))
    reached, paid = (np.array([np.mean(b[i], dtype=float) for b in before]) for i in (0, 1))
    return Entry(router.name, router, points, quality, usd, choices, (reached, paid), fitted - started)


def _happened(part: Recorded) -> tuple[np.ndarray, np.ndarray]:
    return part.table.matrix("quality"), part.table.matrix("usd")
