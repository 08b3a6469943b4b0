"""Reinforcement learning on the embedded table and on the table where looking pays, beside imitation and regression.

Three seeds each. Rewards are of greedy decisions on the test questions, each at its own cost weight; areas as in
`routerlab eval`. Settings were chosen by `tune`, which divides the training split and never reads the test questions.

    python benchmarks/rl.py                # all but tune
    python benchmarks/rl.py one_call tune  # some

Last line: one JSON object.
"""

import copy
import dataclasses
import json
import sys
import time
from collections.abc import Sequence

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
from routerlab.routers.actor import TYPICAL_TOKENS
from routerlab.routers.blend import Blend
from routerlab.sources.split import clusters
from routerlab.train import actor
from routerlab.train.env import Replay
from routerlab.train.rl import DAPO, EXACT, GRPO, REGRESSION, Draw, draw, train
from routerlab.train.tasks import Agent, AgentMode, Chooser, OneCall, Play, imitate

SEEDS, LAMS, HIDDEN_LAM, AGENT_LAM = (0, 1, 2), (100.0, 30_000.0), 0.04, 2000.0
torch.set_num_threads(1)


# One call a question: 300 steps of 128 questions x 8 rollouts for those that sample.
SAMPLED = {"steps": 300, "questions": 128, "lr": 2e-3, "std_floor": 0.5}
METHODS = {"exact": EXACT, "GRPO": dataclasses.replace(GRPO, **SAMPLED), "DAPO": dataclasses.replace(DAPO, **SAMPLED)}


