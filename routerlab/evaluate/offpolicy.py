"""What another router would have reached, from a log that holds one model's answer to each request and the chance that
each model had of being asked.
"""

from dataclasses import dataclass

import numpy as np

from routerlab.core.invariants import OutcomeError
from routerlab.evaluate.stats import Interval

LEAST = 30.0  # effective requests, below which no estimate is given


class LogError(OutcomeError):
    """A log that cannot tell what a router would have reached; the message says why."""


@dataclass(frozen=True)
class Estimate:
    """`ips` is the inverse-propensity estimate, `dr` the doubly robust one, both with 95 % intervals; `requests` is the
    effective sample size, (sum of weights)^2 / sum of squared weights (Kish 1965).
    """

    ips: Interval
    dr: Interval
    requests: float


def off_policy(
    wanted: np.ndarray,
    asked: np.ndarray,
    chances: np.ndarray,
    outcome: np.ndarray,
    guess: np.ndarray,
    cluster: np.ndarray,
) -> Estimate:
    """The mean outcome had `wanted` been asked. With w = [asked = wanted] / chance of asked, over requests:

    ips = mean of w * outcome (Horvitz and Thompson 1952);
    dr = mean of guess(wanted) + w * (outcome - guess(asked)) (Robins et al. 1994), whose variance is smaller the better
    the guess; a wrong guess leaves it unbiased. Intervals are normal, requests of one cluster together.

    Args:
        wanted: the model that the router would ask for each request (index).
        asked: the model that was asked.
        chances: of each model to be asked (requests x models), as logged.
        outcome: of the model that was asked: quality, or cost in US dollars.
        guess: the outcome predicted of every model (requests x models), from other requests.
        cluster: which requests are one question (index).
    """
    rows = np.arange(len(asked))
    blind = chances[rows, wanted] <= 0
    if not len(asked) or blind.any():
        share = blind.mean() if len(asked) else 1.0
        raise LogError(
            f"on {share:.0%} of the requests this router asks a model that had no chance of being asked; serve with "
            f"--explore, and wait for more requests"
        )
    weight = (asked == wanted) / chances[rows, asked]
    requests = float(weight.sum() ** 2 / max((weight**2).sum(), 1e-300))
    if requests < LEAST:
        raise LogError(
            f"only {requests:.0f} effective requests of {len(asked)} tell about this router, fewer than {LEAST:.0f}; "
            f"serve more, or with a larger --explore"
        )
    robust = guess[rows, wanted] + weight * (outcome - guess[rows, asked])
    return Estimate(_mean(weight * outcome, cluster), _mean(robust, cluster), requests)


def _mean(values: np.ndarray, cluster: np.ndarray) -> Interval:
    mean = float(values.mean())
    sums = np.bincount(cluster, values - mean)
    counts = int((np.bincount(cluster) > 0).sum())
    error = float(np.sqrt((sums**2).sum() * counts / max(counts - 1, 1))) / len(values)
    return Interval(mean, mean - 1.96 * error, mean + 1.96 * error)
