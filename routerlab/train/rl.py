"""Reinforcement learning of small actors, by hand: GRPO (Shao et al. 2024), DAPO (Yu et al. 2025), the exact gradient.

A policy is a torch module that maps the states of tokens to logits over actions. A task draws rollouts from it and
scores them by a recorded table, so training calls no model. With one call a question the table holds the reward of
every action, and the exact method ascends the expected reward Σ_a π(a) r(a) itself, which the others estimate. Beside
it the policy may be trained to predict quality and cost (`regression`), which makes the weights more certain.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from routerlab.core.runs import Run, write_atomic
from routerlab.label import rewards

Reward = Callable[[Any, Any, Any], Any]  # of quality, cost (USD) and the cost weight lam
STATE = "training.safetensors"


@dataclass(frozen=True)
class Settings:
    """How a policy is trained.

    GRPO clips the ratio of new to old probability to 1 ± 0.2 and averages over the tokens of each rollout, then over
    rollouts. DAPO clips to [0.8, 1.28], averages over all tokens and draws new questions in place of groups whose
    rewards are all equal (at most `refills` times a step). With `exact` or `regression` above 0 nothing is sampled.
    """

    exact: float = 0.0  # weight of the exact expected reward in the objective
    regression: float = 0.0  # weight of the error of the predicted quality and cost of every model
    steps: int = 100
    questions: int = 32  # a step
    group: int = 8  # rollouts of each question; where nothing is sampled, cost weights of each question
    lr: float = 3e-3  # of Adam; falls to 0 over the steps
    clip: tuple[float, float] = (0.2, 0.2)
    token_level: bool = False
    refills: int = 0
    std_floor: float = 1e-3  # advantages are divided by the deviation of their group, and by at least this
    by_turn: bool = False  # costs of earlier turns do not count for a token (cost to go)
    entropy: float = 0.0  # weight of the mean entropy of a token in the objective; falls to 0 over the steps
    epochs: int = 1  # optimiser steps on the same rollouts
    lams: tuple[float, float] = (0.0, 0.0)  # cost weights are drawn between them, evenly on a log scale
    keep: float = 1.0  # probability that a model is in the pool of a question; the pool has at least two
    seed: int = 0


GRPO = Settings()
DAPO = Settings(clip=(0.2, 0.28), token_level=True, refills=3)
EXACT = Settings(exact=1.0, regression=0.3, steps=500, questions=128, lr=8e-3)  # chosen on a part of the training split
REGRESSION = Settings(regression=1.0, steps=500, questions=128, lr=4e-3)


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
    """Questions with recorded outcomes. `sample` gives a rollout for each row, without `rng` the likeliest."""

    models: tuple[str, ...]
    usd: np.ndarray  # of a call: questions x models
    sources: np.ndarray | None  # the source of each question, by which the log is broken down

    def sample(self, policy: torch.nn.Module, draw: Draw, rng: np.random.Generator | None) -> Rollouts: ...


@runtime_checkable
class OneCallTask(Task, Protocol):
    """Questions of one call each, of which the table holds the reward of every action.

    `all_actions` gives the probability and the reward of every action (rows x actions, or rows x weights x actions
    where `draw.lam` is rows x weights), and the error of the quality and cost that the policy predicts. `called` gives
    the rollouts of these actions.
    """

    def all_actions(
        self, policy: Any, draw: Draw, reward: Reward
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]: ...
    def called(self, draw: Draw, action: np.ndarray) -> Rollouts: ...


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


def token_advantages(batch: Rollouts, scored: np.ndarray, settings: Settings) -> np.ndarray:
    """The advantage of each token (rollouts x tokens) from the reward of each rollout, groups side by side.

    With `by_turn`, what was paid before a turn is added back to the reward of its tokens, and their mean is that of the
    rollouts of the group that had such a turn; they are divided by the deviation of the whole rewards.
    """
    groups = scored.reshape(-1, settings.group)
    there = batch.turns >= 0
    if not settings.by_turn:
        return np.where(there, rewards.advantages(groups, std_floor=settings.std_floor).reshape(-1, 1), 0)
    before = batch.lam[:, None] * (np.cumsum(batch.usd, 1) - batch.usd)
    to_go = (scored[:, None] + before).reshape(*groups.shape, -1)
    taken = (np.arange(before.shape[1]) <= batch.turns.max(1)[:, None]).reshape(to_go.shape)
    centred = to_go - (to_go * taken).sum(1, keepdims=True) / np.maximum(taken.sum(1, keepdims=True), 1)
    spread = np.maximum(groups.std(1, ddof=1), max(settings.std_floor, 1e-12))
    credit = (centred / spread[:, None, None]).reshape(before.shape)
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
    step_of = _exact_step if settings.exact or settings.regression else _sampled_step
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
            _write(run, policy, optimiser, log)
    return log


def pick(logits: torch.Tensor, rng: np.random.Generator | None) -> np.ndarray:
    """An action drawn from each row of logits, or the likeliest one without `rng`."""
    if rng is None:
        return logits.argmax(-1).numpy()
    below = logits.double().softmax(-1).cumsum(-1).numpy()
    return (below < rng.random((len(below), 1)) * below[:, -1:]).sum(-1)


def draw(task: Task, count: int, settings: Settings, rng: np.random.Generator) -> Draw:
    """Questions without repetition, each with a cost weight and a pool."""
    rows = rng.permutation(len(task.usd))[:count]
    lam = _weights(settings, rng, len(rows))
    order = rng.random((len(rows), len(task.models)))
    return Draw(rows, lam, (order < settings.keep) | (order <= np.sort(order, 1)[:, 1:2]))


def _weights(settings: Settings, rng: np.random.Generator, shape: Any) -> np.ndarray:
    low, high = settings.lams
    return np.exp(rng.uniform(np.log(low), np.log(high), shape)) if low < high else np.full(shape, low)


def _exact_step(policy, task: Task, settings: Settings, reward: Reward, rng, step: int):
    if not isinstance(task, OneCallTask):
        raise rewards.RewardError("the exact gradient needs the reward of every action: train on one call a question")
    drawn = draw(task, settings.questions, settings, rng)
    drawn = drawn._replace(lam=_weights(settings, rng, (len(drawn.rows), settings.group)))
    # At a high cost weight rewards are large: divided by their scale, no question outweighs the others.
    scale, line = torch.from_numpy(1 + drawn.lam * np.nanmean(task.usd)).float(), {}

    def loss() -> torch.Tensor:
        chance, value, misfit = task.all_actions(policy, drawn, reward)
        if not line:  # what is logged is one call a question, at the first of its cost weights
            first = drawn._replace(lam=drawn.lam[:, 0])
            batch = task.called(first, pick(chance[:, 0].detach().log(), rng))
            line.update(streams(task, batch, reward(batch.quality, batch.usd.sum(1), batch.lam)))
        return settings.regression * misfit - settings.exact * ((chance * value).sum(-1) / scale).mean()

    return loss, line


def _sampled_step(policy, task: Task, settings: Settings, reward: Reward, rng, step: int):
    kept, lines, missing = [], [], settings.questions
    while missing and len(lines) <= settings.refills:
        drawn = Draw(*(np.repeat(field, settings.group, 0) for field in draw(task, missing, settings, rng)))
        batch = task.sample(policy, drawn, rng)
        scored = np.asarray(reward(batch.quality, batch.usd.sum(1), batch.lam))
        line = streams(task, batch, scored)
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


def _write(run: Run, policy: torch.nn.Module, optimiser: torch.optim.Optimizer, log: list) -> None:
    """Weights, moments of Adam and the log in one file, which is replaced at once: whenever the process dies, the last
    whole state is there. Beside it metrics.jsonl, the log that `figures.monitor` draws.
    """
    tensors = {name: p.detach().contiguous() for name, p in policy.named_parameters()}
    for name, p in policy.named_parameters():
        tensors |= {f"{name} {field}": value for field, value in optimiser.state[p].items()}
    write_atomic(run.folder / STATE, lambda path: save_file(tensors, path, {"log": json.dumps(log)}))
    lines = "".join(json.dumps({"step": step, **line}) + "\n" for step, line in enumerate(log, 1))
    write_atomic(run.folder / "metrics.jsonl", lambda path: path.write_text(lines, encoding="utf-8"))


def _resume(run: Run | None, policy: torch.nn.Module, optimiser: torch.optim.Optimizer) -> list[dict[str, float]]:
    """Take up the state that a run keeps; returns its log, empty for a run without one."""
    if run is None or not (run.folder / STATE).is_file():
        return []
    with safe_open(run.folder / STATE, "pt") as file:
        state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
        log = json.loads(file.metadata()["log"])
    for name, p in policy.named_parameters():
        p.data.copy_(state[name])
        optimiser.state[p] = {key.split()[1]: value for key, value in state.items() if key.startswith(f"{name} ")}
    return log
