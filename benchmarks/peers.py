"""Routers of others beside ours: RouteLLM's and LLMRouter's own code, one split, the same features, in one run.

The peers live in an environment of their own (made on first use, never a dependency); one that cannot run says why in
its row. On two models the metric is RouteLLM's APGR, the mean share of the strong model's gain recovered over all
shares of strong calls; on a pool it is accuracy at no more cost than the peer's. Prints a table, and as its last line
one JSON object of named figures.
"""

import argparse
import json
import os
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from others.talk import Row, environment, given_features, run_peer

from routerlab.core.queries import Query
from routerlab.core.recorded import Recorded
from routerlab.evaluate.frontier import decide, hull
from routerlab.evaluate.stats import paired_difference
from routerlab.routers import baselines as simple
from routerlab.routers import blend, groups, learned
from routerlab.routers.features import Features, Tfidf
from routerlab.routers.protocol import ScoreRouter
from routerlab.sources import tables
from routerlab.sources.split import split

HERE = Path(__file__).parent
DATA = HERE.parents[1] / "shared" / "datasets"
RUNS = HERE.parent / "data" / "runs"
SHARES = {"train": 0.48, "validation": 0.12, "test": 0.4}  # peers learn from the first two
ROUTELLM, MMLU_PRO = "routellm_15361x2.parquet", "mmlupro_12032x29.parquet"
RESAMPLES = 1000
LAMS = np.concatenate([[0.0], np.geomspace(1, 1e7, 140)])  # quality a US dollar
PAIR_JOBS = {"routellm": ["MF", "SW"], "llmrouter": ["hybrid"]}
FIRST = "best first"
POOL_JOBS = {
    "llmrouter": ["knn", "knn, cheapest first"]
    + [f"{kind}, {FIRST}" for kind in ("knn", "svm", "mlp", "mf", "elo", "graph")]
}
NOTES = """CPT50, CPT80: share of strong calls that recovers so much of the gain. area: mean accuracy between the costs
of the cheapest and the best model, any router mixed with the cheapest. Intervals: 95 %, paired, over test questions.
MiniLM: all-MiniLM-L6-v2; tfidf: words and characters of the text, and eight counts, projected for the peers. ms: one
decision at a time; from features that are there, and for 'own' from the text. LLMRouter gives ties to the first row
of a question: knn is run with rows in the order of the pool, too; by cost; and, as the others, by training accuracy.
The best point of ours is chosen on validation."""
KINDS = "Ridge", "KNN", "Logistic", "Blend", "PredictedCategory", "KMeans"  # the others take too long here


def ours(own: Features, given: Features) -> dict[str, tuple[str, ScoreRouter]]:
    """Our routers by name, each with the name of its features: its own, or those that the peers are given."""
    made: dict[str, tuple[str, ScoreRouter]] = {}
    for kind in KINDS:
        if router := next((getattr(m, kind) for m in (learned, blend, groups) if hasattr(m, kind)), None):
            made[f"ours: {kind}, own"] = own.name, router(own)
            made[f"ours: {kind}"] = given.name, router(given)
    return made


# --- metrics ---


