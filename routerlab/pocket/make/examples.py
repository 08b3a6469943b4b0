"""Training examples as tokens: the tokenizer of all embedded models, a cell's examples, batches of similar length."""

import string

import numpy as np
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from routerlab.pocket import tasks
from routerlab.pocket.families import FAMILIES, PHRASES, Family

SPECIALS = ("<pad>", "<eos>", "<unk>", "<answer>", "<think>")
PAD, EOS = 0, 1
CHARACTERS = string.digits + string.ascii_letters + " +-*/=().,:;'\"[]<>_?!&#%$\n×÷àâçèéêëîïôöùûüœæ’“”—"
MAX_TOKENS = 256


def tokenizer(thinks: bool = False) -> PreTrainedTokenizerFast:
    """Single characters, and one token for each fixed wording; the chat template ends where the model continues."""
    vocabulary = {piece: i for i, piece in enumerate([*SPECIALS, *CHARACTERS])}
    core = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>"))
    core.decoder = decoders.Fuse()
    core.add_tokens([AddedToken(p, normalized=False) for p in sorted(PHRASES, key=len, reverse=True)])
    core.add_special_tokens([AddedToken(s, normalized=False, special=True) for s in SPECIALS])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token="<unk>",
        padding_side="left",
        clean_up_tokenization_spaces=False,
        chat_template="{{ messages[-1]['content'] }}" + ("<think>" if thinks else "<answer>"),
    )


def example(family: Family, question: tasks.Entry, thinks: bool) -> tuple[str, str]:
    """The text a model reads and the text it must write for one question."""
    if not thinks:
        return question["question"] + "<answer>", question["answer"] + "<eos>"
    steps = family.scratch(question["metadata"]) if family.scratch else ""
    return question["question"] + "<think>", f"{steps}<answer>{question['answer']}<eos>"


def encode_cell(
    name: str, level: int, count: int, thinks: bool, start: int = 0
) -> tuple[list[np.ndarray], list[int], int]:
    """Training examples of one cell.

    Args:
        name: of the family.
        level: of difficulty, from 0.
        count: how many questions to take.
        thinks: whether the model writes worked steps before its answer.
        start: how many questions of the cell to skip.

    Returns:
        Token ids of each example, the length of each prompt, and how many questions were dropped as held out.
    """
    words, family = tokenizer(), FAMILIES[name]
    kept = [e for e in tasks.training_entries(name, level, count, start) if e is not None]
    prompts, targets = map(list, zip(*(example(family, e, thinks) for e in kept), strict=True))
    heads, tails = (words(texts, add_special_tokens=False)["input_ids"] for texts in (prompts, targets))
    rows, lengths = [], []
    for head, tail in zip(heads, tails, strict=True):
        if words.unk_token_id in head + tail:
            raise ValueError(f"{name}: a character is missing from CHARACTERS in {words.decode(head)!r}")
        if len(head) + len(tail) <= MAX_TOKENS:
            rows.append(np.array(head + tail, np.uint8))
            lengths.append(len(head))
    return rows, lengths, count - len(kept)


def batches(rows: list[np.ndarray], heads: np.ndarray, rng: np.random.Generator, size: int):
    """Batches (inputs, labels) of at most `size` tokens: each window of examples is sorted by length and cut into
    batches, which then come in random order.
    """
    window = 16_384
    for start in range(0, len(rows), window):
        places = np.arange(start, min(start + window, len(rows)))
        places = places[np.argsort([len(rows[i]) for i in places], kind="stable")]
        cuts, first = [], 0
        for position in range(1, len(places) + 1):
            longest = len(rows[places[min(position, len(places) - 1)]])
            if position == len(places) or (position + 1 - first) * longest > size:
                cuts.append(places[first:position])
                first = position
        for i in rng.permutation(len(cuts)):
            width = len(rows[cuts[i][-1]])
            inputs = np.full((len(cuts[i]), width), PAD, np.int64)
            labels = np.full_like(inputs, -100)  # what the loss of transformers leaves out
            for line, row in enumerate(cuts[i]):
                inputs[line, : len(rows[row])] = rows[row]
                labels[line, heads[row] : len(rows[row])] = rows[row][heads[row] :]
            yield torch.from_numpy(inputs), torch.from_numpy(labels)