class Pocket:
    """The embedded table as seen by small networks on the hidden states of its smallest model. For tuning, a fifth of
    the training questions (near-duplicates together) takes the place of the test split.
    """

    def __init__(self, tuning: bool = False):
        data, nano = recorded("pocket"), root() / "data" / "pocket" / "models" / "pocket-nano"
        self.parts = {s: data.split(s) for s in ("train", "validation", "test")}
        states = {s: hidden_states(nano, [q.text for q in p.queries]) for s, p in self.parts.items()}
        mean, spread = states["train"].mean(0), states["train"].std(0) + 1e-3
        self.x = {s: torch.from_numpy((v - mean) / spread).float() for s, v in states.items()}
        self.first = {s: [p.table.matrix(c).astype(float) for c in ("quality", "usd")] for s, p in self.parts.items()}
        table = self.parts["train"].table
        self.quality, self.usd = (table.matrix(c, None, graded=True).astype(float) for c in ("quality", "usd"))
        self.clusters = clusters(self.parts["test"].queries)
        if tuning:
            groups = np.unique(clusters(self.parts["train"].queries), return_inverse=True)[1]
            held = np.random.default_rng(11).permutation(groups.max() + 1)[groups] % 5 == 0
            self.clusters, self.first["test"] = groups[held], [self.quality[held], self.usd[held]]
            self.x |= {"test": self.x["train"][held], "train": self.x["train"][~held]}
            self.quality, self.usd = self.quality[~held], self.usd[~held]
        self.models = table.models
        cost, right = self.usd.mean(0), self.quality.mean(0)
        self.ends = cost.min(), cost[right.argmax()]
        self.task = OneCall(self.models, self.x["train"], self.quality, self.usd)
        self.test = OneCall(self.models, self.x["test"], *self.first["test"])
        rng, n = np.random.default_rng(5), len(self.x["test"])
        self.drawn = Draw(
            np.arange(n), np.geomspace(*LAMS, n)[rng.permutation(n)], np.ones((n, len(self.models)), bool)
        )
        self.scale = 1 + self.drawn.lam * self.usd.mean()

    def policy(self, seed: int) -> Chooser:
        torch.manual_seed(seed)
        layers = torch.nn.Linear(self.x["train"].shape[1], 64), torch.nn.Linear(64, 2 * len(self.models))
        with torch.no_grad():
            layers[1].weight.mul_(0.1)
            layers[1].bias.zero_()
        drop = torch.nn.Dropout(0.2)
        return Chooser(torch.nn.Sequential(drop, layers[0], torch.nn.ReLU(), drop, layers[1]), self.quality, self.usd)

    def trained(self, settings, seed: int, start: Chooser | None = None, task=None) -> Chooser:
        """A policy trained from `start` or from random weights; dropout only where nothing is sampled."""
        policy = copy.deepcopy(start) if start else self.policy(seed)
        policy.train(bool(settings.exact or settings.regression))
        train(policy, task or self.task, dataclasses.replace(settings, seed=seed, lams=LAMS))
        return policy.eval()

    def scored(self, choice: np.ndarray) -> np.ndarray:
        """The reward of each test question, divided by its scale as in training."""
        quality, usd = (m[self.drawn.rows, choice] for m in self.first["test"])
        return (quality - self.drawn.lam * usd) / self.scale

    def reward(self, policy: Chooser) -> np.ndarray:
        return self.scored(self.test.sample(policy.eval(), self.drawn, None).calls.argmax(1))

    def predicted(self, policy: Chooser, split: str) -> list[np.ndarray]:
        with torch.no_grad():
            return [m.double().numpy() for m in policy.eval().scores(self.x[split])]

    def path(self, predicted: dict[str, Sequence[np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
        """(quality, cost) of each test question at the operating points that are corners of the validation curve."""
        lams, outcomes = lam_grid(self.usd, 60), {}
        for split in ("validation", "test"):
            choices = np.stack([decide(*predicted[split], lam) for lam in lams], 1)
            outcomes[split] = [m[np.arange(len(choices))[:, None], choices] for m in self.first[split]]
        quality, usd = (m.mean(0) for m in outcomes["validation"])
        at = corners(usd, quality)
        return outcomes["test"][0][:, at], outcomes["test"][1][:, at]

    def area(self, policy: Chooser) -> float:
        quality, usd = self.path({split: self.predicted(policy, split) for split in ("validation", "test")})
        return float(path_area(usd.mean(0), quality.mean(0), *self.ends))

    def imitation(self, seed: int, steps: int = 200) -> Chooser:
        """Cross entropy of the model to call, which the table shows, at drawn cost weights."""
        policy, rng = self.policy(seed).train(), np.random.default_rng(seed)
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


def tune(_: Pocket, out: dict) -> None:
    """What the settings of EXACT were chosen by: rewards and areas on the divided training split."""
    pocket = Pocket(tuning=True)
    variants = {
        f"exact, regression {w:g}, {n} steps": dataclasses.replace(EXACT, regression=w, steps=n)
        for w in (0, 0.1, 0.3, 0.5, 1)
        for n in (250, 500)
    }
    variants |= {f"exact, lr {lr:g}, 250 steps": dataclasses.replace(EXACT, lr=lr, steps=250) for lr in (4e-3, 12e-3)}
    variants |= {"exact, one weight a question": dataclasses.replace(EXACT, group=1), "regression": REGRESSION}
    variants |= {f"GRPO, lr {lr:g}": dataclasses.replace(METHODS["GRPO"], lr=lr) for lr in (1e-3, 2e-3, 4e-3)}
    for name, settings in variants.items():
        starts = [pocket.imitation(seed) if name.startswith("GRPO") else None for seed in SEEDS]
        fitted = [pocket.trained(settings, seed, start) for seed, start in zip(SEEDS, starts, strict=True)]
        reward, area = np.mean([pocket.reward(p).mean() for p in fitted]), np.mean([pocket.area(p) for p in fitted])
        print(f"{name:32} reward {reward:.4f}, area {area:.4f}", flush=True)
        out[f"tuned {name}"] = [round(float(reward), 4), round(float(area), 4)]


def one_call(pocket: Pocket, out: dict) -> None:
    """GRPO and DAPO from the imitation of the table's best calls, exact and regression from random weights; the mix."""
    rewards_of: dict[str, list] = {}
    areas: dict[str, list] = {}
    seconds: dict[str, list] = {}
    for seed in SEEDS:
        fitted = {"regression": timed(pocket.trained, REGRESSION, seed), "imitation": timed(pocket.imitation, seed)}
        start = fitted["imitation"][0]
        for name, how in METHODS.items():
            fitted[name] = timed(pocket.trained, how, seed, None if how.exact else start)
        for name, (policy, spent) in fitted.items():
            rewards_of.setdefault(name, []).append(pocket.reward(policy))
            areas.setdefault(name, []).append(pocket.area(policy))
            seconds.setdefault(name, []).append(spent)
            print(
                f"seed {seed} {name:12} reward {rewards_of[name][-1].mean():.4f} area {areas[name][-1]:.4f} "
                f"{spent:.1f} s",
                flush=True,
            )
        # The shortest training by exact that reaches GRPO's reward, and its share of GRPO's time.
        share = None
        for steps in (50, 100, 150, 200, 250, 350, 500):
            policy, spent = timed(pocket.trained, dataclasses.replace(EXACT, steps=steps), seed)
            reached = pocket.reward(policy).mean()
            print(f"seed {seed} exact, {steps} steps: reward {reached:.4f}, {spent:.1f} s", flush=True)
            if reached >= rewards_of["GRPO"][-1].mean():
                share = round(spent / seconds["GRPO"][-1], 3)
                break
        out.setdefault("exact_share_of_grpo_time", []).append(share)
    # The random mix of single models: for each cost weight the single model that is best in training.
    mean = pocket.quality.mean(0) - pocket.drawn.lam[:, None] * pocket.usd.mean(0)
    columns = {n: np.mean(r, 0) for n, r in rewards_of.items()} | {"mix": pocket.scored(mean.argmax(1))}
    values = np.stack(list(columns.values()), 1)
    drawn = np.vstack([values.mean(0), bootstrap_means(values, rng=np.random.default_rng(0), clusters=pocket.clusters)])
    of = dict(zip(columns, drawn.T, strict=True))
    for name in METHODS:
        for rival in ("imitation", "mix", "regression"):
            report(f"{name} less {rival}", of[name] - of[rival], "reward on test, mean of seeds")
            out[f"{name}_less_{rival}_low"] = round(float(np.quantile((of[name] - of[rival])[1:], 0.025)), 4)
    out |= {f"area_{n}": round(float(np.mean(a)), 4) for n, a in areas.items()}
    out |= {f"seconds_{n}": round(float(np.mean(s)), 1) for n, s in seconds.items()}


def blend(pocket: Pocket, out: dict) -> None:
    """Area of actors trained by the exact gradient less the area of the blend, fitted to the same training questions
    (on words and letters of the text) and scored at the same cost weights; paired over test questions.
    """
    splits = ("validation", "test")
    rival = Blend().fit(pocket.parts["train"].queries, pocket.parts["train"].table)
    theirs, drawn = pocket.path({s: rival.predict(pocket.parts[s].queries) for s in splits}), []
    for seed in SEEDS:
        policy = pocket.trained(EXACT, seed)
        both = *pocket.path({s: pocket.predicted(policy, s) for s in splits}), *theirs
        ends, values = np.cumsum([m.shape[1] for m in both])[:-1], np.hstack(both)
        sampled = bootstrap_means(values, rng=np.random.default_rng(0), clusters=pocket.clusters)
        means = np.split(np.vstack([values.mean(0), sampled]), ends, 1)
        drawn.append([path_area(usd, quality, *pocket.ends) for quality, usd in (means[:2], means[2:])])
        print(f"seed {seed} area: exact {drawn[-1][0][0]:.4f}, blend {drawn[-1][1][0]:.4f}", flush=True)
    ours, other = np.mean(drawn, 0)
    report("exact less blend", ours - other, "area on test, mean of seeds")
    out["area_exact_less_blend"] = [round(float(v), 4) for v in Interval.of((ours - other)[0], (ours - other)[1:])]
    out["area_blend"] = round(float(other[0]), 4)


def bandit(pocket: Pocket, out: dict) -> None:
    """Only the outcome of one uniformly called model is known of each question: the exact gradient of the importance
    weighted reward against regression on what was observed.
    """
    lines = []
    for seed in SEEDS:
        rng = np.random.default_rng(seed)
        called = np.eye(len(pocket.models))[rng.integers(len(pocket.models), size=len(pocket.quality))]
        seen = [np.where(called > 0, m, np.nan) for m in (pocket.quality, pocket.usd)]
        base = [np.nanmean(m, 0) for m in seen]
        full = zip((pocket.quality, pocket.usd), base, strict=True)
        weighted = [b + called * len(pocket.models) * (m - b) for m, b in full]
        tasks = [OneCall(pocket.models, pocket.x["train"], *outcomes) for outcomes in (weighted, seen)]
        sought = [dataclasses.replace(EXACT, regression=0.0, steps=150, questions=256, lr=2e-3), REGRESSION]
        policies = [pocket.trained(how, seed, task=task) for how, task in zip(sought, tasks, strict=True)]
        lines.append([pocket.reward(policy) for policy in policies])
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
            policy = pocket.policy(0).train()
            settings = dataclasses.replace(EXACT, regression=0.0, steps=150, questions=256, lams=(lam, lam))
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
    """Agent mode where looking pays, with the whole reward for every token and with credit by turn; and on the embedded
    table, where it does not pay."""
    sampled = {"steps": 250, "questions": 16, "group": 16, "lr": 5e-3, "entropy": 0.1, "std_floor": 0.5}
    hidden = Replay.of(hidden_knowledge())
    task = AgentMode(hidden, (np.tile(hidden.quality.mean(0), (1000, 1)), hidden.usd))
    for name, base in (("GRPO", GRPO), ("DAPO", DAPO)):
        of_each = {}
        for by_turn in (False, True):
            about = f"{name}{' by turn' if by_turn else ''}"
            for seed in SEEDS:
                settings = dataclasses.replace(base, **sampled, by_turn=by_turn, lams=(HIDDEN_LAM, HIDDEN_LAM))
                earned, curve = agent(task, task, dataclasses.replace(settings, seed=seed), Play(), HIDDEN_LAM)
                reached = float(earned.mean()) / best_reward(HIDDEN_LAM)
                of_each.setdefault(by_turn, []).append(earned)
                print(
                    f"seed {seed} {about:12} agent where looking pays: {reached:.4f} of the optimum, "
                    f"{np.mean(curve) / best_reward(HIDDEN_LAM):.4f} in training",
                    flush=True,
                )
                out.setdefault(f"{about.replace(' ', '_')}_of_optimum", []).append(round(reached, 4))
        gap = np.mean(of_each[True], 0) - np.mean(of_each[False], 0)
        drawn = np.append(gap.mean(), bootstrap_means(gap[:, None], rng=np.random.default_rng(0)))
        report(f"{name} by turn less whole reward", drawn, "reward where looking pays, mean of seeds")
        out[f"{name}_by_turn_gain"] = [round(float(v), 4) for v in Interval.of(drawn[0], drawn[1:])]
    fold = np.random.default_rng(0).permutation(len(pocket.quality)) % 2
    known = np.zeros((2, *pocket.quality.shape))
    for k in (0, 1):  # estimates of a question come from a policy that was trained without it
        rows = fold != k
        half = OneCall(pocket.models, pocket.x["train"][rows], pocket.quality[rows], pocket.usd[rows])
        policy = pocket.trained(dataclasses.replace(REGRESSION, steps=250), 0, task=half)
        known[:, fold == k] = np.stack(pocket.predicted(policy, "train"))[:, fold == k]
    estimates = pocket.predicted(pocket.trained(REGRESSION, 0), "test")
    learning = AgentMode(Replay.of(pocket.parts["train"]), known)
    testing = AgentMode(Replay.of(pocket.parts["test"]), estimates)
    choice, rows = decide(estimates[0], estimates[1], AGENT_LAM), np.arange(len(estimates[0]))
    right, usd = (m[rows, choice] for m in pocket.first["test"])
    one = float((right - AGENT_LAM * usd).mean())
    for name, base in (("GRPO", GRPO), ("DAPO", DAPO)):
        for seed in SEEDS:
            settings = dataclasses.replace(base, **sampled | {"steps": 100, "entropy": 0.02, "lr": 3e-3}, seed=seed)
            settings = dataclasses.replace(settings, lams=(AGENT_LAM, AGENT_LAM))
            reached = float(agent(learning, testing, settings, Play(0.02), AGENT_LAM)[0].mean()) / one
            print(f"seed {seed} {name} agent on the embedded table: {reached:.4f} of one call's reward", flush=True)
            out.setdefault(f"{name}_agent_of_one_call", []).append(round(reached, 4))


def agent(learning: AgentMode, testing: AgentMode, settings, start: Play, lam: float):
    """(rewards on `testing`, rewards of each step) of an agent that imitates `start`, then trains on `learning`."""
    torch.manual_seed(settings.seed)
    policy, rng = Agent(AgentMode.SEEN, AgentMode.SHARED), np.random.default_rng(settings.seed)
    imitate(policy, learning.sample(start, draw(learning, 1000, settings, rng), rng), 150, 1e-2)
    log = train(policy, learning, settings)
    n = len(testing.usd)
    batch = testing.sample(policy, Draw(np.arange(n), np.full(n, lam), np.ones((n, len(testing.models)), bool)), None)
    return batch.quality - lam * batch.usd.sum(1), [line["reward"] for line in log]


def pools(pocket: Pocket, out: dict) -> None:
    """The small actor of `routers/actor.py`, trained without pocket-max, further trained by the exact gradient over
    random pools, prices and cost weights; then both choose in pools that hold pocket-max.
    """
    data, how = recorded("pocket"), actor.recipe()
    given, rng = actor.lessons(data, actor.HELD_OUT), np.random.default_rng(0)
    before = actor.start(given.kinds, how.seed)
    for _ in actor.sft(before, given, how):
        pass
    after = copy.deepcopy(before)
    known = np.array([[c.usd_per_mtok_in, c.usd_per_mtok_out] for c in map(data.pool.__getitem__, given.models)]) / 1e6

    def loss(rows, facts, quality, tokens):
        usd_of = torch.from_numpy(known[np.arange(len(facts)) % len(known)] * 3 ** rng.uniform(-1, 1, (len(facts), 1)))
        lam = torch.from_numpy(np.exp(rng.uniform(*np.log(how.lams), (len(rows), 1)))).float()
        allowed = torch.from_numpy(rng.random((len(rows), len(facts))) < 0.5)
        allowed[:, :2] |= ~allowed.any(1, keepdim=True)
        right, longer = after(rows, facts)
        usd, guess = (
            ((rows != 0).sum(1, keepdim=True) * usd_of[:, 0] + t * usd_of[:, 1]).float()
            for t in (tokens, TYPICAL_TOKENS * longer.exp())
        )
        scale = 1 + lam * usd.mean()
        logits = (right.sigmoid() - lam * guess) / 0.05 / scale
        chance = logits.masked_fill(~allowed, -torch.inf).softmax(-1)
        error = actor.sft_loss(right, quality) + how.length_weight * actor.length_loss(longer, tokens / TYPICAL_TOKENS)
        return EXACT.regression * error - (chance * (quality - lam * usd) / scale).sum(-1).mean()

    groups = [{"params": [*after.parameters()], "lr": 3e-4}]
    for _ in actor._steps(after, given, how, groups, 2, loss):
        pass
    test, probes = pocket.parts["test"], np.random.default_rng(1).permutation(given.questions)[:100].tolist()
    train_table = pocket.parts["train"].table
    cards = [
        actor.probed(data.pool[m], probes if m in actor.HELD_OUT else given.questions, train_table)
        for m in data.pool.ids
    ]
    texts, (quality, usd) = [q.text for q in test.queries], pocket.first["test"]
    guesses = [reader.eval().read(texts, cards) for reader in (before, after)]
    gaps, rows = [], np.arange(len(texts))
    for _ in range(30):
        factor, pool = 3 ** rng.uniform(-1, 1, len(cards)), rng.random(len(cards)) < 0.5
        pool[[data.pool.ids.index(m) for m in actor.HELD_OUT]] = pool[rng.integers(len(cards) - 1)] = True
        for lam in np.geomspace(*LAMS, 5):
            value = (quality - lam * usd * factor) / (1 + lam * usd.mean())
            one, other = (value[rows, decide(np.where(pool, q, -9.0), u * factor, lam)] for q, u in guesses)
            gaps.append(other - one)
    gap = np.mean(gaps, 0)[:, None]
    drawn = np.append(gap.mean(), bootstrap_means(gap, rng=np.random.default_rng(0), clusters=pocket.clusters))
    report(
        "exact less supervised start", drawn, "reward in 30 random pools with pocket-max, which training never showed"
    )
    out["actor_exact_less_supervised"] = [round(float(v), 4) for v in Interval.of(drawn[0], drawn[1:])]


if __name__ == "__main__":
    figures: dict = {}
    steps = {step.__name__: step for step in (one_call, blend, bandit, gated, agents, pools, tune)}
    if strange := [name for name in sys.argv[1:] if name not in steps]:
        sys.exit(f"there is no {strange[0]!r}; name some of {', '.join(steps)}")
    embedded = Pocket()
    for name in sys.argv[1:] or [*steps][:-1]:
        steps[name](embedded, figures)
    print(json.dumps(figures))
