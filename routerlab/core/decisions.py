"""`Decisions`: which model a router chose for each query."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from routerlab.core.invariants import OutcomeError


class DecisionError(OutcomeError):
    """Decisions that do not fit their queries, their models or the outcomes."""


def realised(choice: np.ndarray, *matrices: np.ndarray) -> list[np.ndarray]:
    """The entry of the chosen model in each row of each matrix (queries x models); a missing one is refused."""
    return _complete([m[np.arange(len(choice)), choice] for m in matrices])


def _complete(values: Sequence[np.ndarray]) -> list[np.ndarray]:
    if bad := int(np.isnan(values).any(0).sum()):
        raise DecisionError(
            f"{bad} of {len(values[0])} chosen outcomes are missing: collect them, or keep the queries every model "
            f"answered"
        )
    return [*values]


def call_shares(choices: np.ndarray, models: int) -> np.ndarray:
    """Share of the calls each of so many models gets (operating points x models); `choices` is operating points x
    queries, or the choices of one point.
    """
    return np.array([np.bincount(c, minlength=models) / max(len(c), 1) for c in np.atleast_2d(choices)])


@dataclass(frozen=True)
class Decisions:
    """What a router chose: for each query, in order, the index into `models` of the model whose answer counts.

    `also` (queries x models) marks calls that were made besides and are charged; `own_usd` is what routing itself cost
    a query.
    """

    queries: tuple[str, ...]
    models: tuple[str, ...]
    choice: np.ndarray
    router: str = ""
    also: np.ndarray | None = None
    own_usd: float | np.ndarray = 0.0

    def __post_init__(self) -> None:
        choice = np.asarray(self.choice)
        if choice.shape != (len(self.queries),) or choice.dtype.kind not in "iu":
            raise DecisionError(
                f"{self.router}: {len(self.queries)} queries need as many integer choices, not "
                f"{choice.shape} {choice.dtype}"
            )
        if choice.size and not (choice.min() >= 0 and choice.max() < len(self.models)):
            raise DecisionError(
                f"{self.router}: a choice lies outside 0..{len(self.models) - 1} ({', '.join(self.models)})"
            )
        object.__setattr__(self, "choice", choice)
        shape = (len(self.queries), len(self.models))
        if self.also is not None and np.shape(self.also) != shape:
            raise DecisionError(f"{self.router}: `also` marks {shape}, not {np.shape(self.also)}")

    def __repr__(self) -> str:
        shares = ", ".join(f"{m} {share:.1%}" for m, share in self.shares().items())
        return f"Decisions({self.router!r}, {len(self.queries)} queries: {shares})"

    def realised(self, quality: np.ndarray, usd: np.ndarray) -> list[np.ndarray]:
        """`outcomes`, where a chosen or charged outcome that is missing is refused."""
        return _complete(self.outcomes(quality, usd))

    def outcomes(self, quality: np.ndarray, usd: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(quality, usd) of each query, given what every model did (queries x models): the quality of the chosen
        answer, the cost of every call and of routing; both NaN where a chosen or charged outcome is missing.
        """
        shape = (len(self.queries), len(self.models))
        if wrong := [np.shape(m) for m in (quality, usd) if np.shape(m) != shape]:
            raise DecisionError(
                f"{self.router}: decisions are about {shape[0]} queries x {shape[1]} models, the outcomes are "
                f"{wrong[0]}; select those queries and models"
            )
        rows = np.arange(len(self.choice))
        called = np.zeros(np.shape(usd), bool) if self.also is None else np.array(self.also, bool)
        called[rows, self.choice] = True
        right = np.asarray(quality, np.float64)[rows, self.choice]
        spent = np.where(called, np.asarray(usd, np.float64), 0).sum(1) + self.own_usd
        hole = np.isnan(right + spent)
        return np.where(hole, np.nan, right), np.where(hole, np.nan, spent)

    def shares(self) -> dict[str, float]:
        """The share of queries each model gets."""
        return dict(zip(self.models, call_shares(self.choice, len(self.models))[0].tolist(), strict=True))
