"""Reinforcement learning of small actors, by hand: GRPO (Shao et al. 2024), DAPO (Yu et al. 2025), the exact gradient.

A policy is a torch module that maps the states of tokens to logits over actions. A task draws rollouts from it and
scores them by a recorded table, so training calls no model. With one call a question the table holds the reward of
every action, and the exact method ascends the expected reward Σ_a π(a) r(a) itself, which the others estimate.
"""

import contextlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from routerlab.core.runs import Run, RunError
from routerlab.label import rewards

Reward = Callable[[Any, Any, Any], Any]  # of quality, cost (USD) and the cost weight lam


@dataclass(frozen=True)
class Settings:
    """How a policy is trained.

    GRPO clips the ratio of new to old probability to 1 ± 0.2 and averages over the tokens of each rollout, then over
    rollouts. DAPO clips to [0.8, 1.28], averages over all tokens, draws new questions in place of groups whose rewards
    are all equal (at most `refills` times a step) and lowers the reward of rollouts that come near the token limit.
    """

    exact: bool = False
    steps: int = 100
    questions: int = 32  # a step
    group: int = 8  # rollouts of each question
    lr: float = 3e-3  # of Adam; falls to 0 over the steps
    clip: tuple[float, float] = (0.2, 0.2)
    token_level: bool = False
    refills: int = 0
    overlong: tuple[int, int] | None = None  # the number of tokens from which the reward falls, and where it lacks 1
    scale: str = "std"  # what advantages are divided by: the deviation of their group, or none
    std_floor: float = 1e-3
    by_turn: bool = False  # costs of earlier turns do not count for a token
    entropy: float = 0.0  # weight of the mean entropy of a token in the objective; falls to 0 over the steps
    epochs: int = 1  # optimiser steps on the same rollouts
    lams: tuple[float, float] = (0.0, 0.0)  # cost weights are drawn between them, evenly on a log scale
    keep: float = 1.0  # probability that a model is in the pool of a question; the pool has at least two
    seed: int = 0


GRPO = Settings()
DAPO = Settings(clip=(0.2, 0.28), token_level=True, refills=3)
EXACT = Settings(exact=True, questions=256)


class Draw(NamedTuple):
    """What is drawn for a step: rows of a task, the cost weight and the pool (rows x models) of each."""

    rows: np.ndarray
    lam: np.ndarray
    allowed: np.ndarray


class Rollouts(NamedTuple):
    """Sampled trajectories, one a row; `turns` is the turn of each token, -1 where a rollout has no more tokens."""

    states: tuple[torch.Tensor, ...]  # of each token: what the policy takes
    rows: np.ndarray
    lam: np.ndarray
    actions: np.ndarray  # rollouts x tokens
    turns: np.ndarray  # rollouts x tokens
    quality: np.ndarray
    usd: np.ndarray  # rollouts x turns
    calls: np.ndarray  # rollouts x models: number of calls
    failed: np.ndarray  # rollouts x models: number of calls that failed
    valid: np.ndarray

    def take(self, at: np.ndarray) -> "Rollouts":
        """The rollouts at these places."""
        return Rollouts(tuple(s[at] for s in self.states), *(field[at] for field in self[1:]))


class Task(Protocol):
    """Questions with recorded outcomes."""

    models: tuple[str, ...]
    usd: np.ndarray  # of a call: questions x models
    sources: np.ndarray | None  # the source of each question, by which the log is broken down

    def sample(self, policy: torch.nn.Module, draw: Draw, rng: np.random.Generator | None) -> Rollouts:
        """A rollout for each row; without `rng` the likeliest token each time."""
        ...

    def all_actions(self, policy: torch.nn.Module, draw: Draw, reward: Reward) -> tuple[torch.Tensor, torch.Tensor]:
        """The probability and the reward of every action (rows x actions), for tasks with one call a question."""
        ...


def policy_loss(
    logp: torch.Tensor, old: torch.Tensor, advantage: torch.Tensor, mask: torch.Tensor, settings: Settings
) -> torch.Tensor:
    """-min(ratio A, clip(ratio) A), ratio = exp(logp - old): its mean over all tokens (`token_level`), or over the
    tokens of each rollout and then over rollouts.

    Args: log-probabilities `logp` under the policy and `old` under the one that sampled (rollouts x tokens); the
    `advantage` of each token; which tokens count (`mask`); the `settings`.
    """
    ratio = (logp - old).exp()
    clipped = ratio.clamp(1 - settings.clip[0], 1 + settings.clip[1])
    loss = -torch.minimum(ratio * advantage, clipped * advantage) * mask
    if settings.token_level:
        return loss.sum() / mask.sum().clamp(min=1)
    return (loss.sum(-1) / mask.sum(-1).clamp(min=1)).mean()


