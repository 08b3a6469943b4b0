"""The estimators of `routerlab eval` on tables whose truth is known: bias and coverage of every printed column.

Routers are fitted once on the embedded table. Its test questions, with what each router decided on them at each cost
weight, are the population; a simulated table draws validation and test questions from it, chooses on the one and scores
on the other as `routerlab eval` does. The truth is the score on the whole population of what was chosen. The decisions
of negative controls are dealt to other questions anew in each table, so that they know nothing of them. Prints a table,
and as its last line one JSON object of named figures; coverages and shares in percent, of a column the mean of lines.
"""

import argparse
import json
from dataclasses import replace

import numpy as np

from routerlab import recorded
from routerlab.contest import verdict
from routerlab.contest.results import MEASURES, Contest, Entry
from routerlab.contest.run import contest

ROUTERS = ["length", "linear", "ridge", "knn", "blend", "cascade", "random", "shuffled"]
CONTROLS = "random features", "shuffled labels"
SIZES = (100, 300), (200, 700), (360, 1760)  # questions of validation and test
RESAMPLES = 1000


def dealt(e: Entry, population: Contest, rng: np.random.Generator) -> Entry:
    """A control whose decisions are given to other questions."""
    choice = e.choice[:, rng.permutation(e.choice.shape[1])]
    rows = np.arange(choice.shape[1])
    quality, usd = (m[rows, choice].astype(float) for m in (population.quality, population.usd))
    return replace(
        e, choice=choice, quality=quality, usd=usd, others=tuple(dealt(o, population, rng) for o in e.others)
    )


def drawn(e: Entry, validation: np.ndarray, test: np.ndarray | slice) -> Entry:
    """The entry on these questions of the population."""
    means = e.quality[:, validation].mean(1), e.usd[:, validation].mean(1)
    others = tuple(drawn(o, validation, test) for o in e.others)
    return replace(e, quality=e.quality[:, test], usd=e.usd[:, test], validation=means, others=others)


def simulated(population: Contest, sizes: tuple[int, int], rng: np.random.Generator) -> tuple[Contest, Contest]:
    """(a table, the population with the same choices)."""
    whole = len(population.quality)
    validation, test = (rng.integers(0, whole, size) for size in sizes)
    entries = [dealt(e, population, rng) if e.name in CONTROLS else e for e in population.entries]
    before = np.concatenate([m[validation].mean(0, dtype=float) for m in (population.quality, population.usd)])

    def on(rows: np.ndarray | slice, size: int) -> Contest:
        return replace(
            population,
            entries=tuple(drawn(e, validation, rows) for e in entries),
            mix=drawn(population.mix, validation, rows) if population.mix else None,
            quality=population.quality[rows],
            usd=population.usd[rows],
            before=before,
            clusters=np.arange(size),
            seed=int(rng.integers(1 << 31)),
        )

    return on(test, sizes[1]), on(slice(None), whole)


def columns(results: Contest, resamples: int) -> dict[tuple[str, str], np.ndarray]:
    """Every printed number: those of the summary, and the differences to the leader."""
    measured, leader = results.measures(resamples), results.chosen()[0].name
    out = {(n, m): c[m] for n, c in measured.items() for m in MEASURES}
    for m, title in verdict.COMPARED.items():
        out |= {
            (n, f"{title} less the leader's"): c[m] - measured[leader][m] for n, c in measured.items() if n != leader
        }
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tables", type=int, default=300, help="simulated tables (default: 300)")
    tables = parser.parse_args().tables
    population = contest(recorded("pocket"), ROUTERS)
    rng = np.random.default_rng(0)
    rows: dict[tuple[str, str], list[tuple[float, float, float, float]]] = {}
    significant = []
    for number in range(tables):
        table, whole = simulated(population, SIZES[number % len(SIZES)], rng)
        estimates, truths = columns(table, RESAMPLES), columns(whole, 1)
        for key, values in estimates.items():
            low, high = np.quantile(values[1:], [0.025, 0.975])
            rows.setdefault(key, []).append((values[0], low, high, truths[key][0]))
            if key[0] in CONTROLS and key[1] == "gain":
                significant.append(low > 0)
    names = list(dict.fromkeys(column for _, column in rows))
    coverage, bias = ({c: [] for c in names} for _ in range(2))
    for (_, column), values in rows.items():
        value, low, high, truth = np.array(values).T
        free = (high > low) | (abs(value - truth) > 1e-12)  # else it is 0 by definition, as the gain of the random mix
        if free.sum() > tables / 10:
            covered = (low <= truth + 1e-9) & (truth <= high + 1e-9)
            coverage[column].append(float(covered[free].mean()) * 100)
            bias[column].append(float(abs((value - truth)[free].mean()) / ((high - low)[free] / 2).mean()))
    print(
        f"{'column':42} {'lines':>5} {'coverage %':>10} {'worst line':>12} {'bias / half width':>18} {'worst line':>10}"
    )
    for c in names:
        cover, off = np.array(coverage[c]), np.array(bias[c])
        print(f"{c:42} {len(cover):5} {cover.mean():10.1f} {cover.min():12.1f} {off.mean():18.2f} {off.max():10.2f}")
    means = [float(np.mean(coverage[c])) for c in names]
    figures = {
        "tables": tables,
        "worst_coverage": round(min(means), 1),
        "mean_coverage": round(float(np.mean(means)), 2),
        "worst_line_coverage": round(min(min(coverage[c]) for c in names), 1),
        "worst_bias": round(max(max(bias[c]) for c in names), 3),
        "controls_significant": round(float(np.mean(significant)) * 100, 1),
    }
    print(f"negative controls above the random mix at 5 %: {figures['controls_significant']} % of tables")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
