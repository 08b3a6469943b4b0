"""GRPO and DAPO of Hugging Face models: TRL's trainer on our environment, refilled groups, a floor of the std.

TRL would build tools from a class's methods. Here each question has a pool of its own, so the tools come with the
record, `env.Episode`, which also serves, plays the turns, and TRL receives the sampled tokens as they are.
"""

import json
import sys
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from trl.rewards.other_rewards import get_soft_overlong_punishment

from routerlab.core.recorded import Recorded
from routerlab.label.difficulty import NAMES, band_of
from routerlab.label.rewards import linear
from routerlab.train.checkpoints import WholeCheckpoints
from routerlab.train.env import Episode, Replay, read_tools
from routerlab.train.hacking import Trajectory, summary, suspicious
from routerlab.train.recipes import Play, TrainError, rendered
from routerlab.train.shared_prefix import SharedPrefixGRPO

REPORTED = 10_000  # the latest plays, which are looked through for suspicious ones


def by_band(rows: Dataset, rate: Mapping[str, float], bands: Sequence[str], seed: int) -> Dataset:
    """The records of these bands of difficulty, band by band, each in random order. A question's band is that of its
    pass rate: the mean quality of all recorded models on it."""
    if strange := [b for b in bands if b not in NAMES]:
        raise TrainError(f"no band of difficulty {strange[0]!r}; a curriculum lists some of {', '.join(NAMES)}")
    band = np.array(NAMES)[band_of(np.array([rate[q] for q in rows["query"]]))]
    places, rng = [np.flatnonzero(band == b) for b in bands], np.random.default_rng(seed)
    if not all(map(len, places)):
        raise TrainError(f"no record is in one of the bands {', '.join(bands)}; leave it out of the curriculum")
    return rows.add_column("band", band.tolist()).select(np.concatenate([rng.permutation(p) for p in places]))


class Replayed:
    """One episode on a record, answered from recorded outcomes at the prices that the record shows."""

    def __init__(self, record: dict[str, Any], outcomes: dict[str, Any], play: Play) -> None:
        shown = json.loads(record["pool"])
        at = outcomes["rows"][record["query"]], [outcomes["models"].index(s["model"]) for s in shown]
        paid = [outcomes[f"tokens_{w}"][at] * [s[f"usd_per_mtok_{w}"] for s in shown] for w in ("in", "out")]
        answers, quality, usd = outcomes["answer"][at], outcomes["quality"][at], np.nan_to_num(sum(paid)) / 1e6
        self.replay = Replay(tuple(s["id"] for s in shown), answers[None], quality[None], usd[None])
        self.episode = Episode(self.replay.models, play.max_turns, record["mode"])
        self.lam, self.query = play.lam if record["lam"] is None else record["lam"], record["query"]

    def take(self, text: str) -> list[dict[str, str]]:
        """Play one turn; returns what its tools answered."""
        self.replay.answer(0, self.episode, self.episode.act(*read_tools(text)))
        return [{"role": "tool", "name": tool, "content": text} for tool, text in self.episode.observations]

    def quality(self) -> float:
        """Of the answer that the episode comes to; 0 if it has none, or one that no model gave."""
        return self.replay.quality_of(0, self.episode)

    def reward(self) -> float:
        """quality - lam * usd."""
        return float(linear(self.quality(), self.episode.outcome().usd, self.lam))