def overlong(lengths: np.ndarray, start: int, limit: int) -> np.ndarray:
    """0 up to `start` tokens, then falling, -1 from `limit` tokens on (DAPO, eq. 13)."""
    return -np.clip((lengths - start) / (limit - start), 0, 1)


def token_advantages(batch: Rollouts, scored: np.ndarray, settings: Settings) -> np.ndarray:
    """The advantage of each token (rollouts x tokens) from the reward of each rollout, groups side by side.

    With `by_turn`, what was paid before a turn is added back to the reward of its tokens, and their mean is that of the
    rollouts of the group that had such a turn; they are divided by the deviation of the whole rewards.
    """
    groups = scored.reshape(-1, settings.group)
    there = batch.turns >= 0
    scale = "std" if settings.scale == "std" else "none"
    if not settings.by_turn:
        whole = rewards.advantages(groups, scale=scale, std_floor=settings.std_floor)
        return np.where(there, whole.reshape(-1, 1), 0)
    before = batch.lam[:, None] * (np.cumsum(batch.usd, 1) - batch.usd)
    to_go = (scored[:, None] + before).reshape(*groups.shape, -1)
    taken = (np.arange(before.shape[1]) <= batch.turns.max(1)[:, None]).reshape(to_go.shape)
    centred = to_go - (to_go * taken).sum(1, keepdims=True) / np.maximum(taken.sum(1, keepdims=True), 1)
    spread = np.maximum(groups.std(1, ddof=1), settings.std_floor) if scale == "std" else np.ones(len(groups))
    credit = (centred / np.maximum(spread, 1e-12)[:, None, None]).reshape(before.shape)
    return np.where(there, np.take_along_axis(credit, np.maximum(batch.turns, 0), 1), 0)


