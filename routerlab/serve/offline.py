"""What the log of served requests tells: an outcome table, drift, and what another router would have reached."""

import functools
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from routerlab.contest.run import KINDS
from routerlab.core.outcomes import OutcomeTable
from routerlab.core.pools import Pool
from routerlab.core.queries import Query
from routerlab.core.recorded import Recorded, record, recorded
from routerlab.core.runs import Run
from routerlab.evaluate.stats import Interval
from routerlab.grade.verify import VERIFIERS, grade_many
from routerlab.routers import store
from routerlab.routers.features import Tfidf
from routerlab.routers.learned import KNN, Learned, Ridge
from routerlab.serve.log import FILE, LogError, served
from routerlab.serve.upstream import text_of

LEAST = 30.0  # effective requests, below which no estimate is given and no quality is compared
UNLIKE = 0.05  # a warning is given if more of the questions are unlike the training questions; 0.01 of those are
RECENT_BYTES = 2**23  # of the log, which the server looks at for drift while it runs


def outcomes(requests: Iterable[Mapping[str, Any]], pool: Pool) -> tuple[list[Query], OutcomeTable]:
    """Served requests as questions and their outcomes. Models that were not asked are missing. An answer is graded if
    the request's `metadata` had a `reference` (and a `verifier`, else exact); else its error is `ungraded`.
    """
    queries, tries, columns = dict[str, Query](), Counter(), defaultdict(list)
    for request in requests:
        query = _query(request)
        for call in request["calls"]:
            answered = call["status"] == "ok" and call["model"] == request["used"]
            if call["role"] == "router" or call["model"] not in pool or not (answered or call["status"] != "ok"):
                continue
            queries.setdefault(query.id, query)
            line = {
                "query": query.id,
                "model": call["model"],
                "sample": tries[query.id, call["model"]],
                "temperature": request["temperature"],
                "usd": call["cost"],
                "latency_s": call["latency"],
                "error": "ungraded" if answered else call["status"],
                **{name: call.get(name, 0) for name in ("tokens_in", "tokens_cached", "tokens_out")},
                **{name: request[name] if answered else None for name in ("answer", "finish")},
                **dict.fromkeys(("grade", "quality")),
            }
            tries[query.id, call["model"]] += 1
            for name, value in line.items():
                columns[name].append(value)
    known = [i for i, e in enumerate(columns["error"]) if e == "ungraded" and queries[columns["query"][i]].reference]
    asked = [queries[columns["query"][i]] for i in known]
    verdicts = grade_many(asked, [columns["answer"][i] for i in known], [columns["finish"][i] or "stop" for i in known])
    for i, verdict in zip(known, verdicts, strict=True):
        columns["grade"][i], columns["quality"][i], columns["error"][i] = verdict.grade, verdict.quality, verdict.error
    return [*queries.values()], OutcomeTable(columns, pool.ids).select(list(queries))


def to_table(run: Run, pool: Pool) -> Recorded:
    """The log of a run as an outcome table, written beside it."""
    queries, table = outcomes(served(run), pool)
    if not queries:
        raise LogError(f"{run.folder} has no answers yet; ask the server something")
    return record(run, queries, pool, table, {"how": "served requests"})


def refresh(run: Run) -> Recorded | None:
    """The table of a served run, written again if its log went on since; None for any other run."""
    log, table = run.folder / FILE, run.folder / "outcomes.parquet"
    if not log.is_file() or not log.stat().st_size:
        return None
    if table.is_file() and table.stat().st_mtime >= log.stat().st_mtime:
        return recorded(run.folder)
    return to_table(run, Pool.load(run.folder / "pool.yaml"))


def _query(request: Mapping[str, Any]) -> Query:
    about = {k: v for k, v in request["about"].items() if k not in ("reference", "verifier")}
    messages = tuple({"role": m["role"], "content": text_of(m)} for m in request["messages"])
    reference, verifier = request["about"].get("reference"), request["about"].get("verifier") or "exact"
    if not reference or verifier not in VERIFIERS:
        return Query(messages, None, "recorded", "served", meta=about)
    return Query(messages, str(reference), verifier, "served", meta=about)


