"""How well predicted qualities agree with what happened: reliability curve, calibration error, Brier score."""

from typing import NamedTuple

import numpy as np


class Reliability(NamedTuple):
    """Of each bin that is not empty: the mean prediction, the mean outcome, and the number of predictions."""

    predicted: np.ndarray
    happened: np.ndarray
    count: np.ndarray

    @property
    def ece(self) -> float:
        """Expected calibration error, Σ count/n |predicted - happened| (Naeini et al. 2015). It depends on the
        bins, and chance alone lifts it above 0 even for a calibrated router, the more the more bins.
        """
        return float(np.average(np.abs(self.predicted - self.happened), weights=self.count))


def reliability(predicted: np.ndarray, happened: np.ndarray, bins: int = 10, *, equal_mass: bool = True) -> Reliability:
    """The reliability curve of predicted quality (in [0, 1]) against what happened, in bins of equal mass (quantiles of
    the predictions; equal predictions stay together, so there may be fewer) or of equal width over [0, 1].
    """
    p, y = np.asarray(predicted, float), np.asarray(happened, float)
    inner = np.linspace(0, 1, bins + 1)[1:-1]
    of = np.searchsorted(np.quantile(p, inner) if equal_mass else inner, p, side="right")
    count = np.bincount(of)
    used = count > 0
    mean_p, mean_y = (np.bincount(of, v)[used] / count[used] for v in (p, y))
    return Reliability(mean_p, mean_y, count[used])


class Brier(NamedTuple):
    """score = reliability - resolution + uncertainty (Murphy 1973): miscalibration, what predictions tell apart, and
    the variance of what happened. Lower score and reliability are better, higher resolution.
    """

    score: float
    reliability: float
    resolution: float
    uncertainty: float


def brier(predicted: np.ndarray, happened: np.ndarray) -> Brier:
    """Mean squared error of predicted quality, mean((predicted - happened)²) (Brier 1950), and its exact decomposition
    over groups of equal predictions.

    Predictions that are all different are groups of one, where resolution equals uncertainty: round them first.
    """
    p, y = np.asarray(predicted, float), np.asarray(happened, float)
    value, of, count = np.unique(p, return_inverse=True, return_counts=True)
    mean, share = np.bincount(of, y) / count, count / len(p)
    return Brier(
        float(((p - y) ** 2).mean()),
        float((share * (value - mean) ** 2).sum()),
        float((share * (mean - y.mean()) ** 2).sum()),
        float(y.var()),
    )