class GRPO(WholeCheckpoints, SharedPrefixGRPO):
    """TRL's GRPOTrainer. `loss_type: dapo` with `epsilon_high` is DAPO (arXiv:2503.14476), `grpo` is GRPO
    (arXiv:2402.03300).

    Added: groups whose rewards are all the same teach nothing and are replaced by other questions, at most
    `play.refills` times, after which they stay (the published code ended the run); an advantage is divided by at least
    `play.std_floor`, so that rewards that differ by nearly nothing are not blown up to 1. With `play.curriculum`, the
    questions of its bands of difficulty are played band by band. At the end suspicious plays are reported.
    """

    def __init__(self, model: Any, data: Recorded | None, play: Play, args: Any, rows: Dataset, **given: Any) -> None:
        if args.per_device_train_batch_size % args.num_generations:
            raise TrainError("per_device_train_batch_size must be a multiple of num_generations: groups stay whole")
        rewards: list[Any] = [lambda prompts, **_: [p.reward() for p in self.played]]
        if play.overlong:
            rewards.append(get_soft_overlong_punishment(args.max_completion_length, play.overlong))
        if data is None:
            raise TrainError("reinforcement learning needs recorded outcomes; name a table with --table")
        table = data.table
        if play.curriculum:
            rate = dict(zip(table.queries, np.nanmean(table.matrix("quality", None, graded=True), 1), strict=True))
            rows, args.shuffle_dataset = by_band(rows, rate, play.curriculum, args.seed), False
        self.play, self.played, self.given = play, [], rows
        self.band = np.array(rows["band"] if play.curriculum else [""] * len(rows))
        self.questions = {query.id: query for query in data.queries}
        self.plays: deque[Trajectory] = deque(maxlen=REPORTED)
        self.outcomes: dict[str, Any] = {n: table.matrix(n) for n in ("quality", "tokens_in", "tokens_out")}
        self.outcomes |= {"answer": table.text("answer"), "models": table.models}
        self.outcomes["rows"] = {query: row for row, query in enumerate(table.queries)}
        super().__init__(model, rewards, args=args, train_dataset=rows, rollout_func=lambda *_: self._rollouts, **given)

    def train(self, *args: Any, **given: Any) -> Any:
        """TRL's; afterwards suspicious plays are written to suspicious.csv and summed up on standard error."""
        result = super().train(*args, **given)
        if self.plays and self.accelerator.is_main_process:
            table = suspicious(list(self.plays))
            table.to_csv(Path(str(self.args.output_dir)) / "suspicious.csv", index=False)
            print(summary(table, len(self.plays)), file=sys.stderr)
        return result

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        size, inputs, rows = int(self.num_generations or 1), list(inputs), self.given
        rng = np.random.default_rng([self.args.seed, self.state.global_step, self.accelerator.process_index])
        again, rollouts = [*range(len(inputs))], [{}] * len(inputs)
        for refill in range(self.play.refills + 1):
            # A process with nothing to replace plays too and drops it: FSDP needs the same number of turns everywhere.
            for place, rollout in zip(again, self._play([inputs[i] for i in again or [0]]), strict=False):
                rollouts[place] = rollout
            self.played = [r["replayed"] for r in rollouts]
            rewards = np.array([p.reward() for p in self.played]).reshape(-1, size)
            flat = np.flatnonzero(np.ptp(rewards, 1) == 0)
            if refill == self.play.refills or not self._anywhere(len(flat)):
                break
            again = []
            for group in flat:
                alike = np.flatnonzero(self.band == inputs[group * size].get("band", ""))
                inputs[group * size : (group + 1) * size] = [rows[int(rng.choice(alike))]] * size
                again += range(group * size, (group + 1) * size)
        self._rollouts: dict[str, Any] = {
            name: [r[name] for r in rollouts] for name in ("prompt_ids", "completion_ids", "logprobs", "env_mask")
        }
        if self._rollouts["logprobs"][0] is None:
            self._rollouts["logprobs"] = None
        output = super()._generate_and_score_completions(inputs)
        std = rewards.std(1, ddof=1, keepdims=True)
        advantages = (rewards - rewards.mean(1, keepdims=True)) / np.maximum(std, self.play.std_floor)
        if self.scale_rewards == "group" and not self.play.overlong:
            output["advantages"] = torch.as_tensor(advantages.ravel()).to(output["advantages"])
        self._log_streams(refill, inputs)
        for one in self.played:
            outcome, question = one.episode.outcome(), self.questions[one.query]
            self.plays.append(Trajectory(question, outcome.answer, one.quality(), outcome.usd, one.lam, one.reward()))
        return output

    def _play(self, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Let the model play these records; in every process the same number of turns, as FSDP needs."""
        end: Any = self.processing_class
        most: int = self.max_completion_length or 0
        games = []
        for record in records:
            tools = json.loads(record["tools"]) if record["tools"] else None
            prompt = rendered(end, record["prompt"], tools, True)
            game = {"prompt_ids": prompt, "completion_ids": [], "env_mask": [], "logprobs": None}
            games.append(game | {"replayed": Replayed(record, self.outcomes, self.play)})
        active = games
        while self._anywhere(len(active)):
            asked = active or games[:1]
            so_far = [g["prompt_ids"] + g["completion_ids"] for g in asked]
            turns, logprobs = self._generate_single_turn(so_far, None, {}, 1)
            for game, tokens, logps in zip(active, turns, logprobs or [None] * len(active), strict=False):
                tokens = tokens[: most - len(game["completion_ids"])]
                heard = game["replayed"].take(end.decode(tokens, skip_special_tokens=True))
                self._append(game, tokens, 1, logps)
                if not game["replayed"].episode.done:
                    shown = self._get_tool_suffix_ids(heard)
                    if len(game["completion_ids"]) + len(shown) < most:
                        self._append(game, shown, 0, None if logps is None else [0.0] * len(shown))
                    else:
                        game["full"] = True
            active = [g for g in active if not g["replayed"].episode.done and "full" not in g]
        return games

    @staticmethod
    def _append(game: dict[str, Any], tokens: list[int], trained: int, logps: list[float] | None) -> None:
        game["completion_ids"] += tokens
        game["env_mask"] += [trained] * len(tokens)
        if logps is not None:
            game["logprobs"] = (game["logprobs"] or []) + logps[: len(tokens)]

    def _anywhere(self, count: int) -> bool:
        total = self.accelerator.reduce(torch.tensor(count, device=self.accelerator.device))
        return int(total) > 0  # pyright: ignore[reportArgumentType]

    def _log_streams(self, refills: int, inputs: list[dict[str, Any]]) -> None:
        """Reward's parts apart, overall and by the records' fixed set of models."""
        logged = self._metrics["train"]
        for name in ("", *sorted({f"{record['set']}/" for record in inputs})):
            own = [p for p, r in zip(self.played, inputs, strict=True) if not name or name == f"{r['set']}/"]
            outcomes = [p.episode.outcome() for p in own]
            called, failed = (sum(counts, Counter()) for counts in zip(*(p.episode.tally() for p in own), strict=True))
            values = {
                "quality": [p.quality() for p in own],
                "usd": [o.usd for o in outcomes],
                "turns": [p.episode.turns for p in own],
                "calls": [len(p.episode.called) for p in own],
                "valid": [o.valid for o in outcomes],
                **{f"share/{m}": [n / called.total()] for m, n in called.items()},
                **{f"failed/{m}": [n / called[m]] for m, n in failed.items()},
            }
            for stream, numbers in values.items():
                logged[name + stream].append(float(np.mean(numbers)))
        logged["refills"].append(float(refills))
