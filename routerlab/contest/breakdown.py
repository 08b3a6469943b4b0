"""Details of a contest: which models a router calls, its quality by kind of question, what is spent; and saving it."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from routerlab.contest.results import DOMAIN, Contest, Entry
from routerlab.core.runs import Run
from routerlab.evaluate import metrics
from routerlab.evaluate.stats import bootstrap_means
from routerlab.routers.protocol import RouterError


def shares(results: Contest, entry: Entry):
    """Share of the queries each model answers (columns) at each cost weight (pandas)."""
    import pandas as pd

    shares = metrics.call_shares(entry.choice, len(results.test.table.models))
    return pd.DataFrame(shares, index=entry.lam, columns=results.test.table.models)


def by_domain(results: Contest, entries: Sequence[Entry]):
    """(mean, low, high): quality in each domain (index) of these routers at their frugal points (pandas)."""
    import pandas as pd

    domains = results.domains()
    if domains is None:
        raise RouterError(f"the queries of this table have no kind of question in meta ({', '.join(DOMAIN)})")
    columns = np.stack([e.quality[e.at_least(results.single_validation)] for e in entries], 1)
    rows: dict[str, list] = {}
    for d in np.unique(domains):
        at = domains == d
        rng = np.random.default_rng(results.seed)
        means = bootstrap_means(columns[at], 1000, rng=rng, clusters=results.clusters[at])
        rows[d] = [columns[at].mean(0), *np.quantile(means, [0.025, 0.975], axis=0)]
    names = [e.name for e in entries]
    return tuple(pd.DataFrame({d: r[i] for d, r in rows.items()}, index=names).T for i in range(3))


def spent(results: Contest, entries: Sequence[Entry]):
    """(usd, own) a query of these routers at their frugal points: by the model that answered (columns), and what
    routing itself cost, which for a cascade are the calls whose answers did not count (pandas).
    """
    import pandas as pd

    rows, own = {}, {}
    for e in entries:
        at = e.at_least(results.single_validation)
        paid = results.usd[np.arange(len(results.usd)), e.choice[at]]
        by = np.bincount(e.choice[at], paid, minlength=results.usd.shape[1]) / len(paid)
        rows[e.name], own[e.name] = by, max(0.0, float(e.usd[at].mean() - by.sum()))
    frame = pd.DataFrame(rows, index=results.test.table.models).T
    return frame, pd.Series(own)


def keep(results: Contest, run: Run, summary: Any) -> Any:
    """Write a contest into a run: `points.csv` (every operating point with its intervals), `summary.csv`, and each
    router that can be saved, with its frontier on validation in its card. Returns the run's folder.
    """
    import pandas as pd

    from routerlab.routers.learned import Learned
    from routerlab.routers.store import save

    points = pd.concat([results.frontier(e).frame() for e in results.entries])
    run.write("points.csv", points.to_csv(index=False, float_format="%.6g"))
    run.write("summary.csv", summary.map(str).to_csv())
    for e in results.entries:
        if isinstance(e.router, Learned):
            quality, usd = e.validation
            frontier = [
                {"lam": float(p), "quality": float(q), "usd_per_1000": float(c) * 1000}
                for p, q, c in zip(e.lam, quality, usd, strict=True)
            ]
            card = {"data": results.test.sha256, "pool": results.test.pool.name}
            card |= {"lam": [0.0, float(e.lam.max())], "frontier": frontier}
            save(e.router, run.folder / "routers" / e.name.replace(" ", "_"), card)
    return run.folder
