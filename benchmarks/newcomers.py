"""A new model and n probes: what routing gains, from choosing probes, against other ways to learn about it.

On MMLU-Pro (26 models) nine models are new at once and routing is among these nine; on the embedded table each of the
six models is new in turn and routing is among all six. The gain is in area (mean accuracy over cost, from the cheapest
model to the best): over the new models' mean accuracies there, over doing without the new model here. The router is
`Linear` on TF-IDF, the same for all ways. Prints tables, and as its last line one JSON object of named figures.
"""

import argparse
import csv
import datetime as dt
import json
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np

from routerlab import Pool, recorded
from routerlab.core.outcomes import OutcomeTable
from routerlab.core.pools import ModelCard
from routerlab.core.recorded import Recorded
from routerlab.core.runs import root
from routerlab.evaluate.frontier import decide
from routerlab.evaluate.metrics import aiq
from routerlab.routers import newcomers
from routerlab.routers.features import Tfidf
from routerlab.routers.groups import KMeans, PredictedCategory, group_means
from routerlab.routers.learned import Linear, linear
from routerlab.sources import tables
from routerlab.sources.split import split

DATA = root().parent / "shared" / "datasets"
LAMS = np.append(0.0, np.geomspace(1e-1, 1e8, 100))
WAYS = ("ours", "ours, random probes", "k-means", "mean accuracy", "refit on probes")


def only(table: OutcomeTable, models: list[str]) -> OutcomeTable:
    """The rows of these models."""
    at = np.isin(np.array(table.rows["model"].to_pylist(), object), models)
    return OutcomeTable(table.rows.filter(at), models)


def mmlu_pro() -> Recorded:
    rows = [r for r in csv.DictReader((DATA / "mmlupro_models.csv").open()) if r["rows"] == "12032"]
    prices = [(r["model"], float(r["usd_per_mtok_in"]), float(r["usd_per_mtok_out"])) for r in rows]
    cards = [ModelCard(m, m, "standard", a, b, 100_000, dt.date(2025, 1, 1)) for m, a, b in prices]
    data = tables.import_table(DATA / "mmlupro_12032x29.parquet", "mmlu-pro", pool=Pool("mmlupro", cards))
    return data._replace(queries=split(data.queries, {"train": 6, "validation": 1, "test": 3}))


class Bench:
    """One table; what does not depend on which models are new is computed once."""

    def __init__(self, data: Recorded) -> None:
        self.train, test = data.split("train"), data.split("test")
        self.ids = list(self.train.table.models)
        self.features = Tfidf().fit([q.text for q in self.train.queries])
        self.whole = Linear(self.features).fit(self.train.queries, self.train.table)
        self.groups = PredictedCategory(self.features).fit(self.train.queries, self.train.table)
        self.clusters = KMeans(self.features, ks=(32,)).fit(self.train.queries, self.train.table)
        quality, usd = test.table.matrix("quality"), test.table.matrix("usd")
        kept = ~np.isnan(quality + usd).any(1)
        self.quality, self.usd = quality[kept].astype(float), usd[kept].astype(float)
        self.queries = [q for q, keep in zip(test.queries, kept, strict=True) if keep]
        self.views = self.features.views([q.text for q in self.queries])
        self.predicted, self.cost = self.whole.predict(self.queries)

    def area(self, columns: dict[str, np.ndarray], pool: list[str], among: list[str]) -> float:
        """The area of routing among `pool` with these predictions of new models; its ends are those of `among`."""
        scores = self.predicted.copy()
        for model, column in columns.items():
            scores[:, self.ids.index(model)] = column
        at, ends = ([self.ids.index(m) for m in models] for models in (pool, among))
        rows, cost, trained = (
            np.arange(len(scores)),
            self.usd[:, ends],
            self.train.table.matrix("quality", None)[:, ends],
        )
        calls = [np.array(at)[decide(scores[:, at], self.cost[:, at], lam)] for lam in LAMS]
        cheap, best = ends[int(cost.mean(0).argmin())], ends[int(np.nanmean(trained, 0).argmax())]
        points = [[m[rows, c].mean() for c in calls] + [m[:, cheap].mean()] for m in (self.usd, self.quality)]
        return aiq((np.array(points[0]), np.array(points[1])), self.usd[:, cheap].mean(), self.usd[:, best].mean())

    def met(self, router: Linear, table: OutcomeTable, new: list[str], probes: list) -> dict[str, np.ndarray]:
        """What `newcomers.meet` predicts of each new model; the penalties, the same for all, are chosen once."""
        probes = sorted(probes, key=lambda q: q.id)
        ids = {q.id for q in probes}
        rest = sorted((q for q in self.train.queries if q.id not in ids), key=lambda q: q.id)[:1000]
        asked, unseen = (newcomers._seen(router, self.groups, part, table) for part in (probes, rest))
        y = self.train.table.select([q.id for q in probes]).matrix("quality", None).astype(float)
        model, penalties = (
            newcomers.Newcomers(self.features, members=[router, self.groups]),
            newcomers._tuned(asked, unseen),
        )
        predicted = {}
        for m in new:
            model.arrays["coefficients"] = newcomers._solve(*asked, y[:, self.ids.index(m)], penalties)
            predicted[m] = model.estimate(self.views)[:, -1]
        return predicted

    def draw(self, new: list[str], pool: list[str], counts: list[int], rng: np.random.Generator) -> dict:
        """Areas by (way, probes) for one draw of new models."""
        known = [m for m in self.ids if m not in new]
        router = Linear(self.features)
        columns = [self.ids.index(m) for m in known]  # ridge for each model: the same as fitted on the known ones alone
        router._own, router.models = False, tuple(known)
        router.arrays = {"w": self.whole.arrays["w"][:, columns], "b": self.whole.arrays["b"][columns]}
        router._cost = tuple(c[..., columns] for c in self.whole._cost)
        table, queries = only(self.train.table, known), self.train.queries
        means = dict(zip(self.ids, np.nanmean(self.train.table.matrix("quality", None), 0), strict=True))
        flat = {m: np.full(len(self.queries), means[m]) for m in new}
        areas = {("full labels", 0): self.area({}, pool, pool)}
        areas["start", 0] = self.area(flat, pool, pool) if len(new) > 1 else self.area({}, known, pool)
        drawn = [queries[i] for i in rng.permutation(len(queries))]
        for n in counts:
            columns_by_way: dict[str, dict[str, np.ndarray]] = defaultdict(dict)
            for way, probes in {
                "ours": newcomers.choose_probes(router, self.groups, queries, n),
                "ours, random probes": drawn[:n],
            }.items():
                columns_by_way[way] = self.met(router, table, new, probes)
            texts, outcomes = [q.text for q in drawn[:n]], self.train.table.select([q.id for q in drawn[:n]])
            seen, quality = self.features.views(texts), outcomes.matrix("quality", None).astype(float)
            for m in new:
                y = quality[:, [self.ids.index(m)]]
                columns_by_way["k-means"][m] = (
                    self.clusters.probabilities(self.views) @ group_means(self.clusters.probabilities(seen), y)
                )[:, 0]
                columns_by_way["mean accuracy"][m] = np.full(len(self.queries), np.nanmean(y))
                w, b = linear(seen.dense, y)
                columns_by_way["refit on probes"][m] = (self.views.dense @ w + b)[:, 0]
            areas |= {(way, n): self.area(columns_by_way[way], pool, pool) for way in WAYS}
        return areas


