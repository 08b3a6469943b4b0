"""`Decisions`: which model a router chose for each query."""

from dataclasses import dataclass

import numpy as np


class DecisionError(ValueError):
    """Decisions that do not fit their queries or models."""


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

    def realised(self, quality: np.ndarray, usd: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(quality, usd) of each query, given what every model did (queries x models): the quality of the chosen
        answer, the cost of every call and of routing. A chosen or charged outcome that is missing is refused.
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
        if bad := int((np.isnan(right) | np.isnan(spent)).sum()):
            raise DecisionError(
                f"{bad} of {len(rows)} chosen outcomes are missing: collect them, or keep the queries every model "
                f"answered"
            )
        return right, spent

    def shares(self) -> dict[str, float]:
        """The share of queries each model gets."""
        counts = np.bincount(self.choice, minlength=len(self.models)) / max(len(self.choice), 1)
        return dict(zip(self.models, counts.tolist(), strict=True))
