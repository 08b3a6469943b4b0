"""What a routed answer is worth: pure functions of quality (0 to 1) and cost (US dollars), on numbers or arrays.

Accuracy and cost go in and out apart: a reward is what training follows, never what a log calls accuracy.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np


class RewardError(ValueError):
    """A reward that cannot be computed; the message says what is wrong with its input."""


Unit = Literal["usd", "share", "log"]


def normalised(usd, unit: Unit = "usd", *, dearest_usd=None, floor_usd: float = 1e-6):
    """Cost in the unit that a reward counts.

    `usd`: c. `share`: c / dearest, where `dearest_usd` is what the dearest model of the pool costs on the same query,
    so that the reward does not change with the price level. `log`: log(1 + c / floor), where prices span decades.
    """
    usd = _charged(usd)
    if unit == "usd":
        return usd
    if unit == "log":
        return np.log1p(usd / floor_usd)
    if unit != "share":
        raise RewardError(f"no unit {unit!r}; there are usd, share, log")
    if dearest_usd is None or (np.asarray(dearest_usd) <= 0).any():
        raise RewardError("share needs dearest_usd, the cost of the pool's dearest model, above 0")
    return usd / dearest_usd


def _charged(usd) -> np.ndarray:
    usd = np.asarray(usd, float)
    if (usd < 0).any():
        raise RewardError("a cost below 0; give what was charged, 0 or more")
    return usd


def linear(quality, cost, lam: float):
    """quality - lam * cost. An abstention (quality 0) that cost money scores negative."""
    return np.asarray(quality, float) - lam * np.asarray(cost, float)


def gated(quality, usd, *, lam: float = 3.0, k: float = 1.0, cost_max: float = 0.8):
    """quality x (k - min(lam * usd, cost_max)), as xRouter publishes it (defaults of its code; its guide has lam 2 and
    cost_max 0.6).

    Pitfalls: the penalty is capped, not the cost, so beyond cost_max / lam dollars (0.27 by default) spending is free;
    and a wrong answer is worth 0 whatever it cost, so nothing is gained by failing cheaply.
    """
    return np.asarray(quality, float) * (k - np.minimum(lam * _charged(usd), cost_max))


@dataclass(frozen=True)
class Step:
    """One thing a router did: called a model, selected a response, wrote an answer of its own, or asked for a tool that
    does not exist or with arguments that cannot be read (`unknown`).

    `usd` is what it was charged, whether it worked or not. `number` of a call is what `select` names later.
    """

    kind: Literal["call", "select", "text", "unknown"]
    turn: int
    answer: str | None = None  # of a call that worked, or the text
    number: int | None = None  # of a call, or the one selected
    usd: float = 0.0


class Resolved(NamedTuple):
    """What a trajectory comes to: the answer to grade (None: there is none), how it was reached, its whole cost."""

    answer: str | None
    how: str  # direct, select, call, last_call, or why there is no answer
    usd: float
    valid: bool
    number: int | None = None  # of the call whose response is the answer


def resolve(steps: Sequence[Step], mode: Literal["agent", "simple"] = "agent", router_usd: float = 0.0) -> Resolved:
    """Which answer a trajectory gives and what it cost, calls that failed and the router's own tokens included.

    simple: the first call that works ends it, and its response is the answer. agent: `select` names a response, also
    one of the same turn; else the router's last text is the answer; a trajectory that ends on calls gives the last
    response that worked, flagged `last_call`. A text of its own counts as a direct answer in both modes, unless it
    stands in the same turn as a call. After a call of a tool that does not exist the router may go on; the trajectory
    is invalid only if no answer follows. All calls of the last turn are charged, as they were made at once.
    """
    if not steps:
        raise RewardError("an empty trajectory: its prompt did not fit; refuse such records before training")
    if mode not in ("agent", "simple"):
        raise RewardError(f"no mode {mode!r}; there are agent and simple")
    busy = {step.turn for step in steps if step.kind != "text"}
    spent, responses, direct, last = router_usd, {}, None, None
    for number, step in enumerate(steps):
        spent += step.usd
        rest = sum(s.usd for s in steps[number + 1 :] if s.turn == step.turn)
        if step.kind == "call" and step.answer is not None:
            responses[step.number] = last = step
            if mode == "simple":
                return Resolved(step.answer, "call", spent + rest, True, step.number)
        elif step.kind == "text" and step.turn not in busy:
            direct = step
        elif step.kind == "select":
            # Calls of the same turn return before it is read, wherever they stand in the list.
            for other in steps[number + 1 :]:
                if other.turn == step.turn and other.kind == "call" and other.answer is not None:
                    responses[other.number] = other
            if (chosen := responses.get(step.number)) is not None:
                return Resolved(chosen.answer, "select", spent + rest, True, step.number)
    if any(s.kind == "select" and s.turn == steps[-1].turn for s in steps):
        return Resolved(None, "selected a response that is not there", spent, False)
    if direct is not None and (last is None or direct.turn > last.turn):
        return Resolved(direct.answer, "direct", spent, True)
    if last is not None:
        return Resolved(last.answer, "last_call", spent, True, last.number)
    return Resolved(None, "no call worked and nothing was answered", spent, False)


def advantages(rewards: np.ndarray, *, scale: Literal["std", "none"] = "std", std_floor: float = 0.0) -> np.ndarray:
    """Rewards less the mean of their group (groups x rollouts), by its standard deviation if asked for.

    Dividing by the deviation makes rollouts that are all right and differ by a fraction of a cent look as different as
    right from wrong. `std_floor` divides by at least that much, `scale="none"` not at all.
    """
    rewards = np.asarray(rewards, float)
    if rewards.ndim != 2 or rewards.shape[1] < 2:
        raise RewardError(f"rewards are groups x rollouts, two or more of them, not {rewards.shape}")
    centred = rewards - rewards.mean(1, keepdims=True)
    if scale == "none":
        return centred
    if scale != "std":
        raise RewardError(f"no scale {scale!r}; there are std and none")
    spread = np.maximum(rewards.std(1, keepdims=True, ddof=1), std_floor)
    return np.divide(centred, spread, out=np.zeros_like(centred), where=spread > 1e-12)