def curve(name: str, draws: list[dict]) -> list[dict]:
    """For each way and number of probes the mean area over draws, and half of its 95 % interval, less the start's; and
    half of the interval of its paired difference to ours (`paired`).
    """
    lines = []
    for way, n in draws[0]:
        gain = np.array([d[way, n] - d["start", 0] for d in draws])
        apart = np.array([d.get(("ours", n), d[way, n]) - d[way, n] for d in draws])
        half, paired = (1.96 * v.std(ddof=1) / len(draws) ** 0.5 for v in (gain, apart))
        line = {"table": name, "way": way, "probes": n, "draws": len(draws)}
        figures = {"gain": gain.mean(), "half": half, "paired": paired}
        lines.append(line | {n: round(float(v), 5) for n, v in figures.items()})
    return lines


def report(name: str, draws: list[dict], counts: list[int]) -> dict[str, float]:
    """Print the curve: share of the gain of full labels, and ours minus each way with 95 % intervals over draws."""
    values = {key: np.array([d[key] for d in draws]) for key in draws[0]}
    full, start = values["full labels", 0], values["start", 0]
    print(f"{name}: {len(draws)} draws; area {start.mean():.4f} at the start, {full.mean():.4f} with full labels")
    print(f"  {'probes':>6} {'way':22} {'area':>7} {'share of gain':>14}   ours minus it [95 % over draws]")
    figures = {}
    for n in counts:
        for way in WAYS:
            gap = values["ours", n] - values[way, n]
            half = 1.96 * gap.std(ddof=1) / len(gap) ** 0.5
            share = (values[way, n] - start).mean() / (full - start).mean()
            beside = f"{gap.mean():+.4f} [{gap.mean() - half:+.4f}, {gap.mean() + half:+.4f}]" if way != "ours" else ""
            print(f"  {n:6} {way:22} {values[way, n].mean():7.4f} {share:14.0%}   {beside}")
            if way == "ours":
                figures[f"{name}_share_{n}"] = round(float(share), 3)
            elif way in ("k-means", "ours, random probes"):
                what = "kmeans" if way == "k-means" else "random"
                figures |= {f"{name}_over_{what}_{n}": round(float(gap.mean()), 4)}
                figures |= {f"{name}_over_{what}_{n}_ci_low": round(float(gap.mean() - half), 4)}
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--draws", type=int, default=12, help="of new models on MMLU-Pro (default: 12)")
    parser.add_argument("--probes", default="50,100,200,400", help="numbers of probes, with commas")
    parser.add_argument("--csv", type=Path, help="also write the curve to this file")
    args = parser.parse_args()
    counts, figures = [int(n) for n in args.probes.split(",")], {}
    rng = np.random.default_rng(0)
    bench = Bench(recorded("pocket"))
    draws = [bench.draw([m], bench.ids, counts, rng) for m in bench.ids for _ in range(2)]
    figures |= report("pocket", draws, counts)
    lines = curve("pocket", draws)
    if Path(DATA / "mmlupro_12032x29.parquet").is_file():
        bench = Bench(mmlu_pro())
        draws = []
        for number in range(args.draws):
            print(f"MMLU-Pro, draw {number + 1} of {args.draws}", file=sys.stderr, flush=True)
            new = [bench.ids[i] for i in rng.permutation(len(bench.ids))[:9]]
            draws.append(bench.draw(new, new, counts, rng))
        figures |= report("mmlupro", draws, counts)
        lines += curve("mmlupro", draws)
    if args.csv:
        with args.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(lines[0]), lineterminator="\n")
            writer.writeheader(), writer.writerows(lines)
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
