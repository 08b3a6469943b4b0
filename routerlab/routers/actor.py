"""A small language model that reads a question once and then each candidate's card in one further token, its slot.

The slot's output is the log-odds of two tokens, "right" and "wrong": an estimate of the quality of that candidate's
answer; a second output is how many tokens the answer will have. A candidate's price is not read, only multiplied:
usd = tokens in * price in + tokens out * price out. Slots do not see each other. So the order of the pool changes
nothing, a higher price lowers a model's share, and models and prices that training never showed can be candidates.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn
from transformers import LlamaConfig, LlamaModel, PreTrainedTokenizerFast

from routerlab.core.pools import ModelCard
from routerlab.core.runs import Run, read_json
from routerlab.pocket.generate import prompt
from routerlab.routers.protocol import RouterError

VERSION = "actor/1"
TYPICAL_TOKENS = 10.0  # of an answer; the network predicts the logarithm of a multiple of it
LOOKS = 4  # numbers of each kind that are looked up in a card for a question


class Actor(nn.Module):
    """Its decoder starts from the weights of an embedded model. `kinds` are the kinds of questions whose accuracy it
    reads in a card; which of them a question is, nobody tells it.
    """

    usd_per_mtok = 0.05  # the price of pocket-nano, whose size it has

    def __init__(self, config: LlamaConfig, kinds: Sequence[str], words: PreTrainedTokenizerFast) -> None:
        super().__init__()
        self.kinds, self.words, size = tuple(kinds), words, int(config.hidden_size)  # pyright: ignore
        self.decoder = LlamaModel(config)
        features = 2 * (int(config.num_hidden_layers) + 1) * size + 1  # pyright: ignore
        self.look = nn.Linear(features, 2 * LOOKS * len(self.kinds))
        self.card = nn.Linear(3 * len(self.kinds) + 2, 2 * size)
        self.of_question, self.of_card = nn.Linear(features, size), nn.Linear(2 * size, size)
        self.slot = nn.Linear(3 * size + 2 * LOOKS, size)
        self.right, self.length = nn.Linear(2 * size + LOOKS, 1), nn.Linear(2 * size + LOOKS, 1)
        self.drop = nn.Dropout(0.1)
        for layer in (self.right, self.length, self.slot):
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
        with torch.no_grad():  # at the start, quality and length are what is looked up in the card
            self.right.weight[0, -LOOKS:] = self.length.weight[0, -LOOKS:] = 1 / LOOKS

    def forward(self, ids: torch.Tensor, facts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-odds of "right", and the logarithm of tokens out / TYPICAL_TOKENS (both questions x candidates).

        Args: token `ids` of the questions, padded with 0 on the right; the `facts` of each candidate.
        """
        width, slots, kinds = ids.shape[1], len(facts), len(self.kinds)
        length, real = (ids != 0).sum(1), (ids != 0)[..., None].float()
        read = self.decoder(input_ids=ids, use_cache=True, output_hidden_states=True)
        rows = torch.arange(len(ids))
        views = [v for h in read.hidden_states for v in (h[rows, length - 1], (h * real).sum(1) / length[:, None])]
        views = [nn.functional.layer_norm(v, v.shape[-1:]) for v in views]
        question = self.drop(torch.cat([*views, length[:, None].float().log() - 3], 1))
        likely = self.look(question).view(len(ids), 2, LOOKS, kinds).softmax(-1)
        accuracy = torch.einsum("qlk,ck->qcl", likely[:, 0], facts[:, :kinds])
        tokens = torch.einsum("qlk,ck->qcl", likely[:, 1], facts[:, kinds : 2 * kinds])
        card = self.card(facts).relu()
        product = self.drop(self.of_question(question)[:, None] * self.of_card(card))
        slot = self.slot(torch.cat([card.expand(len(ids), -1, -1), product, accuracy, tokens], -1))
        # A slot attends to the question and to itself; all slots stand at the place after the question.
        hidden = torch.full((len(ids), 1, slots, width + slots), float("-inf"))
        hidden[..., :width].masked_fill_((ids != 0)[:, None, None], 0.0)
        hidden[:, 0, range(slots), range(width, width + slots)] = 0.0
        out = self.decoder(
            inputs_embeds=slot,
            past_key_values=read.past_key_values,
            attention_mask=hidden,
            position_ids=length[:, None].expand(-1, slots),
            use_cache=True,
        ).last_hidden_state
        out = torch.cat([self.drop(out), product], -1)
        right, longer = (h(torch.cat([out, x], -1)) for h, x in ((self.right, accuracy), (self.length, tokens)))
        return right[..., 0], longer[..., 0]

    def encode(self, questions: Sequence[str]) -> list[torch.Tensor]:
        """The token ids of each question, as the embedded models read it; of a long one, the last that fit."""
        limit = int(self.decoder.config.max_position_embeddings) - 1  # pyright: ignore
        texts = [prompt(self.words, q) for q in questions]
        rows = self.words(texts, add_special_tokens=False)["input_ids"] if texts else []
        return [torch.tensor(row[-limit:]) for row in rows]  # pyright: ignore

    def scores(self, rows: Sequence[torch.Tensor], cards: Sequence[ModelCard]) -> tuple[torch.Tensor, torch.Tensor]:
        """(quality, usd) of every candidate for every question (as `encode` gives them), differentiable; a router calls
        the one with the highest quality - lam * usd.
        """
        right, longer = self(pad(rows), facts(cards, self.kinds))
        tokens_in = torch.tensor([[float(len(r))] for r in rows])
        usd = [c.usd(tokens_in, TYPICAL_TOKENS * longer[:, [i]].exp()) for i, c in enumerate(cards)]
        return right.sigmoid(), torch.cat(usd, 1)

    def read(self, questions: Sequence[str], cards: Sequence[ModelCard]) -> tuple[np.ndarray, np.ndarray]:
        """`scores` as matrices, computed in batches of questions of similar length."""
        rows = self.encode(questions)
        quality, usd = np.zeros((2, len(rows), len(cards)))
        order = np.argsort([len(r) for r in rows], kind="stable")
        with torch.inference_mode():
            for at in np.array_split(order, -(-len(rows) // 256)) if rows else []:
                quality[at], usd[at] = (m.numpy() for m in self.scores([rows[i] for i in at], cards))
        return quality, usd

    def own_usd(self, questions: Sequence[str], cards: Sequence[ModelCard]) -> np.ndarray:
        """Its tokens and a slot for each candidate, at the price of the model the actor was made of."""
        return np.array([len(r) + len(cards) for r in self.encode(questions)]) * self.usd_per_mtok / 1e6

    def save(self, folder: str | Path, about: dict) -> Run:
        """Write weights (half precision), kinds and tokenizer; `about` says what it was trained on."""
        from safetensors.torch import save

        run = Run(Path(folder).resolve())
        config = self.decoder.config.to_dict()
        config.pop("_name_or_path", None)  # a folder of this machine
        content = {"version": VERSION, "kinds": self.kinds, "template": self.words.chat_template, "config": config}
        run.write("actor.json", json.dumps(content, indent=1, default=str) + "\n")
        run.write("actor.safetensors", save({n: w.half().contiguous() for n, w in self.state_dict().items()}))
        run.write("tokenizer.json", self.words.backend_tokenizer.to_str(pretty=True) + "\n")
        run.write("card.json", json.dumps(about, indent=1, default=str) + "\n")
        return run

    @classmethod
    def load(cls, folder: str | Path) -> "Actor":
        """Open a kept actor; hashes are checked, nothing is fetched, and dropout is off."""
        from safetensors.torch import load

        run = Run(Path(folder).resolve())
        if "actor.json" not in run.manifest():
            raise RouterError(f"no actor in {run.folder}; make one with `routerlab actor --out FOLDER`")
        content = read_json(run.path("actor.json"))
        if content.get("version") != VERSION:
            raise RouterError(f"{run.folder} is {content.get('version')!r}; this version reads {VERSION!r}")
        words = PreTrainedTokenizerFast(tokenizer_file=str(run.path("tokenizer.json")))
        words.chat_template = content["template"]
        actor = cls(LlamaConfig(**content["config"]), content["kinds"], words)
        actor.load_state_dict({n: w.float() for n, w in load(run.path("actor.safetensors").read_bytes()).items()})
        return actor.eval()


def pad(rows: Sequence[torch.Tensor]) -> torch.Tensor:
    """Rows of token ids as one matrix, 0 where a row has ended."""
    return nn.utils.rnn.pad_sequence(list(rows), batch_first=True)


def facts(cards: Sequence[ModelCard], kinds: Sequence[str]) -> torch.Tensor:
    """What the network reads of each card (candidates x features): see `measured`."""
    counts = torch.zeros(3, len(cards), len(kinds))
    for place, card in enumerate(cards):
        if not card.skills:
            cure = "ask it some probes and keep their outcomes in its card (`train.actor.probed`)"
            raise RouterError(f"{card.id}'s card has no skills, and an actor reads nothing else of a model: {cure}")
        for skill in (s for s in card.skills if s.kind in kinds):
            seen = torch.tensor([skill.accuracy, skill.tokens_out or TYPICAL_TOKENS, 1.0]) * skill.n
            counts[:, place, kinds.index(skill.kind)] = seen
    return measured(*counts)


def measured(right: torch.Tensor, tokens: torch.Tensor, asked: torch.Tensor) -> torch.Tensor:
    """From counts by kind (candidates x kinds) of right answers, tokens written and questions asked: the log-odds of a
    right answer and the logarithm of the length for each kind, shrunk toward the model's mean; how often each kind was
    asked; the log-odds overall, and how much was asked.
    """
    total = asked.sum(1, keepdim=True)
    mean, length = (right.sum(1, keepdim=True) + 0.8) / (total + 2), (tokens.sum(1, keepdim=True) + 10) / (total + 1)
    odds = ((right + 2 * mean) / (asked + 2)).clamp(0.005, 0.995).logit()
    longer = ((tokens + length) / (asked + 1) / TYPICAL_TOKENS).log()
    return torch.cat([odds, longer, asked / (asked + 5), mean.clamp(0.02, 0.98).logit(), total / (total + 50)], 1)
