"""What the log of served requests tells: an outcome table, and what another router would have reached."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.preprocessing import normalize

from routerlab.core.outcomes import OutcomeTable
from routerlab.core.pools import Pool
from routerlab.core.queries import Query
from routerlab.core.recorded import Recorded, record, recorded
from routerlab.core.runs import Run
from routerlab.evaluate.offpolicy import Estimate, LogError, off_policy
from routerlab.grade.verify import grade_many
from routerlab.routers.features import Tfidf
from routerlab.routers.learned import KNN
from routerlab.serve.log import FILE, served
from routerlab.serve.upstream import text_of


def to_table(run: Run, pool: Pool) -> Recorded:
    """The log of a run as an outcome table, written beside it. Models that were not asked are missing. An answer is
    graded if the request's `metadata` had a `reference` (and a `verifier`, else exact); else its error is `ungraded`.
    """
    queries, tries, columns = dict[str, Query](), Counter(), defaultdict(list)
    for request in served(run):
        query = _query(request)
        for call in request["calls"]:
            answered = call["status"] == "ok" and call["model"] == request["used"]
            if call["role"] == "router" or call["model"] not in pool or not (answered or call["status"] != "ok"):
                continue
            queries.setdefault(query.id, query)
            line = {"query": query.id, "model": call["model"], "temperature": request["temperature"]}
            line |= {"sample": tries[query.id, call["model"]], "usd": call["cost"], "latency_s": call["latency"]}
            line |= {"tokens_in": call["tokens_in"], "tokens_out": call["tokens_out"]}
            line |= {
                "answer": request["answer"] if answered else None,
                "finish": request["finish"] if answered else None,
            }
            line |= {"grade": None, "quality": None, "error": "ungraded" if answered else call["status"]}
            tries[query.id, call["model"]] += 1
            for name, value in line.items():
                columns[name].append(value)
    if not queries:
        raise LogError(f"{run.folder} has no answers yet; ask the server something")
    known = [i for i, e in enumerate(columns["error"]) if e == "ungraded" and queries[columns["query"][i]].reference]
    asked = [queries[columns["query"][i]] for i in known]
    verdicts = grade_many(asked, [columns["answer"][i] for i in known], [columns["finish"][i] or "stop" for i in known])
    for i, verdict in zip(known, verdicts, strict=True):
        columns["grade"][i], columns["quality"][i], columns["error"][i] = verdict.grade, verdict.quality, verdict.error
    return record(run, [*queries.values()], pool, OutcomeTable(columns, pool.ids), {"how": "served requests"})


def refresh(run: Run) -> Recorded | None:
    """The table of a served run, written again if its log went on since; None for any other run."""
    log, table = run.folder / FILE, run.folder / "outcomes.parquet"
    if not log.is_file() or not log.stat().st_size:
        return None
    if table.is_file() and table.stat().st_mtime >= log.stat().st_mtime:
        return recorded(run.folder)
    return to_table(run, Pool.load(run.folder / "pool.yaml"))


def drift(now: Recorded, before: Recorded) -> list[str]:
    """Warnings where served requests differ from the table that a router was fitted on: questions less similar to the
    training questions than 99 % of its test questions are, and models whose quality left its interval.
    """
    train, test = ([q.text for q in before.split(name).queries] for name in ("train", "test"))
    features = Tfidf().fit(train)
    known: Any = normalize(features.views(train).dense)
    asked = [normalize(features.views(texts).dense) for texts in (test, [q.text for q in now.queries])]
    nearest = [(views @ known.T).max(1) for views in asked]
    unlike = (nearest[1] < np.quantile(nearest[0], 0.01)).mean()
    warnings = [f"{unlike:.0%} of the questions are unlike those of {before.pool.name}"] if unlike > 0.05 else []
    for model in set(now.pool.ids) & set(before.pool.ids):
        served_, table = (
            values[~np.isnan(values)]
            for values in (d.table.matrix("quality", None)[:, d.pool.ids.index(model)] for d in (now, before))
        )
        error = np.sqrt(sum(max(v.var(), 0.01) / max(len(v), 1) for v in (served_, table)))
        if len(served_) >= 30 and abs(served_.mean() - table.mean()) > 3 * error:
            warnings.append(f"{model} is right on {served_.mean():.2f} of {len(served_)}, before on {table.mean():.2f}")
    return sorted(warnings)


def _query(request: dict[str, Any]) -> Query:
    about = {k: v for k, v in request["about"].items() if k not in ("reference", "verifier")}
    messages = tuple({"role": m["role"], "content": text_of(m)} for m in request["messages"])
    reference = request["about"].get("reference")
    verifier = str(request["about"].get("verifier") or "exact") if reference else "recorded"
    return Query(messages, str(reference) if reference else None, verifier, "served", meta=about)


Reached = tuple[str, Estimate | None, Estimate | None, str]


def evaluate_log(run: Run, data: Recorded, routers: Sequence[Any]) -> list[Reached]:
    """For each router its name, the estimates of its mean quality and of its cost (US dollars), and, where the log
    cannot tell, why. Requests without a grade or without logged chances are left out.
    """
    table, ids = data.table, [q.id for q in data.queries]
    quality, usd = table.matrix("quality", None), table.matrix("usd", None)
    rows, asked, chances = [], [], []
    for request in served(run):
        query = _query(request).id
        if request["propensity"] and request["used"] == request["intended"] and query in ids:
            row, column = ids.index(query), data.pool.ids.index(request["used"])
            if not np.isnan(quality[row, column]):
                rows.append(row)
                asked.append(column)
                chances.append([request["propensity"].get(m, 0.0) for m in data.pool.ids])
    if not rows:
        raise LogError("no request has both a grade and logged chances; send metadata.reference with requests")
    at, column = np.array(rows), np.array(asked)
    texts = [q.text for q in data.queries]
    views = Tfidf().fit(texts).views(texts)
    half = np.arange(len(ids)) % 2 == 0
    results: list[Reached] = []
    for router in routers:
        wanted = router.route(data.queries, data.pool).choice[at]
        try:
            reached, paid = (
                off_policy(wanted, column, np.array(chances), outcome[at, column], _guess(views, outcome, half)[at], at)
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