@functools.cache
def trained(spec: str, table: str) -> Learned | None:
    """What served questions are compared with: the saved router in the folder `spec`, if it has features; for another
    trained router a ridge regression on the training split of its table; None where nothing was trained.
    """
    if Path(spec).is_dir():
        router = store.load(spec)
        if "known" in getattr(router, "values", ()):
            return router
    elif spec not in KINDS:
        return None
    train = recorded(table).split("train")
    return Ridge().fit(train.queries, train.table)


def drift(queries: Sequence[Query], table: OutcomeTable, pool: Pool, router: Learned | None) -> list[str]:
    """Warnings where served requests differ from what a router was fitted on and what its pool's cards say.

    Questions: clearly more than UNLIKE of them have a share of known n-grams that 99 % of training questions exceed.
    Prices: a model's calls were charged other than its card says for their tokens, by more than 1 % in all.
    Quality: the mean of a model's grades differs from the mean predicted for these very questions by more than three
    standard errors. The prediction, and not the training mean, because a router sends each model what it is good at.
    """
    warnings = []
    rows = table.rows.to_pandas()
    for model, calls in rows[rows["tokens_in"] > 0].groupby("model", observed=True):
        listed = pool[model].usd(calls["tokens_in"], calls["tokens_out"], calls["tokens_cached"]).sum()
        if abs(calls["usd"].sum() - listed) > 0.01 * max(listed, 1e-9):
            warnings.append(f"{model} was charged US$ {calls['usd'].sum():.3g} where its card says {listed:.3g}")
    if router is None:
        return warnings
    known = router.features.views([q.text for q in queries]).known
    unlike = 0.0 if known is None else float((known < router.values["known"]).mean())
    if unlike > UNLIKE + 2 * np.sqrt(UNLIKE * (1 - UNLIKE) / max(len(queries), 1)):
        warnings.append(f"{unlike:.0%} of the questions are unlike the training questions")
    place = {q.id: row for row, q in enumerate(queries)}
    quality = table.matrix("quality", None)
    predicted = router.predict(queries)[0][[place[q] for q in table.queries]]
    for model in set(table.models) & set(router.models):
        column = quality[:, table.models.index(model)]
        graded = ~np.isnan(column)
        right, expected = column[graded], predicted[graded, router.models.index(model)]
        if len(right) < LEAST:
            continue
        error = np.sqrt(max(np.var(right - expected), 0.01) / len(right))
        if abs(right.mean() - expected.mean()) > 3 * error:
            warnings.append(
                f"{model} is right on {right.mean():.2f} of {len(right)} questions, where {expected.mean():.2f} was "
                f"predicted"
            )
    return sorted(warnings)


def watch(run: Run, pool: Pool, spec: str, table: str) -> list[str]:
    """The warnings of drift in the last part of a run's log; `spec` and `table` are those of `trained`."""
    queries, served_table = outcomes(served(run, RECENT_BYTES), pool)
    return drift(queries, served_table, pool, trained(spec, table)) if queries else []


@dataclass(frozen=True)
class Estimate:
    """`ips` is the inverse-propensity estimate, `dr` the doubly robust one, both with 95 % intervals; `requests` is the
    effective sample size, (sum of weights)^2 / sum of squared weights (Kish 1965).
    """

    ips: Interval
    dr: Interval
    requests: float


