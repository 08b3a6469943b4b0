"""Real inference with the embedded models: batched greedy and sampled generation with a KV cache, on CPU or GPU."""

import functools
import hashlib
import itertools
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar

MAX_NEW_TOKENS = 160  # the longest worked steps of the hardest level, with room


@dataclass(frozen=True)
class Reply:
    """What one model wrote for one question."""

    text: str  # the answer, without the worked steps
    steps: str  # the worked steps that a thinking model wrote before it, else ""
    tokens_in: int
    tokens_out: int
    confidence: float  # probability of all it wrote, worked steps included, at temperature 1
    finish: str  # "stop", "length" when the limit cut it off, "context_length" for a question that is too long
    latency_s: float  # from the start of its batch to its last token


@functools.cache
def load(folder: Path) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """Model (float32) and tokenizer of one embedded model, from safetensors on disk; never from a hub."""
    if not (folder / "model.safetensors").is_file():
        raise FileNotFoundError(f"no weights in {folder}; train them by `make pocket`, or restore data/pocket from git")
    disable_progress_bar()
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    words = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    model.to(torch.device("cuda" if torch.cuda.is_available() else "cpu"))  # pyright: ignore
    return model.eval(), words


def prompt(words: PreTrainedTokenizerFast, question: str) -> str:
    """The text a model continues when it is asked `question`, by its chat template."""
    return str(words.apply_chat_template([{"role": "user", "content": question}], tokenize=False))


def answer(
    folder: Path,
    questions: list[str],
    *,
    temperature: float = 0.0,
    seed: int = 0,
    max_tokens: int = MAX_NEW_TOKENS,
    batch: int = 256,
) -> list[Reply]:
    """Answer every question, in the given order; questions of similar length share a batch, and those that leave less
    than `max_tokens` of the context only with questions of the same length, since the longest one limits the answers.

    A sampled answer depends on `seed` and the text of its question alone, not on the other questions, so an interrupted
    run that is continued gives the same answers as one that was not interrupted.

    Args:
        folder: of the model.
        questions: their texts.
        temperature: 0 is greedy.
        seed: of sampling.
        max_tokens: of each answer, worked steps included.
        batch: the largest number of questions decoded together.
    """
    model, words = load(folder)
    prompts = [prompt(words, q) for q in questions]
    ids: list[list[int]] = words(prompts, add_special_tokens=False)["input_ids"] if prompts else []
    most = model.config.max_position_embeddings
    replies = {
        i: Reply("", "", len(row), 0, 0.0, "context_length", 0.0) for i, row in enumerate(ids) if len(row) >= most
    }
    with torch.inference_mode():
        for places in _alike({i: row for i, row in enumerate(ids) if i not in replies}, batch, most - max_tokens):
            drawn = [_draws(seed, questions[i], max_tokens) for i in places] if temperature else []
            written = _batch(model, words, [ids[i] for i in places], temperature, drawn, max_tokens)
            replies |= zip(places, written, strict=True)
    return [replies[i] for i in range(len(ids))]


def _alike(ids: Mapping[int, list[int]], size: int, roomy: float = math.inf) -> Iterator[list[int]]:
    """The places of the prompts, in batches of similar length; of more than `roomy` tokens only of the same length."""
    length = {i: len(row) for i, row in ids.items()}
    for _, group in itertools.groupby(sorted(ids, key=length.__getitem__), lambda i: max(length[i], roomy)):
        while places := list(itertools.islice(group, size)):
            yield places


