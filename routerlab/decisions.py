"""`Decisions`: which model a router chose for each query."""

from dataclasses import dataclass

import numpy as np


class DecisionError(ValueError):
    """Decisions that do not fit their queries or models."""


@dataclass(frozen=True)
class Decisions:
    """What a router chose: for each query, in order, the index into `models` of the model to call."""

    queries: tuple[str, ...]
    models: tuple[str, ...]
    choice: np.ndarray
    router: str = ""

    def __post_init__(self) -> None:
        choice = np.asarray(self.choice)
        if choice.shape != (len(self.queries),) or choice.dtype.kind not in "iu":
            raise DecisionError(
                f"{self.router}: {len(self.queries)} queries need as many integer choices, not "
                f"{choice.shape} {choice.dtype}"
            )
        if choice.size and not (choice.min() >= 0 and choice.max() < len(self.models)):
            raise DecisionError(
                f"{self.router}: a choice lies outside 0..{len(self.models) - 1} "
                f"({', '.join(self.models)})"
            )
        object.__setattr__(self, "choice", choice)

    def shares(self) -> dict[str, float]:
        """The share of queries each model gets."""
        counts = np.bincount(self.choice, minlength=len(self.models)) / max(len(self.choice), 1)
        return dict(zip(self.models, counts.tolist(), strict=True))
