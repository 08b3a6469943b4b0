"""What a contest keeps of a router: how it ran at each operating point, and what is chosen for it on validation."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from routerlab.evaluate.mixes import Mix


@dataclass(frozen=True)
class Entry:
    """A router as it ran: at each of its cost weights (`lam`) the quality, the cost (USD) and the chosen model of
    each test query (points x queries), what it reached on validation, and how long fitting took. `others` are the same
    router fitted from other seeds, at the same cost weights.
    """

    name: str
    router: Any
    lam: np.ndarray
    quality: np.ndarray
    usd: np.ndarray
    choice: np.ndarray
    validation: tuple[np.ndarray, np.ndarray]  # mean quality and cost (USD) at each point
    fit_s: float
    others: tuple["Entry", ...] = ()

    def over_trainings(self, read: Callable[["Entry"], np.ndarray]) -> np.ndarray:
        """What `read` gives of this entry (queries x things); of several trainings stacked along a last axis."""
        trained = [read(e) for e in (self, *self.others)]
        return np.stack(trained, -1) if self.others else trained[0]

    def at_best(self) -> int:
        """The point with the best quality on validation, of equals the cheapest."""
        return self.at_least(np.inf)

    def at_least(self, quality: float) -> int:
        """The cheapest point that reached this quality on validation; the best one if none did."""
        right, usd = self.validation
        return int(np.where(right >= min(quality, right.max()) - 1e-12, usd, np.inf).argmin())


class Plan(NamedTuple):
    """What is chosen for an entry on validation, as places among its points, then the cheapest model, then the best
    single model: the corners of its frontier with and without the cheapest model, from cheap to dear; the cheapest mix
    as good as the best single model; the best point.
    """

    path: np.ndarray
    own: np.ndarray
    frugal: Mix
    best: int
