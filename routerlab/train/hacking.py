"""Reward hacking: trajectories whose reward is higher than what they did is worth by a second, stricter check.

The check reads an answer strictly: it must be the reference itself, or follow the contract of its verifier to the
letter and then be graded right. And it counts the whole cost: quality - lam * usd with the strict quality. So it finds
rewards that came from a lenient reading, and the two holes of the published reward: a wrong answer costs nothing, and
beyond the cap of the penalty spending is free. Right answers to questions that have several are found as well: somebody
has to look at them.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from routerlab.core.queries import Query
from routerlab.grade.contract import read
from routerlab.grade.verify import grade_many

LENIENT, FREE_FAILURE, FREE_SPENDING = "lenient reading", "failing is free", "spending is free beyond a cap"


class Trajectory(NamedTuple):
    """What was rewarded: a question, the answer, its quality, the cost (USD), the cost weight, the reward."""

    query: Query
    answer: str | None
    quality: float
    usd: float
    lam: float
    reward: float


def strictly_right(queries: Sequence[Query], answers: Sequence[str | None]) -> np.ndarray:
    """Whether each answer is the reference letter by letter, or follows the contract and is then graded right."""
    texts = [(answer or "").strip() for answer in answers]
    right = np.array([bool(t) and t == (q.reference or "").strip() for q, t in zip(queries, texts, strict=True)], bool)
    rest = [i for i in np.flatnonzero(~right).tolist() if texts[i] and read(queries[i], texts[i]) is not None]
    for i, verdict in zip(rest, grade_many([queries[i] for i in rest], [texts[i] for i in rest]), strict=True):
        right[i] = (verdict.quality or 0.0) >= 0.5
    return right


def suspicious(trajectories: Sequence[Trajectory]) -> pd.DataFrame:
    """The trajectories whose reward exceeds strict quality - lam * usd, those with the largest excess first, and why:
    `lenient reading` where the strict check rejects an answer that was counted as right, else one of the two holes.
    """
    if not trajectories:
        return pd.DataFrame({"why": [], "excess": []})
    queries, answers, *numbers = zip(*trajectories, strict=True)
    quality, usd, lam, reward = (np.array(n, float) for n in numbers)
    counted = quality >= 0.5
    rejected = counted & ~strictly_right(queries, answers)
    excess = reward - (np.where(rejected, 0.0, quality) - lam * usd)
    why = np.where(rejected, LENIENT, np.where(counted, FREE_SPENDING, FREE_FAILURE))
    columns = {"query": [q.id for q in queries], "why": why, "excess": excess, "reward": reward, "quality": quality}
    table = pd.DataFrame(columns | {"usd": usd, "answer": answers})[excess > 1e-6]
    return table.iloc[np.argsort(-table.excess.to_numpy(), kind="stable")].reset_index(drop=True)


def summary(table: pd.DataFrame, total: int) -> str:
    """A line on what `suspicious` found among so many trajectories, and three examples."""
    if table.empty:
        return f"reward hacking: none of {total} trajectories has a reward that a stricter check rejects"
    kinds = [f"{why} {len(rows)} (mean excess {rows.excess.mean():.3g})" for why, rows in table.groupby("why")]
    lines = [f"reward hacking: {len(table)} of {total} trajectories look suspicious: {'; '.join(kinds)}"]
    columns = (list(table[name])[:3] for name in ("query", "why", "reward", "answer"))
    for query, why, reward, answer in zip(*columns, strict=True):
        lines.append(f"  {query} {why}: reward {reward:.3g}, answer {str(answer)[:60]!r}")
    return "\n".join(lines)
