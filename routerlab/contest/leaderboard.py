"""Many tables, one line a router: its gain over the random mix on each, its mean rank and how often it is first."""

from collections.abc import Mapping

import numpy as np

from routerlab.contest.results import RESAMPLES, Contest
from routerlab.evaluate.stats import Interval


def leaderboard(contests: Mapping[str, Contest], resamples: int = RESAMPLES):
    """One line a router (pandas), the best mean rank first: its gain over the random mix on each table (by name) with
    its 95 % interval, its mean rank by gain, the tables it wins, and those where a single model dominates it.

    The rank is taken among the routers that ran on the table; of equal gains each has the mean of their ranks.
    """
    import pandas as pd
    from scipy.stats import rankdata

    gains: dict[str, dict[str, Interval]] = {}
    ranks: dict[str, dict[str, float]] = {}
    beaten: dict[str, int] = {}
    for table, results in contests.items():
        measured = results.measures(resamples)
        names = [e.name for e in results.entries]
        values = np.nan_to_num([measured[n]["gain"][0] for n in names])
        for name, rank in zip(names, rankdata(-values), strict=True):
            ranks.setdefault(name, {})[table] = float(rank)
            gains.setdefault(name, {})[table] = Interval.of(measured[name]["gain"][0], measured[name]["gain"][1:])
        for name, by in results.dominated().items():
            beaten[name] = beaten.get(name, 0) + bool(by)
    frame = pd.DataFrame(gains).T.reindex(columns=list(contests))
    frame["mean rank"] = {n: float(np.mean(list(r.values()))) for n, r in ranks.items()}
    frame["wins"] = {n: sum(v == 1 for v in r.values()) for n, r in ranks.items()}
    frame["dominated"] = beaten
    return frame.sort_values(["mean rank", "wins"], ascending=[True, False], kind="stable")


def all_dominated(contests: Mapping[str, Contest]) -> dict[str, list[str]]:
    """The tables where every router is dominated by a single model, with these models."""
    beaten = {table: list(results.dominated().values()) for table, results in contests.items()}
    return {t: sorted({m for by in models for m in by}) for t, models in beaten.items() if all(models)}
