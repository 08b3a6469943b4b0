"""What small actors are trained on: one call a question, or an episode of turns in a vocabulary of a few tokens."""

from collections.abc import Sequence

import numpy as np
import torch

from routerlab.grade.verify import abstains
from routerlab.routers.prompts import SELECT, tool_name
from routerlab.train.env import Episode, Replay, ToolCall
from routerlab.train.rl import Draw, Reward, Rollouts, pick


class OneCall:
    """One call a question, replayed from `quality` and `usd` (questions x models; NaN: not to be called). `x` is what
    the policy sees of each question.
    """

    def __init__(self, models: Sequence[str], x: torch.Tensor, quality, usd, sources: np.ndarray | None = None) -> None:
        self.models, self.x, self.sources = tuple(models), x, sources
        self.quality, self.usd = np.asarray(quality, float), np.asarray(usd, float)

    def _states(self, draw: Draw) -> tuple[torch.Tensor, ...]:
        known = draw.allowed & ~np.isnan(self.quality[draw.rows])
        return self.x[draw.rows], torch.from_numpy(draw.lam).float(), torch.from_numpy(known)

    def sample(self, policy: torch.nn.Module, draw: Draw, rng: np.random.Generator | None) -> Rollouts:
        """A call for each row."""
        states = self._states(draw)
        with torch.no_grad():
            action = pick(policy(*states), rng)
        return self.called(draw, action)._replace(states=tuple(s[:, None] for s in states))

    def called(self, draw: Draw, action: np.ndarray) -> Rollouts:
        """The rollouts of these calls, without states."""
        quality, usd = (m[draw.rows, action] for m in (self.quality, self.usd))
        calls, one = np.eye(len(self.models), dtype=int)[action], action[:, None]
        return Rollouts((), draw.rows, draw.lam, one, one * 0, quality, usd[:, None], calls, calls * 0, quality >= 0)

    def all_actions(
        self, policy: "Chooser", draw: Draw, reward: Reward
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The probability and the reward of every call; and the misfit of predictions: cross entropy of the quality and
        a tenth of the squared error of the cost, counted in means of the model, over the outcomes that are known.
        """
        x, lam, known = self._states(draw)
        truth, paid = (np.nan_to_num(m[draw.rows]) for m in (self.quality, self.usd))
        quality, usd = policy.scores(x)
        right, certain = torch.from_numpy(truth).float(), quality.clamp(1e-6, 1 - 1e-6)
        error = -right * certain.log() - (1 - right) * (1 - certain).log()
        error = error + 0.1 * ((usd - torch.from_numpy(paid).float()) / policy.usd) ** 2
        each = (slice(None), *[None] * (lam.dim() - 1))  # of the cost weights of a question
        chance = policy.logits(quality[each], usd[each], lam, known[each]).softmax(-1)
        value = torch.from_numpy(reward(truth[each], paid[each], draw.lam[..., None])).float()
        return chance, torch.where(known[each], value, 0), error[known].mean()


class Chooser(torch.nn.Module):
    """Calls a model with probability softmax((quality - lam * usd) / (heat * (1 + lam * mean of usd))): one policy for
    every cost weight and every part of the pool. From what it sees of a question a `network` predicts how the log-odds
    of quality and the logarithm of the cost (US$) of each model differ from those of its means: 2 x models numbers.
    """

    usd: torch.Tensor

    def __init__(self, network: torch.nn.Module, quality: np.ndarray, usd: np.ndarray, heat: float = 0.05) -> None:
        super().__init__()
        self.network, self.heat, self.typical_usd = network, heat, float(np.nanmean(usd))
        self.odds = torch.nn.Parameter(torch.from_numpy(np.nanmean(quality, 0)).float().clamp(0.01, 0.99).logit())
        self.register_buffer("usd", torch.from_numpy(np.nanmean(usd, 0)).float())

    def scores(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Predicted (quality, usd) of each model."""
        odds, longer = self.network(x).chunk(2, -1)
        return (self.odds + odds).sigmoid(), self.usd * longer.exp()

    def logits(
        self, quality: torch.Tensor, usd: torch.Tensor, lam: torch.Tensor, allowed: torch.Tensor
    ) -> torch.Tensor:
        """Utilities over the temperature, with these predictions."""
        lam = lam[..., None]
        return ((quality - lam * usd) / self.heat / (1 + lam * self.typical_usd)).masked_fill(~allowed, -torch.inf)

    def forward(self, x: torch.Tensor, lam: torch.Tensor, allowed: torch.Tensor) -> torch.Tensor:
        return self.logits(*self.scores(x), lam, allowed)


class Agent(torch.nn.Module):
    """Logits of the next token: call slot 1 … K, select the response of slot 1 … K, end the turn. Every slot is read by
    the same network, so slots may be permuted; it sees the slot, the mean over slots and what they share.
    """

    def __init__(self, seen: int, shared: int, width: int = 64) -> None:
        super().__init__()
        self.slot = torch.nn.Linear(seen + shared, width)
        self.out = torch.nn.Sequential(torch.nn.Linear(2 * width, width), torch.nn.ReLU(), torch.nn.Linear(width, 2))
        self.end = torch.nn.Linear(width, 1)

    def forward(self, slots: torch.Tensor, shared: torch.Tensor, allowed: torch.Tensor) -> torch.Tensor:
        both = torch.cat([slots, shared[..., None, :].expand(*slots.shape[:-1], -1)], -1)
        hidden = self.slot(both).relu() * allowed[..., None]
        mean = hidden.sum(-2) / allowed.sum(-1, keepdim=True)
        out = self.out(torch.cat([hidden, mean[..., None, :].expand_as(hidden)], -1))
        out = out.masked_fill(~allowed[..., None], -torch.inf)
        return torch.cat([out[..., 0], out[..., 1], self.end(mean)], -1)


class AgentMode:
    """Episodes of several turns on a replayed table. `estimates` (quality and usd, questions x models) are what is
    known of a question before any call; a response shows whether it abstains, its length, and how many others agree.
    """

    SEEN, SHARED = 8, 3

    def __init__(self, replay: Replay, estimates, sources=None, *, max_turns: int = 3, max_tokens: int = 12) -> None:
        self.replay, self.models, self.usd, self.sources = replay, replay.models, replay.usd, sources
        self.estimates = [np.asarray(e, float) for e in estimates]
        self.max_turns, self.max_tokens = max_turns, max_tokens
        self.tools = [ToolCall(tool_name(m)) for m in self.models]
        said = np.where(replay.answers == None, "", replay.answers)  # noqa: E711 (elementwise)
        self.silent = np.vectorize(lambda a: not a or abstains(a) is not None, otypes=[bool])(said)
        self.said = np.unique(np.vectorize(lambda a: a.strip().lower(), otypes=[object])(said), return_inverse=True)[1]
        self.said = self.said.reshape(said.shape)
        self.length = np.log1p(np.vectorize(len, otypes=[float])(said)) / 5

    def sample(self, policy: torch.nn.Module, draw: Draw, rng: np.random.Generator | None) -> Rollouts:
        """An episode for each row."""
        (n, k), limit = draw.allowed.shape, self.max_tokens
        episodes = [Episode(self.models, self.max_turns) for _ in range(n)]
        asked: list[list[int]] = [[] for _ in range(n)]
        slots, shared = np.zeros((n, limit, k, self.SEEN), np.float32), np.zeros((n, limit, self.SHARED), np.float32)
        actions, turns = np.full((n, limit), -1), np.full((n, limit), -1)
        now = np.zeros((n, k, self.SEEN), np.float32)
        quality, usd = (e[draw.rows] for e in self.estimates)
        now[..., 0], now[..., 1] = quality, draw.lam[:, None] * usd
        allowed = torch.from_numpy(draw.allowed)
        going = np.arange(n)
        for token in range(limit):
            slots[going, token] = now[going]
            here = [(episodes[i].turns / self.max_turns, len(asked[i]) / k, 1.0) for i in going]
            shared[going, token] = here
            with torch.no_grad():
                states = torch.from_numpy(slots[going, token]), torch.from_numpy(shared[going, token])
                drawn = pick(policy(*states, allowed[going]), rng)
            actions[going, token] = drawn
            turns[going, token] = [episodes[i].turns for i in going]
            for i, action in zip(going.tolist(), drawn.tolist(), strict=True):
                if action < k:
                    asked[i].append(action)
                    now[i, action, 2] += 1
                if action >= k or token == limit - 1:
                    self._turn(
                        int(draw.rows[i]), episodes[i], asked[i], action - k if k <= action < 2 * k else None, now[i]
                    )
                    asked[i] = []
            going = np.array([i for i in going if not episodes[i].done], int)
            if not len(going):
                break
        states = torch.from_numpy(slots), torch.from_numpy(shared), allowed[:, None].expand(n, limit, k)
        return Rollouts(states, draw.rows, draw.lam, actions, turns, *self._outcomes(draw.rows, episodes))

    def _turn(self, row: int, episode: Episode, asked: list[int], selected: int | None, now: np.ndarray) -> None:
        """Take the turn, feed the results and note in `now` (models x seen) what they show."""
        tools = [self.tools[m] for m in asked]
        if selected is not None:
            # The last call of that slot; a slot that was not called has no response, and the number 0 says so.
            names = [*episode.called.values(), *(self.models[m] for m in asked)]
            number = max((i for i, m in enumerate(names, 1) if m == self.models[selected]), default=0)
            tools.append(ToolCall(SELECT, {"call": number}))
        self.replay.answer(row, episode, episode.act("", tools))
        now[:, 2] = 0
        for m in asked:
            failed = np.isnan(self.replay.quality[row, m])
            now[m, 3:7] = not failed, failed, self.silent[row, m] and not failed, self.length[row, m] * (not failed)
        answered = (now[:, 3] > 0) & (now[:, 5] == 0)
        alike = (self.said[row][:, None] == self.said[row]) & answered & answered[:, None]
        now[:, 7] = np.maximum(alike.sum(1) - 1, 0)

    def _outcomes(self, rows: np.ndarray, episodes: list[Episode]):
        """(quality, usd by turn, calls, failed, valid) of the episodes."""
        usd = np.zeros((len(episodes), self.max_turns))
        for i, episode in enumerate(episodes):
            for step in episode.steps:
                usd[i, step.turn - 1] += step.usd
        calls, failed = (
            np.array([[count[m] for m in self.models] for count in counts]).reshape(len(episodes), -1)
            for counts in zip(*(e.tally() for e in episodes), strict=True)
        )
        quality = [self.replay.quality_of(row, e) for row, e in zip(rows.tolist(), episodes, strict=True)]
        return np.array(quality), usd, calls, failed, np.array([e.outcome().valid for e in episodes])


class Play(torch.nn.Module):
    """A policy of `AgentMode` to imitate. It draws among sensible tokens: call a model not yet called, end a turn that
    has calls, select a response that is there; that teaches the form of an episode and no preference. With `heat` it
    calls one model, drawn by softmax(estimated utility / heat), and selects its response.
    """

    def __init__(self, heat: float | None = None) -> None:
        super().__init__()
        self.heat = heat

    def forward(self, slots: torch.Tensor, shared: torch.Tensor, allowed: torch.Tensor) -> torch.Tensor:
        asked, answered, failed = (slots[..., i] > 0 for i in (2, 3, 4))
        pending, called = asked.any(-1, keepdim=True), asked | answered | failed
        call = allowed & ~(called.any(-1, keepdim=True) if self.heat else called)
        select = answered & ~pending
        ends = pending | ~(call | select).any(-1, keepdim=True)
        utility = (slots[..., 0] - slots[..., 1]) / self.heat if self.heat else torch.zeros(call.shape)
        return torch.cat([utility + call.float().log(), select.float().log(), ends.float().log()], -1)


def imitate(policy: torch.nn.Module, batch: Rollouts, steps: int, lr: float = 3e-3) -> list[float]:
    """Train the policy to write the tokens of these rollouts, 256 of them a step; returns the cross-entropy of a token
    at each step.
    """
    optimiser, losses = torch.optim.Adam(policy.parameters(), lr), []
    for step in range(steps):
        at = np.random.default_rng(step).permutation(len(batch.rows))[:256]
        part, there = batch.take(at), torch.from_numpy(batch.turns[at] >= 0)
        logits = policy(*(s[there] for s in part.states))
        loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(part.actions)[there])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    return losses
