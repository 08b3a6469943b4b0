"""GRPO and DAPO of Hugging Face models: TRL's trainer on our environment, refilled groups, a floor of the std.

TRL would build tools from a class's methods. Here each question has a pool of its own, so the tools come with the
record, `env.Episode`, which also serves, plays the turns, and TRL receives the sampled tokens as they are.
"""

import json
from collections import Counter
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from trl.rewards.other_rewards import get_soft_overlong_punishment

from routerlab.core.outcomes import OutcomeTable
from routerlab.label.rewards import linear
from routerlab.train.checkpoints import WholeCheckpoints
from routerlab.train.env import Episode, read_tools
from routerlab.train.recipes import Play, TrainError, rendered
from routerlab.train.shared_prefix import SharedPrefixGRPO


class Replayed:
    """One episode on a record, answered from recorded outcomes at the prices that the record shows."""

    def __init__(self, record: dict[str, Any], outcomes: dict[str, Any], play: Play) -> None:
        self.pool = {shown["id"]: shown for shown in json.loads(record["pool"])}
        self.episode = Episode([*self.pool], play.max_turns, record["mode"])
        self.outcomes, self.row = outcomes, outcomes["rows"][record["query"]]
        self.lam = play.lam if record["lam"] is None else record["lam"]
        self.failed: list[str] = []

    def recorded(self, name: str, model: str) -> Any:
        """What is recorded of a shown model on this question."""
        return self.outcomes[name][self.row, self.outcomes["models"].index(self.pool[model]["model"])]

    def take(self, text: str) -> list[dict[str, str]]:
        """Play one turn; returns what its tools answered."""
        for call in self.episode.act(*read_tools(text)):
            prices, model = self.pool[call.model], call.model
            usd = sum(self.recorded(f"tokens_{w}", model) * prices[f"usd_per_mtok_{w}"] for w in ("in", "out")) / 1e6
            failed = np.isnan(self.recorded("quality", model))
            self.failed += [model] * int(failed)
            answer = None if failed else self.recorded("answer", model) or ""
            self.episode.feed(call.number, answer, float(np.nan_to_num(usd)), "this call failed when it was recorded")
        return [{"role": "tool", "name": tool, "content": text} for tool, text in self.episode.observations]

    def quality(self) -> float:
        """Of the answer that the episode comes to; 0 if it has none, or one that no model gave."""
        number = self.episode.outcome().number
        return 0.0 if number is None else float(self.recorded("quality", self.episode.called[number]))


class GRPO(WholeCheckpoints, SharedPrefixGRPO):
    """TRL's GRPOTrainer. `loss_type: dapo` with `epsilon_high` is DAPO (arXiv:2503.14476), `grpo` is GRPO
    (arXiv:2402.03300).

    Added: groups whose rewards are all the same teach nothing and are replaced by other questions, at most
    `play.refills` times, after which they stay (the published code ended the run); an advantage is divided by at least
    `play.std_floor`, so that rewards that differ by nearly nothing are not blown up to 1.
    """

    def __init__(
        self, model: Any, table: OutcomeTable | None, play: Play, args: Any, rows: Dataset, **given: Any
    ) -> None:
        if args.per_device_train_batch_size % args.num_generations:
            raise TrainError("per_device_train_batch_size must be a multiple of num_generations: groups stay whole")
        rewards: list[Any] = [self._reward]
        if play.overlong:
            rewards.append(get_soft_overlong_punishment(args.max_completion_length, play.overlong))
        if table is None:
            raise TrainError("reinforcement learning needs recorded outcomes; name a table with --table")
        self.play, self.played, self.given = play, [], rows
        self.outcomes: dict[str, Any] = {n: table.matrix(n) for n in ("quality", "tokens_in", "tokens_out")}
        self.outcomes |= {"answer": table.text("answer"), "models": table.models}
        self.outcomes["rows"] = {query: row for row, query in enumerate(table.queries)}
        super().__init__(model, rewards, args=args, train_dataset=rows, rollout_func=lambda *_: self._rollouts, **given)

    def _reward(self, prompts: list, **_: Any) -> list[float]:
        return [float(linear(p.quality(), p.episode.outcome().usd, p.lam)) for p in self.played]

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        size, inputs, rows = int(self.num_generations or 1), list(inputs), self.given
        rng = np.random.default_rng([self.args.seed, self.state.global_step, self.accelerator.process_index])
        again, rollouts = [*range(len(inputs))], [{}] * len(inputs)
        for refill in range(self.play.refills + 1):
            # A process with nothing to replace plays too and drops it: FSDP needs the same number of turns everywhere.
            for place, rollout in zip(again, self._play([inputs[i] for i in again or [0]]), strict=False):
                rollouts[place] = rollout
            self.played = [r["replayed"] for r in rollouts]
            rewards = np.array(self._reward([])).reshape(-1, size)
            flat = np.flatnonzero(np.ptp(rewards, 1) == 0)
            if refill == self.play.refills or not self._anywhere(len(flat)):
                break
            again = []
            for group in flat:
                inputs[group * size : (group + 1) * size] = [rows[int(rng.integers(len(rows)))]] * size
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
            called = Counter(m for p in own for m in p.episode.called.values())
            values = {
                "quality": [p.quality() for p in own],
                "usd": [o.usd for o in outcomes],
                "turns": [p.episode.turns for p in own],
                "calls": [len(p.episode.called) for p in own],
                "valid": [o.valid for o in outcomes],
                **{f"share/{m}": [n / called.total()] for m, n in called.items()},
                **{f"failed/{m}": [n / called[m]] for m, n in Counter(f for p in own for f in p.failed).items()},
            }
            for stream, numbers in values.items():
                logged[name + stream].append(float(np.mean(numbers)))
        logged["refills"].append(float(refills))
