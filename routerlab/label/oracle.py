"""Oracle labels: which model should have answered, once it is known what each of them did.

Utility of an outcome is 1 for a correct answer, 0 for an abstention, -w for a wrong one; the oracle calls the model
with the highest utility - lam * usd, of equals the cheaper. For two models this is the published nine-cell matrix as
long as lam times the difference of their costs stays below min(w, 1).
"""

import enum
from typing import NamedTuple

import numpy as np

from routerlab.core.invariants import Grade, OutcomeError
from routerlab.evaluate.frontier import decide

WRONG = 0.5  # cost of a wrong answer, in right answers; an abstention costs 0


class Policy(enum.StrEnum):
    """What to do with a query: the cheaper model will do, the dearer one is needed, or nobody knows."""

    STANDARD = "Standard_Query"
    COMPLEX = "Complex_Query"
    AMBIGUOUS = "Ambiguous_Query"


_C, _I, _K = Grade.CORRECT, Grade.INCORRECT, Grade.IDK
# (medium, large) as published. Where both fail, the large one is called only if it abstains and the medium one errs.
CELLS: dict[tuple[Grade, Grade], Policy] = {
    (_C, _C): Policy.STANDARD,
    (_C, _I): Policy.STANDARD,
    (_C, _K): Policy.STANDARD,
    (_I, _C): Policy.COMPLEX,
    (_K, _C): Policy.COMPLEX,
    (_I, _K): Policy.COMPLEX,
    (_I, _I): Policy.AMBIGUOUS,
    (_K, _I): Policy.AMBIGUOUS,
    (_K, _K): Policy.AMBIGUOUS,
}


class Labels(NamedTuple):
    """For each query: the column of the model to call, and the policy; -1 and None where an outcome is missing."""

    choice: np.ndarray
    policy: np.ndarray


def utility(grades: np.ndarray, wrong: float = WRONG) -> np.ndarray:
    """1 for CORRECT, 0 for IDK, -wrong for INCORRECT, NaN where there is no outcome (grades as text, any shape)."""
    known = {Grade.CORRECT: 1.0, Grade.IDK: 0.0, Grade.INCORRECT: -float(wrong)}
    out = np.full(grades.shape, np.nan)
    for grade, value in known.items():
        out[grades == grade] = value
    stray = np.isnan(out) & (grades != None)  # noqa: E711 (elementwise)
    if stray.any():
        raise OutcomeError(
            f"{grades[stray][0]!r} is not a grade; grades are {', '.join(Grade)}, and None where there is no outcome"
        )
    return out


def choose(value: np.ndarray, usd: np.ndarray, lam: float = 0.0) -> np.ndarray:
    """argmax of value - lam * usd in each row, of equals the cheaper, of those the first; -1 where one is missing.

    `usd` is a matrix like `value`, or one price a model.
    """
    missing = np.isnan(value - lam * np.asarray(usd)).any(1)
    return np.where(missing, -1, decide(value, usd, lam))


def label(grades: np.ndarray, usd: np.ndarray, *, lam: float = 0.0, wrong: float = WRONG) -> Labels:
    """The model to call for each query and its policy, for any number of models.

    The policy is complex where the model to call is not the cheapest one; else standard if any model is right (the
    cheapest, or one that is not worth its price), ambiguous if none is. With a row of costs for each query, the
    cheapest model is that of the query.
    """
    value = utility(grades, wrong)
    usd = np.broadcast_to(np.asarray(usd, float), value.shape)
    choice = choose(value, usd, lam)
    escalated = choice != usd.argmin(1)
    right = (value == 1).any(1)
    policy = np.full(len(value), Policy.STANDARD, object)
    policy[escalated] = Policy.COMPLEX
    policy[~right & ~escalated] = Policy.AMBIGUOUS
    policy[choice < 0] = None
    return Labels(choice, policy)


def soft_labels(
    grades: np.ndarray,
    usd: np.ndarray,
    *,
    lam: float = 0.0,
    wrong: float = WRONG,
    draws: int = 400,
    rng: np.random.Generator,
) -> np.ndarray:
    """The probability that each model is the one to call, given several tries: (queries x models), rows sum to 1.

    Each draw takes the rates of the three grades from their posterior (Dirichlet, prior 1/3 each) and calls the model
    with the highest rate of right answers - wrong * rate of wrong answers - lam * usd.

    Args: the `grades` (queries x models x tries); the mean cost `usd` of each model, or of each query and model; the
    cost weight `lam`; the cost of a `wrong` answer; the number of `draws` and their random generator.
    """
    counts = np.stack([(grades == g).sum(2) for g in (Grade.CORRECT, Grade.INCORRECT, Grade.IDK)], -1)
    if (counts.sum(-1) == 0).any():
        raise OutcomeError("a model has no graded try of a query; collect it, or drop the query")
    usd = np.broadcast_to(np.asarray(usd, float), counts.shape[:2])
    if np.isnan(usd).any():
        raise OutcomeError("a model has no cost for a query; take the mean over all its tries")
    won = np.zeros(counts.shape[:2])
    rows = np.arange(len(counts))
    for _ in range(draws):
        drawn = rng.gamma(counts + 1 / 3)
        rates = drawn / drawn.sum(-1, keepdims=True)
        won[rows, choose(rates[..., 0] - wrong * rates[..., 1], usd, lam)] += 1
    return won / draws


class Pairs(NamedTuple):
    """Preferences for training: on `query`, `chosen` is better than `rejected` (columns) by `weight` > 0."""

    query: np.ndarray
    chosen: np.ndarray
    rejected: np.ndarray
    weight: np.ndarray


def preference_pairs(value: np.ndarray, usd: np.ndarray, lam: float = 0.0) -> Pairs:
    """Every other model against the one to call, weighted by the gap of value - lam * usd; ties make no pair."""
    usd = np.broadcast_to(np.asarray(usd, float), value.shape)
    choice = choose(value, usd, lam)
    known = np.flatnonzero(choice >= 0)
    net = (value - lam * usd)[known]
    gap = net[np.arange(len(known)), choice[known]][:, None] - net
    query, rejected = np.nonzero(gap > 1e-12)
    return Pairs(known[query], choice[known][query], rejected, gap[query, rejected])
