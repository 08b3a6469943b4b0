"""Routers that are language models: one scores every candidate of a pool from its card, one writes a policy as text."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from routerlab.core.decisions import Decisions
from routerlab.core.outcomes import OutcomeTable
from routerlab.core.pools import ModelCard, Pool
from routerlab.core.queries import Query
from routerlab.label.oracle import Policy
from routerlab.routers import prompts
from routerlab.routers.prompts import Style
from routerlab.routers.protocol import RouterError, ScoreRouter

CALL = '<tool_call>\n{{"name": "{}", "arguments": {{}}}}\n</tool_call>'  # as chat templates write a call
Write = Callable[[Sequence[list[dict[str, str]]]], Sequence[tuple[str, float]]]


class LMRouter(ScoreRouter):
    """A router that reads the question and the cards of a pool, also of one it has never seen, and calls the model with
    the highest quality - lam * usd. What reading costs is charged.

    `reader` is an `Actor` or a `CausalReader`: from texts and cards, `read` gives quality estimates and costs (both
    questions x candidates), `own_usd` what reading costs (USD a question). `pool` has the cards that it needs. Of
    another pool, a model with the same id and no skills takes those of `pool`; prices are always those of the pool that
    is routed among.
    """

    name = "actor"

    def __init__(self, reader: Any, pool: Pool) -> None:
        self.reader, self.pool, self.models = reader, pool, pool.ids

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """The router of a kept actor."""
        from routerlab.routers.actor import Actor

        return cls(Actor.load(folder), Pool.load(Path(folder) / "pool.yaml"))

    def of(self, pool: Pool) -> Self:
        """This router for another pool."""
        cards = [
            replace(c, skills=self.pool[c.id].skills) if not c.skills and c.id in self.pool else c for c in pool.cards
        ]
        other = copy.copy(self)
        other.pool, other.models = Pool(pool.name, cards), pool.ids
        return other

    def decisions(self, queries, pool, lams, answers=None):
        return ScoreRouter.decisions(self.of(pool), queries, pool, lams, answers)

    def own_usd(self, queries):
        return self.reader.own_usd([q.text for q in queries], self.pool.cards)

    def _predict(self, queries):
        return self.reader.read([q.text for q in queries], self.pool.cards)


class CausalReader:
    """A Hugging Face causal language model that reads a prompt of `routers.prompts`. Its quality estimate is the
    probability of the reply that calls a candidate, among the replies that call one.

    Args: the `model` and its tokenizer `words`; the `style` of the prompt; the price of its input `usd_per_mtok`; the
    length that an answer is taken to have where a card's skills do not say it.
    """

    def __init__(self, model: Any, words: Any, style: Style = "compact", usd_per_mtok=0.0, tokens_out=200.0) -> None:
        from routerlab.routers.attention import enable

        if style == "oracle":
            raise RouterError("replies of style oracle name policies, not models; give its `write` to a PolicyWriter")
        self.model, self.words, self.usd_per_mtok, self.tokens_out = model.eval(), words, usd_per_mtok, tokens_out
        self.style: Style = style
        self._kept: tuple[tuple[ModelCard, ...], Any] | None = None  # the last pool, and the beginning of its prompts
        try:
            enable(model)
            self.shares = True
        except RouterError:  # layers that do more than causal attention
            self.shares = False

    @classmethod
    def load(cls, name: str | Path, style: Style = "compact", *, online: bool = False) -> Self:
        """A model by its folder or hub id; nothing is fetched unless `online`."""
        from transformers import AutoModelForCausalLM, AutoTokenizer

        model, words = (
            kind.from_pretrained(name, local_files_only=not online) for kind in (AutoModelForCausalLM, AutoTokenizer)
        )
        return cls(model, words, style)

    def read(self, questions, cards):
        import torch

        replies = self._replies(cards)
        with torch.inference_mode():
            scores = [self._scores(self._prompt(q, cards), replies, cards) for q in questions]
            chances = [one.softmax(0).cpu().numpy() for one in scores]
        quality = np.array(chances).reshape(len(questions), len(cards))
        tokens_in = np.array([len(self.words(q)["input_ids"]) for q in questions], float).reshape(-1, 1)
        return quality, np.hstack([c.usd(tokens_in, self._typical(c)) for c in cards])

    def own_usd(self, questions, cards):
        return np.array([len(self._prompt(q, cards)) for q in questions]) * self.usd_per_mtok / 1e6

    def write(self, messages: Sequence[list[dict[str, str]]], most: int = 64) -> list[tuple[str, float]]:
        """For a PolicyWriter: its likeliest text, of `most` tokens at most, for each list of messages, and the cost."""
        import torch

        texts = []
        for one in messages:
            asked = torch.tensor([prompts.tokens(self.words, one)], device=self.model.device)
            with torch.inference_mode():
                whole = self.model.generate(asked, do_sample=False, max_new_tokens=most)[0]
            text = self.words.decode(whole[asked.shape[1] :], skip_special_tokens=True)
            texts.append((text, len(whole) * self.usd_per_mtok / 1e6))
        return texts

    def _typical(self, card: ModelCard) -> float:
        """The mean length of the answers that the card's skills were measured on."""
        lengths = [s.tokens_out or self.tokens_out for s in card.skills]
        return float(np.average(lengths, weights=[s.n for s in card.skills])) if lengths else self.tokens_out

    def _prompt(self, question: str, cards: Sequence[ModelCard]) -> list[int]:
        return prompts.tokens(self.words, *prompts.prompt(self.style, question, cards), question=question)

    def _replies(self, cards: Sequence[ModelCard]) -> list[list[int]]:
        """The reply that calls each candidate."""
        texts = list(prompts.SLOTS[: len(cards)])
        texts = [CALL.format(prompts.tool_name(c.id)) for c in cards] if self.style == "tool" else texts
        return [self.words(text, add_special_tokens=False)["input_ids"] for text in texts]

    def _scores(self, asked: list[int], replies: list[list[int]], cards: Sequence[ModelCard]) -> Any:
        """The log-probability of each reply to this prompt, less that of their common beginning, which cancels. Prompts
        begin with the pool of models, which is computed for its first question and kept."""
        from routerlab.routers.attention import in_common, keep, score_candidates

        same = min(in_common(replies), min(map(len, replies)) - 1)
        asked, replies = asked + replies[0][:same], [reply[same:] for reply in replies]
        if not self.shares:
            return self._scores_in_rows(asked, replies)
        if self._kept is None or self._kept[0] != tuple(cards):
            pool = asked[: in_common([asked, self._prompt("?", cards)])]
            self._kept = tuple(cards), keep(self.model, pool) if pool else None
        return score_candidates(self.model, asked, replies, self._kept[1])

    def _scores_in_rows(self, asked: list[int], replies: list[list[int]]) -> Any:
        """The same of a model that cannot share prefixes: all replies continue the prompt as one batch."""
        import torch

        rows = [torch.tensor(reply) for reply in replies]
        ends = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-100).to(self.model.device)
        start = self.model(torch.tensor([asked], device=self.model.device), use_cache=True)
        start.past_key_values.batch_repeat_interleave(len(replies))
        after = self.model(ends.clamp(min=0), past_key_values=start.past_key_values).logits
        logits = torch.cat([start.logits[:, -1:].expand(len(replies), -1, -1), after[:, :-1]], 1)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        logp = logits.log_softmax(-1).gather(2, ends.clamp(min=0)[..., None])[..., 0]
        return (logp * (ends >= 0)).sum(1)