def curve(score: np.ndarray, gain: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(share of strong calls, share of the gain recovered) after each question, the highest scores first, for each row
    of weights. RouteLLM draws this curve through ten thresholds; here every question is one.
    """
    mixed = np.random.default_rng(0).random(len(score))  # equals in no order
    order = np.lexsort((mixed, -score))
    calls = np.cumsum(weights[:, order], 1)
    got = np.cumsum(weights[:, order] * gain[order], 1)
    return tuple(np.pad(c / c[:, -1:], ((0, 0), (1, 0))) for c in (calls, got))


def apgr(score: np.ndarray, gain: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The area below each curve: 0.5 is a coin."""
    share, got = curve(score, gain, weights)
    return ((got[:, 1:] + got[:, :-1]) / 2 * np.diff(share)).sum(1)


def area(points: tuple[np.ndarray, np.ndarray], low: float, high: float) -> float:
    """The mean height of the upper hull of (usd, quality) points between two costs, as RouterBench's AIQ."""
    return float(np.interp(np.linspace(low, high, 200), *hull(*points)).mean())


@dataclass
class Part:
    """Questions with what each model did on them."""

    queries: list[Query]
    quality: np.ndarray
    usd: np.ndarray

    def __add__(self, other: "Part") -> "Part":
        return Part(
            self.queries + other.queries,
            np.vstack([self.quality, other.quality]),
            np.vstack([self.usd, other.usd]),
        )

    def points(self, made: Any) -> tuple[np.ndarray, np.ndarray]:
        """(quality, usd) of each question (rows) at each operating point of a router (columns)."""
        ours = isinstance(made, tuple)
        choices = [decide(*made, lam) for lam in LAMS] if ours else [made.astype(int)]
        rows = np.arange(len(self.queries))
        found = [[m[rows, c] for c in choices] for m in (self.quality, self.usd)]
        return tuple(np.array(f, float).T for f in found)


def resamples(size: int) -> np.ndarray:
    """Weights of questions: as they are, then of each resample, the same for all that is compared."""
    drawn = np.random.default_rng(0).multinomial(size, np.full(size, 1 / size), RESAMPLES)
    return np.vstack([np.ones(size), drawn])


def areas(part: Part, made: Any, weights: np.ndarray, best: int) -> np.ndarray:
    """`area` on each row of weights, from the cost of the cheapest model to that of the `best` one. Any router may be
    mixed with the cheapest model, so one with a single operating point has an area, too.
    """
    cheap = int(part.usd.mean(0).argmin())
    quality, usd = part.points(made)
    quality = np.column_stack([quality, part.quality[:, cheap]])
    usd = np.column_stack([usd, part.usd[:, cheap], part.usd[:, best]])
    sums = weights.sum(1, keepdims=True)
    q, c = weights @ quality / sums, weights @ usd / sums
    ends = zip(c[:, -2], c[:, -1], strict=True)
    pairs = zip(q, c[:, :-1], ends, strict=True)
    return np.array([area((x, y), *end) for y, x, end in pairs])


# --- the tables ---


@dataclass
class Task:
    name: str
    texts: list[str]  # of all questions
    parts: dict[str, Part]
    table: Any
    models: tuple[str, ...]

    @property
    def pair(self) -> bool:
        return len(self.models) == 2

    @property
    def learn(self) -> Part:
        return self.parts["train"] + self.parts["validation"]

    def metric(self, part: Part, made: Any, weights: np.ndarray) -> np.ndarray:
        if self.pair:
            return apgr(made, part.quality[:, 1] - part.quality[:, 0], weights)
        return areas(part, made, weights, int(self.learn.quality.mean(0).argmax()))


def task(name: str, made: Recorded) -> Task:
    """A table split so that no near-duplicate straddles; questions that a model did not answer are left out."""
    queries = np.array(split(made.queries, SHARES), object)
    quality, usd = made.table.matrix("quality"), made.table.matrix("usd")
    whole = ~np.isnan(quality + usd).any(1)
    parts = {}
    for part in SHARES:
        at = whole & np.array([q.split == part for q in queries])
        parts[part] = Part(queries[at].tolist(), quality[at], usd[at])
    return Task(name, [q.text for q in made.queries], parts, made.table, made.pool.ids)


def tasks() -> list[Task]:
    """RouteLLM's tables have no tokens; their metric counts calls, so every call is given the same."""
    pair = replace(tables.layouts()["routellm"], tokens_in=100, tokens_out=100)
    pairs = [task(b, tables.import_table(DATA / ROUTELLM, pair, bench=b)) for b in ("mmlu", "gsm8k")]
    return [*pairs, task("mmlupro", tables.import_table(DATA / MMLU_PRO, "mmlu-pro"))]


def run_ours(t: Task, given: Features) -> list[Row]:
    """Ours, learned twice: without the validation questions, to choose among them there, and with them."""
    rows: dict[str, Row] = {}
    for learn, asked, final in (
        (t.parts["train"], t.parts["validation"], False),
        (t.learn, t.parts["test"], True),
    ):
        own = Tfidf().fit([q.text for q in learn.queries])
        for name, (features, router) in ours(own, given).items():
            row = rows.setdefault(name, Row(name, features))
            try:
                started = time.perf_counter()
                router.fit(learn.queries, t.table)
                row.fit_s = time.perf_counter() - started
                quality, usd = router.predict(asked.queries)
                made = quality[:, 1] - quality[:, 0] if t.pair else (quality, usd)
                if not final:
                    row.early = made
                    continue
                row.made, few = made, asked.queries[:100]
                started = time.perf_counter()
                for query in few:
                    router.predict([query])
                row.ms = 1000 * (time.perf_counter() - started) / len(few)
            except Exception as error:
                row.why = f"{type(error).__name__}: {error}".splitlines()[0]
    return list(rows.values())


def run_peers(t: Task, given: Features, python: Path | None, why: str) -> list[Row]:
    """Each peer's routers: those of two models where there are two, those of a pool where there are more."""
    jobs = PAIR_JOBS if t.pair else POOL_JOBS
    if python is None:
        return [Row(f"{s}: {n}", given.name, why=why) for s, names in jobs.items() for n in names]
    learn, test = t.learn, t.parts["test"]
    texts = {"train": [q.text for q in learn.queries], "test": [q.text for q in test.queries]}
    arrays = {f"{part}_features": given.views(texts[part]).dense for part in texts}
    orders = {
        "": range(len(t.models)),
        "cheapest first": learn.usd.mean(0).argsort(),
        FIRST: (-learn.quality.mean(0)).argsort(),
    }
    job = {
        "models": t.models,
        "sizes": [47, 1000] if t.pair else [1] * len(t.models),  # only `hybrid` asks
        "orders": {k: [int(i) for i in v] for k, v in orders.items()},
        **{f"{part}_texts": found for part, found in texts.items()},
    }
    rows = []
    for script, names in jobs.items():
        print(f"{t.name}: {script}", file=sys.stderr, flush=True)
        own = {"routers": names, "features": given.name}
        rows += run_peer(python, script, job | own, arrays | {"quality": learn.quality})
    return rows


def baselines(t: Task) -> list[Row]:
    """What needs no reading of the question: its length, its given category, and, of a pool, the best fixed model of
    training and of validation. The predicted category and k-means are rows of ours.
    """
    test, rows = t.parts["test"], []
    rules: dict[str, ScoreRouter] = {"prompt length": simple.LengthRule()}
    if key := next((k for k in learned.CATEGORIES if len({q.meta.get(k) for q in t.learn.queries} - {None}) > 1), None):
        rules[f"given {key}"] = simple.FamilyLookup(key=key)
    for name, rule in rules.items():
        scores = rule.fit(t.learn.queries, t.table).predict(test.queries)
        rows.append(Row(name, "-", scores[0][:, 1] - scores[0][:, 0] if t.pair else scores))
    if t.pair:  # a rule without training: longer questions to the stronger model
        rows[0] = Row("prompt length", "-", np.array([float(len(q.text)) for q in test.queries]))
        return rows
    for where, part in {"training": t.learn, "validation": t.parts["validation"]}.items():
        best = int(part.quality.mean(0).argmax())
        rows.append(Row(f"always {t.models[best]}, best in {where}", "-", np.full(len(test.queries), best)))
    return rows


def losses(t: Task, rows: list[Row], names: set[str]) -> None:
    """Say plainly which baselines are above every router of ours, and by how much."""
    ran = [r for r in rows if r.draws is not None]
    ours = [r for r in ran if r.router.startswith("ours: ")]
    if not ours:
        return
    best = max(ours, key=lambda r: r.draws[0])
    for r in (r for r in ran if r.router in names and r.draws[0] > best.draws[0]):
        low, high = np.quantile((best.draws - r.draws)[1:], [0.025, 0.975])
        gap = best.draws[0] - r.draws[0]
        print(f"  ours LOSES to {r.router}: {best.router} minus it is {gap:+.4f} [{low:+.4f}, {high:+.4f}]")


def measure(t: Task, rows: list[Row]) -> None:
    """Fill in the metric of each row."""
    weights = resamples(len(t.parts["test"].queries))
    for row in rows:
        if row.made is not None:
            row.draws = t.metric(t.parts["test"], row.made, weights)
            row.shown = _shown(t, row)


def compare(t: Task, rows: list[Row]) -> dict[str, float]:
    """Ours, chosen on validation, minus the best peer, chosen on the test questions themselves."""
    ran = [r for r in rows if r.draws is not None]
    peers = [r for r in ran if r.kind in POOL_JOBS or r.kind in PAIR_JOBS]
    early = t.parts["validation"]
    ones = np.ones((1, len(early.queries)))
    worth = {r.router: t.metric(early, r.early, ones)[0] for r in ran if r.early is not None}
    if not peers or not worth:
        return {}
    best = max(peers, key=lambda r: r.draws[0])
    figures: dict[str, float] = {}
    for mark, names in (
        ("", list(worth)),
        ("same_", [n for n in worth if not n.endswith(", own")]),
    ):
        if not names:
            continue
        name = max(names, key=worth.__getitem__)
        chosen = next(r for r in ran if r.router == name)
        low, high = np.quantile((chosen.draws - best.draws)[1:], [0.025, 0.975])
        what = "APGR" if t.pair else "area"
        gap = chosen.draws[0] - best.draws[0]
        print(
            f"  {what} of {chosen.router} ({chosen.features}, chosen on validation) minus "
            f"{best.router}: {gap:+.4f} [{low:+.4f}, {high:+.4f}]"
        )
        figures |= {
            f"{mark}{'' if t.pair else 'area_'}ours": chosen.draws[0],
            f"{mark}{'' if t.pair else 'area_'}best_peer": best.draws[0],
            f"{mark}{'' if t.pair else 'area_'}ci_low": low,
        }
        if not t.pair:
            figures |= {mark + k: v for k, v in equal_cost(t, chosen, peers).items()}
    return {f"{t.name}_{k}": round(float(v), 4) for k, v in figures.items()}


def _shown(t: Task, row: Row) -> str:
    low, high = np.quantile(row.draws[1:], [0.025, 0.975])
    shown = f"{row.draws[0]:.4f} [{low:.4f}, {high:.4f}]"
    test = t.parts["test"]
    if t.pair:
        share, got = curve(row.made, test.quality[:, 1] - test.quality[:, 0], np.ones((1, len(test.queries))))
        return shown + "".join(f"  {share[0][np.argmax(got[0] >= p)]:.3f}" for p in (0.5, 0.8))
    quality, usd = (p.mean(0) for p in test.points(row.made))
    top = 0
    if row.early is not None:
        top = int(t.parts["validation"].points(row.early)[0].mean(0).argmax())
    return f"{shown}  {quality[top]:.4f} at {1000 * usd[top]:.3f}"


def equal_cost(t: Task, chosen: Row, peers: list[Row]) -> dict[str, float]:
    """Ours at no more than each peer's cost: of the operating points that cost so little on the test questions, the one
    most accurate on validation.
    """
    test, early = t.parts["test"], t.parts["validation"]
    quality, usd = test.points(chosen.made)
    worth = early.points(chosen.early)[0].mean(0)
    found = {}
    for peer in peers:
        theirs, cost = (p[:, 0] for p in test.points(peer.made))
        allowed = np.flatnonzero(usd.mean(0) <= cost.mean())
        note = ""
        if not len(allowed):
            allowed, note = np.array([usd.mean(0).argmin()]), " (nothing of ours costs so little)"
        at = allowed[worth[allowed].argmax()]
        gap = paired_difference(quality[:, at], theirs, rng=np.random.default_rng(0))
        print(
            f"    {peer.router:32} {theirs.mean():.4f} at {1000 * cost.mean():.3f}; ours "
            f"{quality[:, at].mean():.4f} at {1000 * usd[:, at].mean():.3f}: {gap.mean:+.4f} "
            f"[{gap.low:+.4f}, {gap.high:+.4f}]{note}"
        )
        found[peer.router] = quality[:, at].mean(), theirs.mean(), gap.low
    mine, best, low = max(found.values(), key=lambda f: f[1])
    least = min(f[2] for f in found.values())
    return {"ours": mine, "best_peer": best, "ci_low": low, "least_ci_low": least}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--venv", type=Path, default=RUNS / "peers-venv")
    parser.add_argument("--features", choices=("auto", "minilm", "tfidf"), default="auto")
    parser.add_argument("--only", nargs="*", help="names of tables")
    args = parser.parse_args()
    if not all((DATA / f).is_file() for f in (ROUTELLM, MMLU_PRO)):
        print(f"no recorded tables in {os.path.relpath(DATA)}: nothing to compare on")
        print("{}")
        return 0
    python, why = environment(args.venv)
    figures: dict[str, float] = {}
    for t in tasks():
        if args.only and t.name not in args.only:
            continue
        began = time.perf_counter()
        learn = [q.text for q in t.learn.queries]
        given = given_features(args.features, python, t.texts, learn)
        plain = baselines(t)
        rows = run_ours(t, given) + plain + run_peers(t, given, python, why)
        sizes = ", ".join(f"{len(p.queries)} {n}" for n, p in t.parts.items())
        heads = "APGR [95 %]              CPT50  CPT80" if t.pair else "area [95 %]  best point at $/1,000"
        print(f"{t.name}: {len(t.models)} models; {sizes}")
        print(f"  {'router':36} {'features':9} {heads:42} {'fit s':>6} {'ms':>6}")
        measure(t, rows)
        for r in rows:
            times = "" if np.isnan(r.fit_s) else f" {r.fit_s:6.1f} {r.ms:6.2f}"
            print(f"  {r.router:36} {r.features:9} {r.why or r.shown:42}{times}")
        losses(t, rows, {r.router for r in plain})
        figures |= compare(t, rows)
        print(f"  {time.perf_counter() - began:.0f} s\n", flush=True)
    print(NOTES)
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