def off_policy(
    wanted: np.ndarray,
    asked: np.ndarray,
    chances: np.ndarray,
    outcome: np.ndarray,
    guess: np.ndarray,
    cluster: np.ndarray,
) -> Estimate:
    """The mean outcome had `wanted` been asked. With w = [asked = wanted] / chance of asked, over requests:

    ips = mean of w * outcome (Horvitz and Thompson 1952);
    dr = mean of guess(wanted) + w * (outcome - guess(asked)) (Robins et al. 1994), whose variance is smaller the better
    the guess; a wrong guess leaves it unbiased. Intervals are normal, requests of one cluster together.

    Args:
        wanted: the model that the router would ask for each request (index).
        asked: the model that was asked.
        chances: of each model to be asked (requests x models), as logged.
        outcome: of the model that was asked: quality, or cost in US dollars.
        guess: the outcome predicted of every model (requests x models), from other requests.
        cluster: which requests are one question (index).
    """
    rows = np.arange(len(asked))
    blind = chances[rows, wanted] <= 0
    if not len(asked) or blind.any():
        share = blind.mean() if len(asked) else 1.0
        raise LogError(
            f"on {share:.0%} of the requests this router asks a model that had no chance of being asked; serve with "
            f"--explore, and wait for more requests"
        )
    weight = (asked == wanted) / chances[rows, asked]
    requests = float(weight.sum() ** 2 / max((weight**2).sum(), 1e-300))
    if requests < LEAST:
        raise LogError(
            f"only {requests:.0f} effective requests of {len(asked)} tell about this router, fewer than {LEAST:.0f}; "
            f"serve more, or with a larger --explore"
        )
    robust = guess[rows, wanted] + weight * (outcome - guess[rows, asked])
    return Estimate(_mean(weight * outcome, cluster), _mean(robust, cluster), requests)


def _mean(values: np.ndarray, cluster: np.ndarray) -> Interval:
    mean = float(values.mean())
    sums = np.bincount(cluster, values - mean)
    counts = int((np.bincount(cluster) > 0).sum())
    error = float(np.sqrt((sums**2).sum() * counts / max(counts - 1, 1))) / len(values)
    return Interval(mean, mean - 1.96 * error, mean + 1.96 * error)


Reached = tuple[str, Estimate | None, Estimate | None, str]


def evaluate_log(run: Run, data: Recorded, routers: Sequence[Any]) -> list[Reached]:
    """For each router its name, the estimates of its mean quality and of its cost (US dollars), and, where the log
    cannot tell, why. Requests without a grade or without logged chances are left out.
    """
    quality, usd = data.table.matrix("quality", None), data.table.matrix("usd", None)
    place, models = {q.id: row for row, q in enumerate(data.queries)}, data.pool.ids
    logged = []
    for request in served(run):
        row = place.get(_query(request).id)
        if row is not None and request["propensity"] and request["used"] == request["intended"]:
            column = models.index(request["used"])
            if not np.isnan(quality[row, column]):
                logged.append((row, column, [request["propensity"].get(m, 0.0) for m in models]))
    if not logged:
        raise LogError("no request has both a grade and logged chances; send metadata.reference with requests")
    at, column, chances = map(np.array, zip(*logged, strict=True))
    texts = [q.text for q in data.queries]
    views = Tfidf().fit(texts).views(texts)
    half = np.arange(len(texts)) % 2 == 0
    results: list[Reached] = []
    for router in routers:
        wanted = router.route(data.queries, data.pool).choice[at]
        try:
            reached, paid = (
                off_policy(wanted, column, chances, outcome[at, column], _guess(views, outcome, half)[at], at)
                for outcome in (quality.astype(float), usd.astype(float))
            )
            results.append((router.name, reached, paid, ""))
        except LogError as error:
            results.append((router.name, None, None, str(error)))
    return results


def _guess(views: Any, outcome: np.ndarray, half: np.ndarray) -> np.ndarray:
    """The outcome of every model on each question, predicted from the other half of the questions."""
    guess = np.zeros(outcome.shape)
    for own in (half, ~half):
        shown = outcome[~own]
        known = ~np.isnan(shown).all(0)
        if known.any() and own.any():
            near = KNN()
            near.learn(views.rows(~own), shown[:, known])
            guess[np.ix_(own, known)] = near.estimate(views.rows(own))
    return guess
