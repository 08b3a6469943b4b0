"""What a contest says in words and over several splits: differences to one router, who is above the random mix."""

from collections.abc import Sequence

import numpy as np

from routerlab.contest.results import MEASURES, RESAMPLES, Contest
from routerlab.evaluate.stats import Comparison, Interval

LEVEL = 0.05
COMPARED = {"area": "area", "at cost": "quality at equal cost", "saving": "saving"}


def differences(results: Contest, rival: str, resamples: int = RESAMPLES):
    """One line an entry of `Contest.everyone` (pandas): its area, its quality at equal cost and its saving less those
    of `rival`, each with its paired 95 % interval, its p-value after Holm's correction over the lines of the table, and
    the minimum detectable difference (80 % power, before that correction).
    """
    import pandas as pd

    columns = {}
    for measure, title in COMPARED.items():
        lines = results.against(rival, measure, resamples)
        columns |= {
            title: {c.name: c.difference for c in lines},
            f"{title}: p (Holm)": {c.name: c.p_holm for c in lines},
            f"{title}: detectable": {c.name: c.detectable for c in lines},
        }
    return pd.DataFrame(columns, index=[c.name for c in results.against(rival, "area", resamples)])


def sentences(results: Contest, rival: str, resamples: int = RESAMPLES) -> list[str]:
    """The verdicts at 5 % after Holm's correction: which routers lie above or below the random mix, and which have a
    larger or smaller area than `rival`, or cannot be told from it.
    """
    lines, routers = [], [e.name for e in results.entries]
    if results.mix and (gains := _told(results.against(results.mix.name, "area", resamples, among=routers))):
        above, same, below = _sorted(gains)
        lines.append(
            f"area against the random mix (Holm, {LEVEL:.0%}): above it {_names(above)}; below it {_names(below)}; not "
            f"told from it {_names(same)}"
        )
    if versus := _told(results.against(rival, "area", resamples)):
        above, same, below = _sorted(versus)
        least = [c.detectable for c in same]
        sizes = " to ".join(sorted({f"{size:.4f}" for size in (min(least), max(least))})) if least else ""
        blind = f" (differences below {sizes} would be missed)" if least else ""
        lines.append(
            f"area against {rival} (Holm, {LEVEL:.0%}): larger {_names(above)}; smaller {_names(below)}; not told "
            f"from it {_names(same)}{blind}"
        )
    return lines


def _told(lines: Sequence[Comparison]) -> list[Comparison]:
    """Those with a difference: where the cheapest model is the best one, there are no areas."""
    return [c for c in lines if not np.isnan(c.difference.mean)]


def _sorted(lines: Sequence[Comparison]) -> tuple[list[Comparison], list[Comparison], list[Comparison]]:
    """Comparisons that are significantly above 0, not significant, and significantly below."""
    sure = [c.p_holm <= LEVEL for c in lines]
    above = [c for c, s in zip(lines, sure, strict=True) if s and c.difference.mean > 0]
    below = [c for c, s in zip(lines, sure, strict=True) if s and c.difference.mean < 0]
    return above, [c for c in lines if c not in above and c not in below], below


def _names(lines: Sequence[Comparison]) -> str:
    return ", ".join(c.name for c in lines) or "none"


def over_splits(contests: Sequence[Contest], resamples: int = RESAMPLES):
    """One line a router (pandas): each column of `Contest.table` as its mean over contests on several splits of one
    table, with a 95 % interval over splits, mean ± t sqrt((1 / N + test / train) s²): the splits overlap, so the
    variance s² of N of them understates what a new sample of questions would change (Nadeau and Bengio 2003).
    """
    import pandas as pd
    from scipy.stats import t

    everyone = dict.fromkeys(name for c in contests for name in c.measures(resamples))
    rows = {}
    for name in everyone:
        entered = [c.measures(resamples)[name] for c in contests if name in c.measures(resamples)]
        ratio = np.mean([len(c.test.queries) / max(c.trained_on, 1) for c in contests])
        rows[name] = {}
        for measure in MEASURES:
            values, n = np.array([columns[measure][0] for columns in entered]), len(entered)
            spread = np.sqrt((1 / n + ratio) * values.var(ddof=1)) if n > 1 else np.nan
            half = float(t.ppf(0.975, n - 1) * spread) if n > 1 else np.nan
            mean = float(values.mean())
            rows[name][measure] = Interval(mean, mean - half, mean + half)
        rows[name]["splits"] = len(entered)
    order = sorted(rows, key=lambda name: -np.nan_to_num(rows[name]["gain"].mean))
    return pd.DataFrame(rows).T.loc[order]
