"""Routers that are causal language models: estimates equal those of whole sequences, with the pool computed once."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import Qwen2Config

from routerlab import Pool, Query
from routerlab.core.runs import root
from routerlab.pocket.generate import load
from routerlab.routers import prompts
from routerlab.routers.attention import in_common
from routerlab.routers.lm import CausalReader, LMRouter
from routerlab.routers.protocol import RouterError
from tests.test_attention import SIZES, distance, model_of


def log_chances(reader, questions, cards):
    return torch.tensor(reader.read(questions, cards)[0]).log()


@pytest.mark.parametrize("style", ["compact", "tool"])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-12), (torch.float32, 1e-5)], ids=str)
def test_a_pool_is_computed_once_for_all_candidates_and_questions(pocket, style, dtype, bound):
    """The same estimates as with a row for each reply, and one forward pass less long for each further question."""
    config = Qwen2Config(**SIZES | {"vocab_size": 160}, num_attention_heads=6, num_key_value_heads=2)
    model, words = model_of(config, dtype), load(root() / "data" / "pocket" / "models" / "pocket-nano")[1]
    words = copy.deepcopy(words)
    words.chat_template = "{% for t in tools or [] %}{{ t.function.name }}\n{% endfor %}" + words.chat_template
    cards = tuple(replace(c, id=f"{c.id}-{i}", strengths=()) for i in range(3) for c in pocket.pool.cards)
    questions = ["9 + 4", "?", " reversed: abc", "What is the gcd of 12 and 18?"]
    reader = CausalReader(model, words, style)
    assert reader.shares
    lengths = []
    model.get_input_embeddings().register_forward_pre_hook(lambda _, given: lengths.append(given[0].shape[1]))
    shared = log_chances(reader, questions, cards)
    pool, *each = lengths
    assert len(each) == len(questions)
    assert pool > len(reader._prompt("9 + 4", cards)) - 30
    replies = reader._replies(cards)
    assert max(each) < 60 + sum(len(reply) - in_common(replies) for reply in replies) * 9 / 8
    again = log_chances(reader, questions[:1], cards[::-1])  # another pool
    reader.shares = False
    assert distance(shared, log_chances(reader, questions, cards)) < bound
    assert distance(again, log_chances(reader, questions[:1], cards[::-1])) < bound
    for place in (0, 1):
        logps = []
        for reply in replies:
            ids = torch.tensor([reader._prompt(questions[place], cards) + reply])
            with torch.no_grad():
                logp = model(ids).logits[0, -len(reply) - 1 : -1].double().log_softmax(-1)
            logps.append(logp.gather(1, torch.tensor(reply)[:, None]).sum())
        assert distance(shared[place], torch.stack(logps).log_softmax(0)) < bound


def test_a_model_with_windows_is_read_in_rows(pocket):
    window = {"use_sliding_window": True, "sliding_window": 4096, "max_window_layers": 0}
    sizes = SIZES | {"vocab_size": 160}
    plain = model_of(Qwen2Config(**sizes, num_attention_heads=6, num_key_value_heads=2))
    windows = model_of(Qwen2Config(**sizes, **window, num_attention_heads=6, num_key_value_heads=2))
    words = load(root() / "data" / "pocket" / "models" / "pocket-nano")[1]
    first, second = CausalReader(plain, words), CausalReader(windows, words)
    assert (first.shares, second.shares) == (True, False)
    expected, rows = (r.read(["9 + 4", "8 + 1"], pocket.pool.cards)[0] for r in (first, second))
    np.testing.assert_allclose(rows, expected, rtol=1e-12)


def test_a_causal_model_scores_replies_with_the_prompt_computed_once(pocket):
    """Against whole sequences, one by one; the embedded model only lends its architecture and tokenizer."""
    reader = CausalReader(*load(root() / "data" / "pocket" / "models" / "pocket-nano"), usd_per_mtok=1.0)
    cards, question = list(pocket.pool.cards[:3]), Query.ask("Solve for x: 2 * x = 8")
    quality, usd = reader.read([question.text], cards)
    logps = []
    for card in cards:
        start = reader._prompt(question.text, cards)
        reply = prompts.reply("compact", card.id, cards)["content"]
        end = reader.words(reply, add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            logp = reader.model(torch.tensor([start + end])).logits[0].log_softmax(-1)
        logps.append(sum(logp[len(start) + i - 1, t].item() for i, t in enumerate(end)))
    expected = np.exp(logps) / np.exp(logps).sum()
    np.testing.assert_allclose(quality[0], expected, rtol=1e-3)
    assert usd.shape == (1, 3)
    assert reader.own_usd([question.text], cards) == len(reader._prompt(question.text, cards)) / 1e6
    made = LMRouter(reader, Pool("p", cards)).at(0.0).route([question], pocket.pool.subset([c.id for c in cards]))
    assert made.choice[0] == quality[0].argmax()
    tool = CausalReader(reader.model, reader.words, "tool").read([question.text], cards)[0]
    assert tool.sum() == pytest.approx(1, abs=1e-5)
    text, usd = reader.write([[{"role": "user", "content": "9 + 4"}]], most=4)[0]
    assert isinstance(text, str)
    assert 0 < usd <= 20 / 1e6
    with pytest.raises(RouterError, match="give its `write` to a PolicyWriter"):
        CausalReader(reader.model, reader.words, "oracle")