def train(
    policy: torch.nn.Module,
    task: Task,
    settings: Settings,
    *,
    reward: Reward = rewards.linear,
    run: Run | None = None,
    keep_every: int = 25,
) -> list[dict[str, float]]:
    """Train the policy in place; returns a line a step: reward, quality, usd, turns, calls, validity, shares of calls,
    failures by model, seconds. What a step draws depends on the seed and its number alone.

    Args: the `policy`; the `task`; the `settings`; the `reward`; a `run` in which the state of training is written
    every `keep_every` steps: called again with it, training goes on from there.
    """
    optimiser = torch.optim.Adam(policy.parameters(), settings.lr)
    log = _resume(run, policy, optimiser)
    step_of = _exact_step if settings.exact else _sampled_step
    for step in range(len(log), settings.steps):
        started, rng = time.perf_counter(), np.random.default_rng([settings.seed, step])
        loss, line = step_of(policy, task, settings, reward, rng, step)
        optimiser.param_groups[0]["lr"] = settings.lr * (1 - step / settings.steps)
        for _ in range(settings.epochs):
            if loss is None:
                break
            optimiser.zero_grad()
            value = loss()
            if not value.isfinite():
                raise rewards.RewardError(f"the loss of step {step} is {value.item()}; train with a lower rate")
            value.backward()
            optimiser.step()
            line.setdefault("loss", float(value.detach()))
        log.append({**line, "seconds": time.perf_counter() - started})
        if run and ((step + 1) % keep_every == 0 or step + 1 == settings.steps):
            _write(run, policy, optimiser, log, -(-len(log) // keep_every))
    return log


def draw(task: Task, count: int, settings: Settings, rng: np.random.Generator) -> Draw:
    """Questions without repetition, each with a cost weight and a pool."""
    rows = rng.permutation(len(task.usd))[:count]
    low, high = settings.lams
    lam = np.exp(rng.uniform(np.log(low), np.log(high), len(rows))) if low < high else np.full(len(rows), low)
    order = rng.random((len(rows), len(task.models)))
    return Draw(rows, lam, (order < settings.keep) | (order <= np.sort(order, 1)[:, 1:2]))


def _exact_step(policy, task: Task, settings: Settings, reward: Reward, rng, step: int):
    drawn = draw(task, settings.questions, settings, rng)
    # At a high cost weight rewards are large: divided by their scale, no question outweighs the others.
    scale = torch.from_numpy(1 + drawn.lam * np.nanmean(task.usd)).float()

    def loss() -> torch.Tensor:
        chance, value = task.all_actions(policy, drawn, reward)
        return -((chance * value).sum(-1) / scale).mean()

    batch = task.sample(policy, drawn, rng)
    return loss, streams(task, batch, reward(batch.quality, batch.usd.sum(1), batch.lam))


def _sampled_step(policy, task: Task, settings: Settings, reward: Reward, rng, step: int):
    kept, lines, missing = [], [], settings.questions
    while missing and len(lines) <= settings.refills:
        drawn = Draw(*(np.repeat(field, settings.group, 0) for field in draw(task, missing, settings, rng)))
        batch = task.sample(policy, drawn, rng)
        scored = np.asarray(reward(batch.quality, batch.usd.sum(1), batch.lam))
        line = streams(task, batch, scored)
        if settings.overlong:
            scored = scored + overlong((batch.turns >= 0).sum(1), *settings.overlong)
        scored = scored / (1 + batch.lam * np.nanmean(task.usd))
        useful = np.ptp(scored.reshape(-1, settings.group), 1) > 1e-9
        lines.append(line | {"useful groups": float(useful.mean())})
        at = np.flatnonzero(np.repeat(useful | (settings.refills == 0), settings.group))
        kept.append((batch.take(at), token_advantages(batch, scored, settings)[at]))
        missing -= len(at) // settings.group
    line = {key: float(np.mean([one[key] for one in lines])) for key in lines[0]} | {"refills": len(lines) - 1.0}
    kept = [(b, a) for b, a in kept if len(a)]
    if not kept:  # the policy stays as it is, and training goes on
        return None, line
    states = tuple(torch.cat(s) for s in zip(*(b.states for b, _ in kept), strict=True))
    actions, turns, advantage = (
        torch.from_numpy(np.concatenate(c)) for c in zip(*((b.actions, b.turns, a) for b, a in kept), strict=True)
    )
    there, olds = turns >= 0, []
    entropy = settings.entropy * (1 - step / settings.steps)

    def loss() -> torch.Tensor:
        every = policy(*(s[there] for s in states)).log_softmax(-1)
        logp = torch.zeros(there.shape).masked_scatter(there, every.gather(-1, actions[there][:, None]))
        olds.append(logp.detach())
        spread = -(every.exp() * every.clamp(min=-50)).sum(-1).mean()  # 0 log 0 is 0, and so is its gradient
        return policy_loss(logp, olds[0], advantage.float(), there.float(), settings) - entropy * spread

    return loss, line


def streams(task: Task, batch: Rollouts, scored: np.ndarray) -> dict[str, float]:
    """What is logged of rollouts with these rewards, each apart; of each source the reward, quality and cost."""
    usd, calls = batch.usd.sum(1), batch.calls.sum(0)
    line = {"reward": scored.mean(), "quality": batch.quality.mean(), "usd": usd.mean()}
    line |= {"turns": batch.turns.max(1).mean() + 1, "calls": batch.calls.sum(1).mean(), "valid": batch.valid.mean()}
    line |= {f"share {m}": n / max(calls.sum(), 1) for m, n in zip(task.models, calls, strict=True)}
    line |= {f"failed {m}": n for m, n in zip(task.models, batch.failed.sum(0), strict=True)}
    if task.sources is not None:
        source = task.sources[batch.rows]
        for name in np.unique(task.sources):
            here = source == name
            means = [float(v[here].mean()) if here.any() else np.nan for v in (scored, batch.quality, usd)]
            line |= dict(zip((f"reward {name}", f"quality {name}", f"usd {name}"), means, strict=True))
    return {name: float(value) for name, value in line.items()}


def _write(run: Run, policy: torch.nn.Module, optimiser: torch.optim.Optimizer, log: list, number: int) -> None:
    """Weights, moments of Adam and the log in one file. Two files take turns, so the older one is whole whenever the
    process dies.
    """
    from safetensors.torch import save

    tensors = {name: p.detach().contiguous() for name, p in policy.named_parameters()}
    for name, p in policy.named_parameters():
        tensors |= {f"{name} {field}": value for field, value in optimiser.state[p].items()}
    run.write(f"training-{number % 2}.safetensors", save(tensors, {"log": json.dumps(log)}))


def _resume(run: Run | None, policy: torch.nn.Module, optimiser: torch.optim.Optimizer) -> list[dict[str, float]]:
    """Take up the latest whole state that a run keeps; returns its log, empty for a run without one."""
    from safetensors import safe_open

    log, latest = [], {}
    for name in (f"training-{number}.safetensors" for number in (0, 1)):
        if run is None or name not in run.manifest():
            continue
        with contextlib.suppress(RunError), safe_open(run.path(name), "pt") as file:
            lines = json.loads(file.metadata()["log"])
            if len(lines) > len(log):
                log, latest = lines, {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
    for name, p in policy.named_parameters() if log else ():
        p.data.copy_(latest[name])
        optimiser.state[p] = {n.split()[1]: t for n, t in latest.items() if n.startswith(f"{name} ")}
    return log
