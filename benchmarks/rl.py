"""Reinforcement learning on the embedded table and on the table where looking pays, beside imitation and regression.

Three seeds each. Rewards are of greedy decisions on the test questions, each at its own cost weight; areas as in
`routerlab eval`. Last line: one JSON object.
"""

import dataclasses
import json
import sys
import time

import numpy as np
import torch

from routerlab import recorded
from routerlab.core.runs import root
from routerlab.evaluate.frontier import corners, decide, lam_grid
from routerlab.evaluate.mixes import path_area
from routerlab.evaluate.stats import Interval, bootstrap_means
from routerlab.label import rewards
from routerlab.pocket.generate import hidden_states
from routerlab.pocket.hidden import best_reward, hidden_knowledge
from routerlab.sources.split import clusters
from routerlab.train.env import Replay
from routerlab.train.rl import DAPO, EXACT, GRPO, Draw, draw, train
from routerlab.train.tasks import Agent, AgentMode, Chooser, OneCall, Play, imitate

SEEDS, LAMS, HIDDEN_LAM, AGENT_LAM = (0, 1, 2), (100.0, 30_000.0), 0.04, 2000.0
torch.set_num_threads(1)


class Pocket:
    """The embedded table as seen by small networks on the hidden states of its smallest model."""

    def __init__(self):
        data, nano = recorded("pocket"), root() / "data" / "pocket" / "models" / "pocket-nano"
        self.parts = {s: data.split(s) for s in ("train", "validation", "test")}
        x = {s: hidden_states(nano, [q.text for q in p.queries]) for s, p in self.parts.items()}
        mean, spread = x["train"].mean(0), x["train"].std(0) + 1e-3
        self.x = {s: torch.from_numpy((v - mean) / spread).float() for s, v in x.items()}
        self.first = {s: [p.table.matrix(c).astype(float) for c in ("quality", "usd")] for s, p in self.parts.items()}
        table = self.parts["train"].table
        self.quality, self.usd = (table.matrix(c, None, graded=True).astype(float) for c in ("quality", "usd"))
        self.models = table.models
        cost, right = self.usd.mean(0), self.quality.mean(0)
        self.ends, self.cheapest = (cost.min(), cost[right.argmax()]), int(cost.argmin())
        self.task = OneCall(self.models, self.x["train"], self.quality, self.usd)
        self.test = OneCall(self.models, self.x["test"], *self.first["test"])
        rng, n = np.random.default_rng(5), len(self.x["test"])
        self.drawn = Draw(np.arange(n), np.exp(rng.uniform(*np.log(LAMS), n)), np.ones((n, len(self.models)), bool))
        self.scale = 1 + self.drawn.lam * self.usd.mean()
        self.clusters = clusters(self.parts["test"].queries)

    def policy(self, seed: int, drop: float = 0.0) -> Chooser:
        torch.manual_seed(seed)
        layers = torch.nn.Linear(self.x["train"].shape[1], 64), torch.nn.Linear(64, 2 * len(self.models))
        with torch.no_grad():
            layers[1].weight.mul_(0.1)
            layers[1].bias.zero_()
        dropout = torch.nn.Dropout(drop)
        return Chooser(
            torch.nn.Sequential(dropout, layers[0], torch.nn.ReLU(), dropout, layers[1]), self.quality, self.usd
        )

    def scored(self, choice: np.ndarray) -> np.ndarray:
        """The reward of each test question, divided by its scale as in training."""
        quality, usd = (m[self.drawn.rows, choice] for m in self.first["test"])
        return (quality - self.drawn.lam * usd) / self.scale

    def reward(self, policy: Chooser) -> np.ndarray:
        return self.scored(self.test.sample(policy.eval(), self.drawn, None).calls.argmax(1))

    def predicted(self, policy: Chooser, split: str) -> list[np.ndarray]:
        with torch.no_grad():
            return [m.double().numpy() for m in policy.eval().scores(self.x[split])]

    def area(self, policy: Chooser) -> float:
        lams, means = lam_grid(self.usd, 60), {}
        for split in ("validation", "test"):
            quality, usd = self.predicted(policy, split)
            choices = np.stack([decide(quality, usd, lam) for lam in lams], 1)
            rows = np.arange(len(choices))[:, None]
            means[split] = [m[rows, choices].mean(0) for m in self.first[split]]
        path = corners(means["validation"][1], means["validation"][0])
        return float(path_area(means["test"][1][path], means["test"][0][path], *self.ends))

    def regress(self, seed: int, observed: np.ndarray | None = None, epochs: int = 20, rows=None) -> Chooser:
        """Cross entropy of quality and squared error of cost, of all outcomes or of those that were observed."""
        policy, rng = self.policy(seed, 0.2).train(), np.random.default_rng(seed)
        optimiser = torch.optim.AdamW(policy.parameters(), 2e-3, weight_decay=1e-2)
        seen = torch.from_numpy(np.ones(self.quality.shape) if observed is None else observed).float()
        quality, usd = torch.from_numpy(self.quality).float(), torch.from_numpy(self.usd).float() / policy.usd
        rows = np.arange(len(seen)) if rows is None else rows
        for _ in range(epochs):
            for at in np.array_split(rng.permutation(rows), len(rows) // 64):
                q, c = policy.scores(self.x["train"][at])
                error = torch.nn.functional.binary_cross_entropy(q, quality[at], reduction="none")
                error = ((error + 0.1 * (c / policy.usd - usd[at]) ** 2) * seen[at]).sum() / seen[at].sum()
                optimiser.zero_grad()
                error.backward()
                optimiser.step()
        return policy

    def imitation(self, seed: int, steps: int = 200) -> Chooser:
        """Cross entropy of the model to call, which the table shows, at drawn cost weights."""
        policy, rng = self.policy(seed, 0.2).train(), np.random.default_rng(seed)
        drawn = draw(self.task, len(self.quality), dataclasses.replace(GRPO, lams=LAMS), rng)
        value = self.quality[drawn.rows] - drawn.lam[:, None] * self.usd[drawn.rows]
        batch = self.task.sample(policy, drawn, rng)._replace(actions=value.argmax(1)[:, None])
        imitate(policy, batch, steps)
        return policy


def timed(work, *given):
    started = time.process_time()
    return work(*given), time.process_time() - started


def report(name, gain, where):
    print(f"{name:44} {Interval.of(gain[0], gain[1:])}  {where}")


def one_call(pocket: Pocket, out: dict) -> None:
    """exact, GRPO and DAPO from the same start, beside regression, imitation of the table's best calls, and the mix."""
    methods = {
        "exact": dataclasses.replace(EXACT, steps=300, lr=4e-3, lams=LAMS),
        "GRPO": dataclasses.replace(GRPO, steps=300, questions=128, lr=2e-3, std_floor=0.5, lams=LAMS),
        "DAPO": dataclasses.replace(DAPO, steps=300, questions=128, lr=2e-3, std_floor=0.5, lams=LAMS),
    }
    rewards_of: dict[str, list] = {}
    areas: dict[str, list] = {}
    seconds: dict[str, list] = {}
    for seed in SEEDS:
        fitted = {"regression": timed(pocket.regress, seed), "imitation": timed(pocket.imitation, seed)}
        for name, settings in methods.items():
            policy = pocket.policy(seed, 0.4 if name == "exact" else 0.0)
            policy.train()
            _, spent = timed(train, policy, pocket.task, dataclasses.replace(settings, seed=seed))
            fitted[name] = policy, spent
        for name, (policy, spent) in fitted.items():
            rewards_of.setdefault(name, []).append(pocket.reward(policy))
            areas.setdefault(name, []).append(pocket.area(policy))
            seconds.setdefault(name, []).append(spent)
            print(
                f"seed {seed} {name:12} reward {rewards_of[name][-1].mean():.4f} area {areas[name][-1]:.4f} "
                f"{spent:.1f} s",
                flush=True,
            )
        # How long exact takes to GRPO's reward: the same run, stopped early.
        for steps in (10, 20, 40, 80, 160):
            policy = pocket.policy(seed, 0.4).train()
            _, spent = timed(train, policy, pocket.task, dataclasses.replace(methods["exact"], seed=seed, steps=steps))
            reached = pocket.reward(policy).mean()
            print(f"seed {seed} exact, {steps} steps: reward {reached:.4f}, {spent:.1f} s", flush=True)
            if reached >= rewards_of["GRPO"][-1].mean():
                out.setdefault("exact_share_of_grpo_time", []).append(round(spent / seconds["GRPO"][-1], 3))
                break
    # The random mix of single models: for each cost weight the single model that is best in training.
    mean = pocket.quality.mean(0) - pocket.drawn.lam[:, None] * pocket.usd.mean(0)
    columns = {n: np.mean(r, 0) for n, r in rewards_of.items()} | {"mix": pocket.scored(mean.argmax(1))}
    values = np.stack(list(columns.values()), 1)
    drawn = np.vstack([values.mean(0), bootstrap_means(values, rng=np.random.default_rng(0), clusters=pocket.clusters)])
    of = dict(zip(columns, drawn.T, strict=True))
    for name in methods:
        for rival in ("imitation", "mix", "regression"):
            report(f"{name} less {rival}", of[name] - of[rival], "reward on test, mean of seeds")
            out[f"{name}_less_{rival}_low"] = round(float(np.quantile((of[name] - of[rival])[1:], 0.025)), 4)
    out |= {f"area_{n}": round(float(np.mean(a)), 4) for n, a in areas.items()}
    out |= {f"seconds_{n}": round(float(np.mean(s)), 1) for n, s in seconds.items()}


def bandit(pocket: Pocket, out: dict) -> None:
    """Only the outcome of one uniformly called model is known of each question: the exact gradient of the importance
    weighted reward against regression on what was observed.
    """
    lines = []
    for seed in SEEDS:
        rng = np.random.default_rng(seed)
        called = np.eye(len(pocket.models))[rng.integers(len(pocket.models), size=len(pocket.quality))]
        regressed = pocket.regress(seed, called)
        base = (pocket.quality * called).sum(0) / called.sum(0)
        spent = (pocket.usd * called).sum(0) / called.sum(0)
        weighted = [b + called * len(pocket.models) * (m - b) for m, b in ((pocket.quality, base), (pocket.usd, spent))]
        task, policy = OneCall(pocket.models, pocket.x["train"], *weighted), pocket.policy(seed, 0.2)
        train(policy.train(), task, dataclasses.replace(EXACT, steps=150, lr=2e-3, lams=LAMS, seed=seed))
        lines.append((pocket.reward(policy), pocket.reward(regressed)))
        print(f"seed {seed} bandit: RL {lines[-1][0].mean():.4f}, regression {lines[-1][1].mean():.4f}", flush=True)
    gap = np.mean([a - b for a, b in lines], 0)[:, None]
    drawn = np.append(gap.mean(), bootstrap_means(gap, rng=np.random.default_rng(0), clusters=pocket.clusters))
    report("bandit feedback: RL less regression", drawn, "reward on test")
    out["bandit_rl_less_regression"] = [round(float(v), 4) for v in Interval.of(drawn[0], drawn[1:])]


def gated(pocket: Pocket, out: dict) -> None:
    """Actors trained on the published reward and on the linear one: what they pay where nobody is right, and what they
    pay once the penalty is capped.
    """

    def published(quality, usd, lam):
        return np.asarray(quality) * (1 - np.minimum(lam * np.asarray(usd), 0.8))

    right, usd = pocket.first["test"]
    hopeless = ~(right > 0).any(1)
    for lam in (2000.0, 1e6):
        for name, reward in (("gated", published), ("linear", rewards.linear)):
            policy = pocket.policy(0, 0.2).train()
            settings = dataclasses.replace(EXACT, steps=150, lr=2e-3, lams=(lam, lam))
            train(policy, pocket.task, settings, reward=reward)
            drawn = pocket.drawn._replace(lam=np.full(len(right), lam))
            choice = pocket.test.sample(policy.eval(), drawn, None).calls.argmax(1)
            paid = usd[np.arange(len(choice)), choice]
            print(
                f"{name} at lam {lam:g}: quality {right[np.arange(len(choice)), choice].mean():.4f}, US$ "
                f"{1e6 * paid.mean():.1f} a million calls, {1e6 * paid[hopeless].mean():.1f} where no model is right"
            )
            out[f"{name}_usd_{lam:g}"] = round(float(1e6 * paid.mean()), 2)
            out[f"{name}_usd_hopeless_{lam:g}"] = round(float(1e6 * paid[hopeless].mean()), 2)


def agents(pocket: Pocket, out: dict) -> None:
    """Agent mode where looking pays, and on the embedded table, where it does not."""
    sampled = {"steps": 250, "questions": 16, "group": 16, "lr": 5e-3, "entropy": 0.1, "std_floor": 0.5}
    hidden = Replay.of(hidden_knowledge())
    task = AgentMode(hidden, (np.tile(hidden.quality.mean(0), (1000, 1)), hidden.usd))
    for name, base in (("GRPO", GRPO), ("DAPO", DAPO)):
        for seed in SEEDS:
            settings = dataclasses.replace(base, **sampled, seed=seed, lams=(HIDDEN_LAM, HIDDEN_LAM))
            reached = agent(task, task, settings, Play(), HIDDEN_LAM) / best_reward(HIDDEN_LAM)
            print(f"seed {seed} {name} agent where looking pays: {reached:.4f} of the optimum", flush=True)
            out.setdefault(f"{name}_of_optimum", []).append(round(reached, 4))
    fold = np.random.default_rng(0).permutation(len(pocket.quality)) % 2
    known = np.zeros((2, *pocket.quality.shape))
    for k in (0, 1):
        policy = pocket.regress(0, rows=np.flatnonzero(fold != k))
        known[:, fold == k] = np.stack(pocket.predicted(policy, "train"))[:, fold == k]
    estimates = pocket.predicted(pocket.regress(0), "test")
    learning = AgentMode(Replay.of(pocket.parts["train"]), known)
    testing = AgentMode(Replay.of(pocket.parts["test"]), estimates)
    choice, rows = decide(*estimates, AGENT_LAM), np.arange(len(estimates[0]))
    right, usd = (m[rows, choice] for m in pocket.first["test"])
    one = float((right - AGENT_LAM * usd).mean())
    for name, base in (("GRPO", GRPO), ("DAPO", DAPO)):
        for seed in SEEDS:
            settings = dataclasses.replace(base, **sampled | {"steps": 100, "entropy": 0.02, "lr": 3e-3}, seed=seed)
            settings = dataclasses.replace(settings, lams=(AGENT_LAM, AGENT_LAM))
            reached = agent(learning, testing, settings, Play(0.02), AGENT_LAM) / one
            print(f"seed {seed} {name} agent on the embedded table: {reached:.4f} of one call's reward", flush=True)
            out.setdefault(f"{name}_agent_of_one_call", []).append(round(reached, 4))


def agent(learning: AgentMode, testing: AgentMode, settings, start: Play, lam: float) -> float:
    """The mean reward on `testing` of an agent that imitates `start` and is then trained on `learning`."""
    torch.manual_seed(settings.seed)
    policy, rng = Agent(AgentMode.SEEN, AgentMode.SHARED), np.random.default_rng(settings.seed)
    imitate(policy, learning.sample(start, draw(learning, 1000, settings, rng), rng), 150, 1e-2)
    train(policy, learning, settings)
    n = len(testing.usd)
    batch = testing.sample(policy, Draw(np.arange(n), np.full(n, lam), np.ones((n, len(testing.models)), bool)), None)
    return float((batch.quality - lam * batch.usd.sum(1)).mean())


if __name__ == "__main__":
    figures: dict = {}
    data = Pocket()
    for step in (one_call, bandit, gated, agents):
        if len(sys.argv) < 2 or step.__name__ in sys.argv[1:]:
            step(data, figures)
    print(json.dumps(figures))