class PolicyWriter:
    """A language model that writes a reason and a policy; `models` maps every policy to a model, and can be changed
    without training.

    `write` takes the messages of every query and returns for each the generated text and what generating it cost
    (USD); it may be a model in this process or one at a URL. A text that does not end in a policy takes `default`, and
    `unread` counts those, so that a guess stays visible.
    """

    def __init__(
        self, write: Write, models: Mapping[Policy, str], default: Policy, name: str = "language model"
    ) -> None:
        if absent := [p.value for p in Policy if p not in models]:
            raise RouterError(f"no model for {', '.join(absent)}; map every policy to one")
        self.write, self.models, self.default, self.name = write, dict(models), default, name
        self.unread = 0

    def route(self, queries: Sequence[Query], pool: Pool, answers: OutcomeTable | None = None) -> Decisions:
        """For each query the model of `pool` that its policy is mapped to."""
        place = {p: pool.ids.index(pool[m].id) for p, m in self.models.items()}
        texts = self.write([prompts.prompt("oracle", q.text, pool.cards).messages for q in queries])
        if len(texts) != len(queries):
            raise RouterError(f"{len(queries)} questions, {len(texts)} texts; write one for each")
        policies = [prompts.read("oracle", {"content": text}, pool.cards) for text, _ in texts]
        self.unread = sum(p is None for p in policies)
        choice = np.array([place[Policy(p or self.default)] for p in policies], np.int64)
        spent = np.array([usd for _, usd in texts])
        return Decisions(tuple(q.id for q in queries), pool.ids, choice, self.name, own_usd=spent)
