"""GRPO, DAPO and the exact gradient: hand values, TRL's functions, and what they learn."""

import dataclasses
import itertools
import signal
import subprocess
import sys
import time
from collections import defaultdict
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from routerlab.core.runs import Run, root
from routerlab.figures import monitor
from routerlab.label import rewards
from routerlab.pocket.hidden import USD, best_reward, hidden_knowledge
from routerlab.train.env import Replay
from routerlab.train.rl import (
    DAPO,
    EXACT,
    GRPO,
    REGRESSION,
    Draw,
    Rollouts,
    _exact_step,
    _resume,
    _sampled_step,
    draw,
    policy_loss,
    token_advantages,
    train,
)
from routerlab.train.tasks import Agent, AgentMode, Chooser, OneCall, Play, imitate

# Four rollouts of one question: rewards, and the ratio of new to old probability of each token (1 or 2 of them).
REWARDS = np.array([1.0, 0.9, 0.0, 0.1])
RATIOS = torch.tensor([[1.5, 1.0], [1.0, 1.1], [0.5, 1.0], [1.3, 1.0]])
MASK = torch.tensor([[1.0, 0.0], [1.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
SPREAD = np.sqrt((2 * 0.5**2 + 2 * 0.4**2) / 3)
ADVANTAGES = np.array([0.5, 0.4, -0.5, -0.4]) / SPREAD
HAND = {
    "grpo": (-1.2 * 0.5 - 0.4 * (1 + 1.1) / 2 + 0.8 * 0.5 + 0.4 * (1.3 + 1) / 2) / SPREAD / 4,
    "dapo": (-1.28 * 0.5 - 0.4 * (1 + 1.1) + 0.8 * 0.5 + 0.4 * (1.3 + 1)) / SPREAD / 6,
}
SETTINGS = {"grpo": GRPO, "dapo": DAPO}
ALONE = dataclasses.replace(EXACT, regression=0.0)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def rollouts(turns, usd, lam=0.0):
    turns, usd = np.array(turns), np.array(usd, float)
    n = len(turns)
    none = np.zeros((n, 1), int)
    return Rollouts((), np.arange(n), np.full(n, lam), turns * 0, turns, usd[:, 0], usd, none, none, none[:, 0] == 0)


def test_advantages_of_four_rollouts():
    batch = rollouts(np.where(MASK > 0, 0, -1), np.zeros((4, 1)))
    found = token_advantages(batch, REWARDS, dataclasses.replace(GRPO, group=4))
    np.testing.assert_allclose(found, ADVANTAGES[:, None] * MASK.numpy())
    floored = token_advantages(batch, REWARDS, dataclasses.replace(GRPO, group=4, std_floor=2.0))
    np.testing.assert_allclose(floored, (ADVANTAGES * SPREAD / 2)[:, None] * MASK.numpy())


@pytest.mark.parametrize("name", SETTINGS)
def test_loss_of_four_rollouts_equals_the_hand_value_and_trl(name):
    from trl.trainer.grpo_trainer import GRPOTrainer

    advantages = torch.tensor(ADVANTAGES)[:, None]
    new = torch.full((4, 2), -1.0, dtype=torch.float64)
    old = new - RATIOS.double().log()
    ours = policy_loss(new, old, advantages, MASK, SETTINGS[name])
    assert float(ours) == pytest.approx(HAND[name], abs=1e-7)
    low, high = SETTINGS[name].clip
    trainer = SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *_, **__: (new, torch.ones(4, 2), None),
        aux_loss_enabled=False,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        importance_sampling_level="token",
        beta=0.0,
        loss_type=name,
        epsilon_low=low,
        epsilon_high=high,
        use_vllm=False,
        model=SimpleNamespace(training=True),
        current_gradient_accumulation_steps=1,
        args=SimpleNamespace(delta=None, steps_per_generation=1),
        accelerator=SimpleNamespace(num_processes=1, reduce=lambda x, **_: x, gather=lambda x: x),
        _entropy_bonus_enabled=False,
        _metrics={"train": defaultdict(list)},
    )
    ids = torch.zeros(4, 2, dtype=torch.long)
    inputs = {
        "prompt_ids": ids,
        "prompt_mask": ids + 1,
        "completion_ids": ids,
        "completion_mask": MASK,
        "advantages": torch.tensor(ADVANTAGES),
        "old_per_token_logps": old,
        "num_items_in_batch": MASK.sum(),
    }
    theirs = GRPOTrainer._compute_loss(trainer, None, inputs)  # pyright: ignore
    assert float(ours) == pytest.approx(float(theirs), abs=1e-12)


def test_credit_by_turn_leaves_out_what_was_paid_before():
    # Two rollouts paid 1 in turn 1; the first paid 2 more in turn 2, the second ended.
    batch = rollouts([[0, 1, -1], [0, -1, -1]], [[1, 2], [1, 0]], lam=0.1)
    scored = np.array([1 - 0.3, 0 - 0.1])
    settings = dataclasses.replace(GRPO, group=2, std_floor=1.0, by_turn=True)
    found = token_advantages(batch, scored, settings)
    # Turn 1: rewards to go 0.7 and -0.1, mean 0.3. Turn 2 was taken by one rollout, which is its own mean.
    np.testing.assert_allclose(found, [[0.4, 0, 0], [-0.4, 0, 0]])
    paid_first = rollouts([[0, 1], [0, 1]], [[5, 0], [0, 1]], lam=0.1)
    later = token_advantages(paid_first, np.array([0.5, 0.9]), settings)
    np.testing.assert_allclose(later, [[-0.2, 0.05], [0.2, -0.05]])  # of turn 2: 1.0 and 0.9


def bandit(seed=0):
    rng = np.random.default_rng(seed)
    quality, usd = rng.random((6, 3)), rng.random((6, 3))
    return OneCall(("a", "b", "c"), torch.eye(6), quality, usd)


def chooser(task, heat=0.3):
    torch.manual_seed(0)
    return Chooser(torch.nn.Linear(task.x.shape[1], 2 * len(task.models)), task.quality, task.usd, heat)


def gradient(policy):
    return torch.cat([p.grad.flatten() for p in policy.parameters() if p.grad is not None])


def test_exact_gradient_is_the_mean_of_sampled_gradients():
    task = bandit()
    policy = chooser(task)
    rows, lam = np.arange(6), np.linspace(0, 2, 6)
    drawn = Draw(rows, lam, np.ones((6, 3), bool))
    chance, value, _ = task.all_actions(policy, drawn, rewards.linear)
    (chance * value).sum(-1).mean().backward()
    exact = gradient(policy)
    count = 100_000
    scores = []  # gradient of log-probability of each action of each question
    for row, action in itertools.product(range(6), range(3)):
        policy.zero_grad()
        policy(*task._states(drawn))[row].log_softmax(-1)[action].backward()
        scores.append(gradient(policy))
    scores = torch.stack(scores).reshape(6, 3, -1).double()
    sampled, squares = torch.zeros_like(exact).double(), torch.zeros_like(exact).double()
    for row in range(6):
        p = chance[row].detach().double().numpy()
        counts = torch.from_numpy(np.random.default_rng(row).multinomial(count, p / p.sum()) / count)
        terms = value[row].double()[:, None] * scores[row]
        mean = (counts[:, None] * terms).sum(0)
        sampled += mean / 6
        squares += ((counts[:, None] * terms**2).sum(0) - mean**2) / count / 36
    gap, error = (sampled - exact).abs(), squares.sqrt()
    assert (gap <= 4 * error + 1e-7).all()
    assert float(error.max()) < 0.01 * float(exact.abs().max())


def test_the_sampled_step_climbs_the_same_gradient():
    task = bandit()
    drawn = dataclasses.replace(GRPO, questions=6, group=4096, std_floor=1.0, lams=(0.5, 0.5))
    grads = []
    for step, exact in ((_exact_step, 1.0), (_sampled_step, 0.0)):
        policy, given = chooser(task), dataclasses.replace(drawn, exact=exact)
        loss = step(policy, task, given, rewards.linear, np.random.default_rng(0), 0)[0]
        assert loss is not None
        loss().backward()
        grads.append(gradient(policy))
    assert torch.nn.functional.cosine_similarity(*grads, dim=0) > 0.99
    assert float(grads[1].norm() / grads[0].norm()) == pytest.approx(1, abs=0.1)


def test_exact_finds_the_best_model_of_each_question_and_pool():
    task = bandit(3)
    policy = chooser(task, heat=0.1)
    train(policy, task, dataclasses.replace(ALONE, steps=300, lr=0.05, lams=(0.3, 0.3), keep=0.7))
    best = task.quality - 0.3 * task.usd
    for pool in ((1, 1, 1), (1, 0, 1), (0, 1, 1)):
        allowed = np.tile(np.array(pool, bool), (6, 1))
        batch = task.sample(policy, Draw(np.arange(6), np.full(6, 0.3), allowed), None)
        np.testing.assert_array_equal(batch.calls.argmax(1), np.where(allowed, best, -9).argmax(1))


def test_regression_finds_quality_and_cost_of_what_is_known_and_no_more():
    task = bandit(1)
    masked = OneCall(task.models, task.x, np.where(np.eye(6, 3) > 0, np.nan, task.quality), task.usd)
    policy = chooser(masked)
    train(policy, masked, dataclasses.replace(REGRESSION, steps=1500, lr=0.05))
    quality, usd = (m.detach().numpy() for m in policy.scores(task.x))
    known = ~np.isnan(masked.quality)
    np.testing.assert_allclose(quality[known], task.quality[known], atol=0.02)
    np.testing.assert_allclose(usd[known], task.usd[known], atol=0.05)
    assert np.abs(quality - task.quality)[~known].max() > 0.1


def test_several_turns_have_no_exact_gradient():
    with pytest.raises(rewards.RewardError, match="train on one call a question"):
        train(Agent(AgentMode.SEEN, AgentMode.SHARED), hidden_task(), EXACT)


def test_groups_without_variance_are_drawn_again_a_bounded_number_of_times_and_end_nothing():
    task = OneCall(("a", "b"), torch.eye(8), np.ones((8, 2)), np.ones((8, 2)))
    policy = chooser(task)
    before = [p.detach().clone() for p in policy.parameters()]
    log = train(policy, task, dataclasses.replace(DAPO, steps=3, questions=4, group=4, refills=2))
    assert [line["refills"] for line in log] == [2, 2, 2]
    assert [line["useful groups"] for line in log] == [0, 0, 0]
    assert all(torch.equal(a, b) for a, b in zip(before, policy.parameters(), strict=True))


def test_a_step_that_draws_again_trains_on_as_many_useful_groups_as_it_can():
    quality = np.array([[1.0, 1.0]] * 6 + [[0.0, 1.0]] * 6)
    task = OneCall(("a", "b"), torch.eye(12), quality, np.zeros((12, 2)))
    log = train(chooser(task), task, dataclasses.replace(DAPO, steps=1, questions=4, group=8, refills=20))
    assert log[0]["refills"] > 0
    assert 0 < log[0]["useful groups"] < 1


def test_streams_are_kept_apart_and_by_source():
    replay = Replay(
        ("a", "b"), np.array([["x", None]] * 4, object), np.array([[1, np.nan]] * 4), np.array([[2, 3.0]] * 4)
    )
    task = AgentMode(replay, (np.ones((4, 2)), replay.usd), np.array(["s", "s", "t", "t"]))
    log = train(
        Agent(AgentMode.SEEN, AgentMode.SHARED), task, dataclasses.replace(GRPO, steps=1, questions=4, group=64)
    )
    line = log[0]
    assert line["usd"] == pytest.approx(line["calls"] * (2 * line["share a"] + 3 * line["share b"]))
    assert line["failed b"] == pytest.approx(line["share b"] * line["calls"] * 256)
    assert line["failed a"] == 0
    assert 0 < line["valid"] < 1
    assert line["quality"] == pytest.approx((line["quality s"] + line["quality t"]) / 2)
    assert 1 <= line["turns"] <= 3


def test_two_trainings_are_the_same_and_another_seed_is_not():
    logs = []
    for seed in (0, 0, 1):
        task = bandit()
        log = train(chooser(task), task, dataclasses.replace(GRPO, steps=3, lams=(0.1, 3.0), seed=seed))
        logs.append([{k: v for k, v in line.items() if k != "seconds"} for line in log])
    assert logs[0] == logs[1]
    assert logs[0] != logs[2]


def test_a_loss_that_is_no_number_stops_training():
    task = bandit()
    policy = chooser(task)
    with torch.no_grad():
        policy.odds[0] = float("nan")
    with pytest.raises(rewards.RewardError, match="loss of step 0 is nan"):
        train(policy, task, dataclasses.replace(EXACT, steps=1))


WORKER = """
import dataclasses, sys, time
import tests.test_rl as t
from routerlab.core.runs import Run
task = t.bandit()
settings = dataclasses.replace(t.GRPO, steps=40, lams=(0.1, 3.0))
def slow(quality, usd, lam):
    time.sleep(0.02)
    return t.rewards.linear(quality, usd, lam)
t.train(t.chooser(task), task, settings, reward=slow, run=Run(sys.argv[1]), keep_every=2)
"""


def test_killed_and_resumed_training_gives_the_same_curve(tmp_path):
    run = Run(tmp_path / "killed")
    for _ in range(2):
        seen = len(kept(run))
        worker = subprocess.Popen([sys.executable, "-c", WORKER, str(run.folder)], cwd=root())
        started = time.monotonic()
        while len(kept(run)) < seen + 6 and time.monotonic() - started < 60 and worker.poll() is None:
            time.sleep(0.02)
        worker.send_signal(signal.SIGKILL)
        worker.wait()
        assert seen < len(kept(run)) < 40
    task, settings = bandit(), dataclasses.replace(GRPO, steps=40, lams=(0.1, 3.0))
    policy, whole = chooser(task), chooser(task)
    resumed = train(policy, task, settings, run=run)
    straight = train(whole, task, settings)
    for a, b in zip(resumed, straight, strict=True):
        assert {k: v for k, v in a.items() if k != "seconds"} == {k: v for k, v in b.items() if k != "seconds"}
    assert all(torch.equal(a, b) for a, b in zip(policy.parameters(), whole.parameters(), strict=True))
    drawn = monitor.streams(run.folder)
    assert drawn.columns.tolist() == ["step", "loss", "reward", "usd"]
    assert drawn["step"].tolist() == list(range(1, 41))
    assert drawn["reward"].tolist() == [line["reward"] for line in straight]


def kept(run):
    policy = chooser(bandit())
    return _resume(run, policy, torch.optim.Adam(policy.parameters()))


def expected(lam):
    """The best agent's reward by expectation over all it can do: calls of any set in three turns, then a selection."""
    worlds = list(itertools.product((0, 1), repeat=3))
    weight = [np.prod([r if k else 1 - r for k, r in zip(w, (0.3, 0.7, 0.7), strict=True)]) for w in worlds]
    price = list(USD.values())

    def knows(world, m):
        return m == 3 or bool(world[m])

    def value(possible, seen, turn):
        total = sum(weight[w] for w in possible)
        chance = [sum(weight[w] for w in possible if knows(worlds[w], m)) / total for m in range(4)]
        stay = max((chance[m] for m in seen), default=0.0)
        if turn == 3:
            return stay
        best = stay
        fresh = [m for m in range(4) if m not in seen]
        for size in range(1, len(fresh) + 1):
            for chosen in itertools.combinations(fresh, size):
                after, groups = (*seen, *chosen), {}
                for w in possible:
                    groups.setdefault(shown(worlds[w], after), []).append(w)
                reached = sum(sum(weight[w] for w in g) / total * value(g, after, turn + 1) for g in groups.values())
                best = max(best, reached - lam * sum(price[m] for m in chosen))
        return best

    def shown(world, seen):
        silent = 0 in seen and not world[0]
        return silent, frozenset((a, b) for a in seen for b in seen if a < b and knows(world, a) and knows(world, b))

    return value(range(8), (), 0)


@pytest.mark.parametrize("lam", [0.03, 0.04, 0.05])
def test_the_closed_form_is_the_optimum_of_the_environment(lam):
    # A call of the third turn is selected by ending there, so three turns of calls are searched.
    assert best_reward(lam) == pytest.approx(expected(lam))


def hidden_task():
    replay = Replay.of(hidden_knowledge())
    return AgentMode(replay, (np.tile(replay.quality.mean(0), (1000, 1)), replay.usd))


LAM = 0.04
LOOKS = dataclasses.replace(GRPO, steps=250, questions=16, group=16, lr=5e-3, entropy=0.1, std_floor=0.5)


def learned(settings, task, seed):
    settings = dataclasses.replace(settings, seed=seed, lams=(LAM, LAM))
    torch.manual_seed(seed)
    agent, rng = Agent(AgentMode.SEEN, AgentMode.SHARED), np.random.default_rng(seed)
    imitate(agent, task.sample(Play(), draw(task, 1000, settings, rng), rng), 150, 1e-2)
    log = train(agent, task, settings)
    everything = Draw(np.arange(1000), np.full(1000, LAM), np.ones((1000, 4), bool))
    batch = task.sample(agent, everything, None)
    return float((batch.quality - LAM * batch.usd.sum(1)).mean()), log


@pytest.mark.parametrize("name", SETTINGS)
def test_agents_learn_to_look_where_looking_pays(name):
    from_name = dataclasses.replace(
        LOOKS, clip=SETTINGS[name].clip, token_level=SETTINGS[name].token_level, refills=SETTINGS[name].refills
    )
    reached, log = learned(from_name, hidden_task(), 0)
    one_call = 0.7 - 0.5 * LAM
    assert reached >= 0.95 * best_reward(LAM) > 1.15 * one_call
    assert np.mean([line["reward"] for line in log[:5]]) < one_call


def test_random_play_is_valid_and_slots_may_be_permuted():
    task = hidden_task()
    rng = np.random.default_rng(0)
    batch = task.sample(Play(), draw(task, 200, GRPO, rng), rng)
    assert batch.valid.all()
    agent = Agent(AgentMode.SEEN, AgentMode.SHARED)
    order = torch.tensor([2, 0, 3, 1])
    slots, shared, allowed = (s[:, 0] for s in batch.states)
    plain, moved = agent(slots, shared, allowed), agent(slots[:, order], shared, allowed[:, order])
    torch.testing.assert_close(moved, plain[:, torch.cat([order, order + 4, torch.tensor([8])])])
