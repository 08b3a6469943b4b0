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

    measured = {t: {e.name: c.measures(resamples)[e.name]["gain"] for e in c.entries} for t, c in contests.items()}
    names = list(dict.fromkeys(n for by in measured.values() for n in by))
    intervals = {t: {n: Interval.of(g[0], g[1:]) for n, g in by.items()} for t, by in measured.items()}
    frame = pd.DataFrame(intervals, names)
    values = {t: {n: np.nan_to_num(g[0]) for n, g in by.items()} for t, by in measured.items()}
    ranks = pd.DataFrame(values, names).rank(ascending=False)
    frame["mean rank"], frame["wins"] = ranks.mean(axis=1), (ranks == 1).sum(axis=1)
    beaten = [results.dominated() for results in contests.values()]
    frame["dominated"] = [sum(bool(by.get(n)) for by in beaten) for n in names]
    return frame.sort_values(["mean rank", "wins"], ascending=[True, False], kind="stable")


def all_dominated(contests: Mapping[str, Contest]) -> dict[str, list[str]]:
    """The tables where every router is dominated by a single model, with these models."""
    beaten = {table: list(results.dominated().values()) for table, results in contests.items()}
    return {t: sorted({m for by in models for m in by}) for t, models in beaten.items() if all(models)}
