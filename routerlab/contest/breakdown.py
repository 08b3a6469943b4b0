"""Details of a contest: which models a router calls, its quality by kind of question, what is spent; and saving it."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from routerlab.contest.results import Contest, Entry
from routerlab.core.decisions import call_shares
from routerlab.core.runs import Run
from routerlab.evaluate.calibration import brier, reliability
from routerlab.evaluate.frontier import Frontier, corners, summarise
from routerlab.evaluate.mixes import Mix
from routerlab.routers.protocol import RouterError


def shares(results: Contest, entry: Entry):
    """Share of the queries each model answers (columns) at each cost weight (pandas)."""
    import pandas as pd

    shares = call_shares(entry.choice, len(results.test.table.models))
    return pd.DataFrame(shares, index=entry.lam, columns=results.test.table.models)


def by_domain(results: Contest, entries: Sequence[Entry]):
    """(mean, low, high): quality in each domain (index) of these routers (pandas), all at one cost: that of the best
    router's frugal mix. A router reaches it by a mix of two of its points, chosen on validation.
    """
    import pandas as pd

    domains = results.domains()
    if domains is None:
        raise RouterError("the queries of this table have no kind of question in meta; name its column as category")
    columns = np.stack([_at_cost(e, results.equal_usd).of(e.quality.T) for e in entries], 1)
    drawn = {d: results.resampled(columns[domains == d], 1000, domains == d) for d in np.unique(domains)}
    rows = [[m[0], *np.quantile(m[1:], [0.025, 0.975], axis=0)] for m in drawn.values()]
    names = [e.name for e in entries]
    return tuple(pd.DataFrame(values, index=list(drawn), columns=names) for values in zip(*rows, strict=True))


def _at_cost(entry: Entry, usd: float) -> Mix:
    """The mix of two points of an entry that costs this much on validation; beyond its ends, its end point."""
    quality, paid = entry.validation
    path = corners(paid, quality)
    dear = int(np.clip(np.searchsorted(paid[path], usd), min(1, len(path) - 1), len(path) - 1))
    ends = path[max(dear - 1, 0)], path[dear]
    return Mix(int(ends[0]), int(ends[1]), float(np.interp(usd, paid[list(ends)], [0, 1])))


def gains(results: Contest, entries: Sequence[Entry]) -> list[Frontier]:
    """The operating points of these routers with their quality less that of the random mix at the same mean cost, and
    the paired 95 % interval of this difference over clusters of queries.
    """
    mix, frontiers = results.mix, []
    if mix is None:
        raise RouterError("this contest has no random mix; run it with `contest`")
    order = np.argsort(mix.usd.mean(1), kind="stable")
    paid = mix.usd.mean(1)[order]
    for e in entries:
        # Shares of the vertices of the mix that cost as much as each point, on average.
        shares = np.stack([np.interp(e.usd.mean(1), paid, vertex) for vertex in np.eye(len(paid))], 1)
        gained = e.over_trainings(lambda t, shares=shares: (t.quality - shares @ mix.quality[order]).T)
        usd, rng = e.over_trainings(lambda t: t.usd.T), np.random.default_rng(results.seed)
        frontiers.append(summarise(e.name, e.lam, gained, usd, rng=rng, clusters=results.clusters))
    return frontiers


def spent(results: Contest, entries: Sequence[Entry]):
    """(usd, own) a query of these routers at their frugal points: by the model that answered (columns), and what
    routing itself cost, which for a cascade are the calls whose answers did not count (pandas).
    """
    import pandas as pd

    rows, own = {}, {}
    for e in entries:
        at = e.at_least(results.single_validation)
        scored = np.flatnonzero(~np.isnan(e.usd[at]))
        paid = results.usd[scored, e.choice[at][scored]]
        by = np.bincount(e.choice[at][scored], paid, minlength=results.usd.shape[1]) / len(paid)
        rows[e.name], own[e.name] = by, max(0.0, float(e.usd[at][scored].mean() - by.sum()))
    frame = pd.DataFrame(rows, index=results.test.table.models).T
    return frame, pd.Series(own)


def calibration_by_model(results: Contest, entry: Entry):
    """How well a router's predicted qualities agree with what happened, a line a model and their mean (pandas): Brier
    score, its parts, and the calibration error. Pooled over models, a router that knows only each model's mean would
    seem to resolve questions; within a model it resolves nothing.
    """
    import pandas as pd

    rows = {}
    predicted = np.clip(results.predicted(entry)[0], 0, 1)
    for m, name in enumerate(results.test.table.models):
        at = ~np.isnan(predicted[:, m]) & ~np.isnan(results.quality[:, m])
        if at.any():
            pair = predicted[at, m], results.quality[at, m]
            rows[name] = brier(pair[0].round(2), pair[1])._asdict() | {"ECE": reliability(*pair).ece}
    frame = pd.DataFrame(rows).T
    return pd.concat([frame, frame.mean().rename("mean").to_frame().T])


def keep(results: Contest, run: Run, summary: Any) -> Any:
    """Write a contest into a run: `points.csv` (every operating point with its intervals), `summary.csv`, and each
    router that can be saved, at the cost weight of its frugal point, with its frontier on validation in its card.
    Returns the run's folder.
    """
    import pandas as pd

    from routerlab.routers.learned import Learned
    from routerlab.routers.store import save

    run.write(
        "points.csv",
        pd.concat([results.frontier(e).frame() for e in results.everyone]).to_csv(index=False, float_format="%.6g"),
    )
    run.write("summary.csv", summary.map(str).to_csv())
    for e in results.entries:
        if isinstance(e.router, Learned):
            frontier = [
                {"lam": float(p), "quality": float(q), "usd_per_1000": float(c) * 1000}
                for p, q, c in zip(e.lam, *e.validation, strict=True)
            ]
            chosen = {"frugal": float(e.lam[e.at_least(results.single_validation)]), "best": float(e.lam[e.at_best()])}
            card = {"data": results.test.sha256, "pool": results.test.pool.name, "chosen": chosen}
            card |= {"lam": [0.0, float(e.lam.max())], "frontier": frontier}
            save(e.router.at(chosen["frugal"]), run.folder / "routers" / e.name.replace(" ", "_"), card)
    return run.folder
