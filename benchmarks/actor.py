"""Pools that a router was not trained for: each embedded model in turn is new, prices are redrawn, the order permuted.

The small actor is trained without the new model and reads its card, measured on a few probes. Beside it: a blend fitted
to that very pool with all labels; the plain alternative, which predicts the kind of a question and looks its accuracy
up in the cards; and `newcomers`, which learns from the same probes one by one. Prints the gain over the random mix as a
share of the fitted blend's, and as its last line one JSON object of named figures.
"""

import argparse
import json
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from routerlab import Pool, recorded
from routerlab.contest.run import contest
from routerlab.contest.setup import of_models
from routerlab.core.recorded import Recorded
from routerlab.routers import newcomers, store
from routerlab.routers.groups import PredictedCategory
from routerlab.routers.learned import Linear
from routerlab.routers.lm import LMRouter
from routerlab.train import actor

WAYS = ("actor", "newcomers", "card lookup")


def redrawn(pool: Pool, rng: np.random.Generator, most: float = 3.0) -> Pool:
    """The pool in a random order, each model's prices multiplied by a random factor between 1 / most and most."""
    cards = []
    for card in (pool.cards[i] for i in rng.permutation(len(pool))):
        factor = most ** rng.uniform(-1, 1)
        prices = {n: getattr(card, n) * factor for n in ("usd_per_mtok_in", "usd_per_mtok_out")}
        cards.append(replace(card, **prices))
    return Pool(pool.name, cards)


def lookup(train: Recorded, cards: Pool) -> PredictedCategory:
    """Predicts the kind of a question and looks the accuracy of every model up in its card."""
    router = PredictedCategory().fit(train.queries, train.table)
    kinds = sorted({str(q.meta["family"]) for q in train.queries})
    skills = [{s.kind: s.accuracy for s in cards[m].skills} for m in router.models]
    means = [np.mean([*s.values()]) for s in skills]
    router.arrays["means"] = np.array([[s.get(k, m) for s, m in zip(skills, means, strict=True)] for k in kinds])
    router.name = "card lookup"
    return router


def unseen(data: Recorded, held_out: tuple[str, ...], trained: LMRouter, probes: int, seed: int = 0):
    """The contest of all ways on the whole pool at new prices, where the models held out are known by probes alone."""
    rng = np.random.default_rng(seed)
    data = data.priced(redrawn(data.pool, rng))
    train = data.split("train")
    known = [m for m in data.pool.ids if m not in held_out]
    rest = train._replace(pool=data.pool.subset(known), table=of_models(train.table, known))
    router = Linear().fit(rest.queries, rest.table)
    groups = newcomers.groups_of(router, rest.queries, rest.table)
    asked = newcomers.choose_probes(router, groups, rest.queries, probes)
    met, cards = router, dict(zip(trained.pool.ids, trained.pool.cards, strict=True))
    for model in held_out:
        outcomes = of_models(train.table.select([q.id for q in asked]), [model])
        met = newcomers.meet(met, groups, (rest.queries, of_models(train.table, met.models)), model, outcomes)
        cards[model] = actor.probed(data.pool[model], asked, train.table)
    met.name, pool = "newcomers", Pool("cards", cards.values())
    with tempfile.TemporaryDirectory() as place:
        folders = {way: str(Path(place) / way) for way in WAYS}
        about = {"data": data.sha256, "pool": data.pool.name}
        trained.reader.save(folders["actor"], about).write("pool.yaml", pool.to_yaml())
        store.save(met, folders["newcomers"], about)
        store.save(lookup(train, pool), folders["card lookup"], about)
        return contest(data, ["blend", *folders.values()], category="family")


def shares(judged) -> dict[str, np.ndarray]:
    """For each way its gain over the random mix as a share of the fitted blend's: on the test, then on resamples."""
    measures = judged.measures()
    return {way: measures[way]["gain"] / measures["blend"]["gain"] for way in WAYS}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--probes", type=int, default=100)
    parser.add_argument("--out", type=Path, help="write the shares by new model as CSV")
    args = parser.parse_args()
    data, values = recorded("pocket"), {}
    started = time.process_time()
    for seed, model in enumerate(data.pool.ids[::-1]):
        trained, _ = actor.train(data, (model,))
        values[model] = shares(unseen(data, (model,), trained, args.probes, seed))
        print(f"{model} is done", flush=True)
    values["mean"] = {way: np.mean([v[way] for v in values.values()], 0) for way in WAYS}
    rows = [{"model": m, "way": w, **_ends(v[w])} for m, v in values.items() for w in WAYS]
    frame = pd.DataFrame(rows).round(4)
    print(frame.to_string(index=False, formatters=dict.fromkeys(("share", "low", "high"), "{:.1%}".format)))
    print(f"{args.probes} probes, {time.process_time() - started:.0f} s of CPU")
    if args.out:
        frame.to_csv(args.out, index=False)
    mean = frame[frame["model"] == "mean"].set_index("way")
    figures = {f"{way.replace(' ', '_')}_share": float(mean["share"][way]) for way in WAYS}
    print(json.dumps(figures | {f"{way.replace(' ', '_')}_share_ci_low": float(mean["low"][way]) for way in WAYS}))
    return 0


def _ends(values: np.ndarray) -> dict[str, float]:
    low, high = np.quantile(values[1:], [0.025, 0.975])
    return {"share": values[0], "low": low, "high": high}


if __name__ == "__main__":
    sys.exit(main())