def hidden_states(folder: Path, questions: list[str]) -> np.ndarray:
    """What an embedded model makes of each question: the states of every layer at the last token, their mean and their
    maximum over tokens, side by side (questions x 3 * layers * width).
    """
    model, words = load(folder)
    ids = words([prompt(words, q) for q in questions], add_special_tokens=False)["input_ids"] if questions else []
    rows: dict[int, np.ndarray] = {}
    for at in _alike(dict(enumerate(ids)), 256):
        tokens = torch.nn.utils.rnn.pad_sequence([torch.tensor(ids[i]) for i in at], True)
        length = torch.tensor([len(ids[i]) for i in at])
        real = (torch.arange(tokens.shape[1]) < length[:, None])[..., None].to(model.device)
        with torch.inference_mode():
            layers = model(tokens.to(model.device), real[..., 0].long(), output_hidden_states=True).hidden_states[1:]
        h = torch.cat(layers, -1)
        last, mean = h[torch.arange(len(at)), length - 1], (h * real).sum(1) / real.sum(1)
        views = torch.cat([last, mean, h.masked_fill(~real, -torch.inf).amax(1)], -1).cpu().numpy()
        rows |= zip(at, views, strict=True)
    return np.stack([rows[i] for i in range(len(ids))])


def _draws(seed: int, question: str, count: int) -> np.ndarray:
    name = int.from_bytes(hashlib.blake2b(question.encode(), digest_size=8).digest())
    return np.random.default_rng([seed, name]).random(count, np.float32)


def _batch(model, words, ids, temperature, drawn, max_tokens):
    """Decode one left-padded batch; rows that have ended are dropped once they are half of the rows in it.

    Args:
        model, words: the model and its tokenizer.
        ids: token ids of the prompts.
        temperature: of sampling, where there is any.
        drawn: uniform numbers of each row, one for each step; empty for greedy decoding.
        max_tokens: of each answer.
    """
    width = max(map(len, ids))
    pad, eos = words.pad_token_id, words.eos_token_id
    current = torch.tensor([[pad] * (width - len(row)) + row for row in ids], device=model.device)
    mask = (current != pad).long()
    position = (mask.cumsum(1) - 1).clamp(min=0)
    limit = min(max_tokens, model.config.max_position_embeddings - width)
    tokens = torch.full((len(ids), limit), pad, device=model.device)
    logps = torch.zeros(len(ids), limit, device=model.device)
    rows = torch.arange(len(ids), device=model.device)  # the rows of the batch that are still decoded
    uniform = torch.from_numpy(np.stack(drawn)).to(model.device) if drawn else None
    started, clock, cache = time.perf_counter(), [], None
    for step in range(limit):
        given = {"attention_mask": mask, "position_ids": position, "past_key_values": cache}
        out = model(input_ids=current, **given, use_cache=True, logits_to_keep=1)
        cache = out.past_key_values
        logp = torch.log_softmax(out.logits[:, -1].float(), -1)
        if uniform is None:
            token = logp.argmax(-1)
        else:
            below = (logp / temperature).softmax(-1).cumsum(-1)
            token = (below < uniform[rows, step, None] * below[:, -1:]).sum(-1)
        going = ~(tokens[rows] == eos).any(1)
        tokens[rows[going], step] = token[going]
        logps[rows, step] = logp.gather(1, token[:, None])[:, 0]
        clock.append(time.perf_counter() - started)
        going &= token != eos
        left = int(going.sum())
        if not left:
            break
        if left <= len(rows) // 2:
            keep = going.nonzero()[:, 0]
            cache.batch_select_indices(keep)
            rows, token, mask, position = rows[keep], token[keep], mask[keep], position[keep]
        current, position = token[:, None], position[:, -1:] + 1
        mask = torch.cat([mask, torch.ones_like(current)], 1)
    return _replies(words, ids, tokens.cpu(), logps.cpu(), clock)


def _replies(words, ids, tokens, logps, clock):
    answer_mark, eos = words.convert_tokens_to_ids("<answer>"), words.eos_token_id
    for row, written, scores in zip(ids, tokens.tolist(), logps.tolist(), strict=True):
        ended = eos in written
        length = written.index(eos) + 1 if ended else len(clock)
        first = written.index(answer_mark) + 1 if answer_mark in written[:length] else 0
        body, steps = written[first : length - ended], written[: max(first - 1, 0)]
        yield Reply(
            text=words.decode(body, skip_special_tokens=True),
            steps=words.decode(steps, skip_special_tokens=True),
            tokens_in=len(row),
            tokens_out=length,
            confidence=math.exp(sum(scores[:length])),
            finish="stop" if ended else "length",
            latency_s=clock[length - 1],
        )
