"""How the gain of routing grows with the number of labels, from 250 to 20,000 questions that every model answered once.

The first 3,240 are the training questions of the embedded table, the others those of a run that was made by
`routerlab collect --source pocket:more --run more --max-tokens 160`. Routers are scored on the table's test split; the
random mix and the interval of costs are those of the table. Up to 3,240 labels the mean of three random parts is taken.
Prints a table, and as its last line one JSON object of named figures; `--out` writes the table as CSV.
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import torch

from routerlab import Run, recorded
from routerlab.contest.run import KINDS, contest
from routerlab.core.outcomes import OutcomeTable
from routerlab.routers.features import Tfidf
from routerlab.routers.store import save

SIZES = (250, 500, 1000, 2000, 3240, 5000, 10_000, 20_000)
DRAWS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", default="more")
    parser.add_argument("--routers", default="ridge,blend")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if not (Run(given.run).folder / "outcomes.parquet").is_file():
        print(f"There is no run {given.run!r}: collect it as said above (half an hour on two cores).\n{{}}")
        return
    data, more = recorded("pocket"), recorded(given.run)
    train = data.split("train")
    greedy = train.table.rows.filter(pa.compute.equal(train.table.rows["sample"], 0))
    parts = [greedy.cast(more.table.rows.schema), more.table.rows]
    table = OutcomeTable(pa.concat_tables(parts).unify_dictionaries(), data.pool.ids)
    for model, ours, theirs in zip(
        data.pool.ids, train.table.matrix().mean(0), more.table.matrix().mean(0), strict=True
    ):
        print(f"{model}: accuracy {ours:.3f} on the table's training questions, {theirs:.3f} on the others")
    queries = [*train.queries, *more.queries]
    with tempfile.TemporaryDirectory() as folder:
        saved: dict[str, dict] = {}
        for size in (s for s in SIZES if s <= len(queries)):
            for draw in range(DRAWS if size < len(train.queries) else 1):
                rng = np.random.default_rng([draw, size])
                shuffled = rng.permutation(len(train.queries)), len(train.queries) + rng.permutation(len(more.queries))
                chosen = [queries[i] for i in np.concatenate(shuffled)[:size]]
                part, features = table.select([q.id for q in chosen]), Tfidf().fit([q.text for q in chosen])
                for name in given.routers.split(","):
                    router = KINDS[name](features).fit(chosen, part)
                    router.name = f"{name}-{size}-{draw}"
                    save(router, f"{folder}/{router.name}", {"data": more.sha256, "pool": data.pool.name})
                    saved[router.name] = {"router": name, "labels": size}
                    print(f"{router.name} is fitted", flush=True)
        measured = contest(data, [f"{folder}/{name}" for name in saved]).measures()
    lines = []
    for name, about in saved.items():
        gain = measured[name]["gain"]
        low, high = np.quantile(gain[1:], [0.025, 0.975])
        lines.append({**about, "area": measured[name]["area"][0], "gain": gain[0], "low": low, "high": high})
    frame = pd.DataFrame(lines)
    mean = frame.groupby(["router", "labels"], as_index=False)[["area", "gain", "low", "high"]].mean().round(4)
    print(mean.to_string(index=False))
    if given.out:
        mean.to_csv(given.out, index=False)
    best = mean[mean["router"] == given.routers.split(",")[-1]].set_index("labels")["gain"]
    print(json.dumps({f"gain_{labels}": gain for labels, gain in best.items()}))


if __name__ == "__main__":
    main()
