"""Attention over shared prefixes equals attention over rows, in outputs and gradients."""

import copy

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    Gemma2Config,
    GemmaConfig,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    Qwen2Config,
)

from routerlab.routers import attention
from routerlab.routers.attention import NAME, attend, attend_backward, enable, pack
from routerlab.routers.protocol import RouterError

SIZES = {"vocab_size": 97, "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2}
CONFIGS = {
    "qwen2 grouped": Qwen2Config(**SIZES, num_attention_heads=6, num_key_value_heads=2),
    "llama one each": LlamaConfig(**SIZES, num_attention_heads=4, num_key_value_heads=4),
    "gemma one in all": GemmaConfig(**SIZES, num_attention_heads=4, num_key_value_heads=1, head_dim=16),
}
PREFIX = [int(i) for i in torch.randint(0, 97, (37,), generator=torch.Generator().manual_seed(3))]
SUFFIXES = [[*range(5, 24)], [12], [13, 14, 15], [*range(16, 33)], [21, 22, 23]]


def model_of(config, dtype=torch.float64):
    """A random model; its norms, which transformers computes in single precision, are those of torch, in `dtype`."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(copy.deepcopy(config), dtype=dtype, attn_implementation="sdpa").eval()
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if type(child).__name__.endswith("RMSNorm"):
                setattr(parent, name, torch.nn.RMSNorm(child.weight.shape, eps=1e-6, dtype=dtype))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    return model


def in_rows(model, prefix, suffixes):
    """Scores from one row for each suffix, by torch's ordinary attention."""
    model.set_attn_implementation("sdpa")
    scores = []
    for suffix in suffixes:
        ids = torch.tensor([[*prefix, *suffix]])
        logits = model(input_ids=ids, use_cache=False).logits[0, len(prefix) - 1 : -1]
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        scores.append(logits.log_softmax(-1).gather(1, ids[0, len(prefix) :, None]).sum())
    return torch.stack(scores)


def score_candidates(model, prefix, suffixes):
    """Scores of the same from one packed row, in which the prefix is computed once."""
    enable(model)
    packed = pack([(prefix, suffixes)])
    logits = model(**packed.inputs(), use_cache=False, logits_to_keep=packed.predicts).logits[0]
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    each = logits.log_softmax(-1).gather(1, packed.targets[:, None])[:, 0].split(packed.lengths)
    return torch.stack([one.sum() for one in each])


def gradients(model, scores):
    model.zero_grad()
    (scores * torch.linspace(1, -2, len(scores), dtype=scores.dtype)).sum().backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()]).double()


def distance(a, b):
    return float(((a.double() - b.double()).norm() / b.double().norm()).detach())


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-12), (torch.float32, 1e-5)], ids=str)
@pytest.mark.parametrize("kernel", ["torch-cpu", "plain"])
@pytest.mark.parametrize("suffixes", [SUFFIXES, SUFFIXES[:1]], ids=["ragged", "alone"])
def test_scores_and_gradients_equal_those_of_rows(config, dtype, bound, kernel, suffixes, monkeypatch):
    monkeypatch.setattr(attention, "choose_kernel", lambda *_: kernel)
    model = model_of(config, dtype)
    expected = in_rows(model, PREFIX, suffixes)
    slopes = gradients(model, expected)
    scores = score_candidates(model, PREFIX, suffixes)
    assert distance(scores, expected) < bound
    assert distance(gradients(model, scores), slopes) < bound


@pytest.mark.parametrize("kernel", ["torch-cpu", "plain"])
def test_half_precision(kernel):
    """Attention in bfloat16 is within 1e-2 of that in double precision, in outputs and gradients."""
    torch.manual_seed(0)
    packed = pack([(PREFIX, SUFFIXES), (PREFIX[:11], SUFFIXES[1:4])])
    tokens = packed.input_ids.shape[1]
    tensors = [torch.randn(1, heads, tokens, 16).bfloat16() for heads in (6, 2, 2)]
    results = []
    for dtype in (torch.bfloat16, torch.float64):
        inputs = [x.detach().to(dtype).requires_grad_() for x in tensors]
        out = attention._Pieces.apply(*inputs, packed.pieces, 0.25, kernel)
        out.backward(torch.linspace(-1, 1, out.numel()).view(out.shape).to(dtype))
        results.append([out, *(x.grad for x in inputs)])
    for half, exact in zip(*results, strict=True):
        assert half.dtype == torch.bfloat16
        assert distance(half, exact) < 1e-2


def test_a_bfloat16_model_is_as_far_from_the_exact_scores_as_rows_are():
    model = model_of(CONFIGS["qwen2 grouped"], torch.bfloat16)
    exact = copy.deepcopy(model).double()
    expected = in_rows(exact, PREFIX, SUFFIXES)
    slopes, rows = gradients(exact, expected), in_rows(model, PREFIX, SUFFIXES)
    rows_slopes = gradients(model, rows)
    scores = score_candidates(model, PREFIX, SUFFIXES)
    assert distance(scores, expected) < max(1e-2, 1.5 * distance(rows, expected))
    assert distance(gradients(model, scores), slopes) < max(1e-2, 1.5 * distance(rows_slopes, slopes))


def test_one_completion_says_nothing_about_the_others():
    model = model_of(CONFIGS["qwen2 grouped"])
    before = score_candidates(model, PREFIX, SUFFIXES)
    changed = [[t + 40 for t in SUFFIXES[0]], *SUFFIXES[1:]]
    after = score_candidates(model, PREFIX, changed)
    assert torch.equal(before[1:], after[1:])
    assert not torch.isclose(before[0], after[0])
    fewer = score_candidates(model, PREFIX, SUFFIXES[1:])
    assert torch.allclose(before[1:], fewer, rtol=1e-12)


def test_a_token_has_the_position_that_it_has_in_its_own_row():
    packed = pack([([7, 8, 9], [[1, 2], [3]]), ([4], [[5, 6]])])
    assert packed.position_ids.tolist() == [[0, 1, 2, 3, 4, 3, 0, 1, 2]]
    assert packed.predicts.tolist() == [2, 3, 2, 6, 7]
    assert packed.targets.tolist() == [1, 2, 3, 5, 6]


def test_many_groups_in_one_row():
    model = model_of(CONFIGS["llama one each"])
    model.set_attn_implementation(NAME)
    groups = [(PREFIX, SUFFIXES), (PREFIX[5:20], SUFFIXES[:3]), (PREFIX[:1], SUFFIXES[2:4])]
    packed = pack(groups)
    logits = model(**packed.inputs(), logits_to_keep=packed.predicts, use_cache=False).logits[0]
    chances = logits.log_softmax(-1).gather(1, packed.targets[:, None])[:, 0]
    scores = torch.stack([one.sum() for one in chances.split(packed.lengths)])
    assert distance(scores, torch.cat([in_rows(model, *group) for group in groups])) < 1e-12


def test_padded_generation_by_the_same_model_is_unchanged():
    model = model_of(CONFIGS["qwen2 grouped"])
    ids = torch.tensor([[0, 0, 5, 6, 7], [1, 2, 3, 4, 5]])
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    settings = {"attention_mask": mask, "max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    expected = model.generate(ids, **settings)
    model.set_attn_implementation(NAME)
    assert torch.equal(model.generate(ids, **settings), expected)


@pytest.mark.parametrize("suffixes", [[], [[1], []]])
def test_nothing_to_score_is_an_error(suffixes):
    with pytest.raises(RouterError, match="leave it out"):
        pack([(PREFIX, suffixes)])
    with pytest.raises(RouterError, match="leave it out"):
        pack([([], [[1]])])


def test_models_whose_layers_do_more_are_refused():
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    window = {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 0}
    for config, why in (
        (Gemma2Config(**SIZES, **heads, head_dim=16), "attn_logit_softcapping"),
        (Qwen2Config(**SIZES, **heads, **window), "sliding_window, sliding_attention"),
        (MistralConfig(**SIZES, **heads, sliding_window=16), "sliding_window"),
        (MambaConfig(vocab_size=97, hidden_size=32, num_hidden_layers=1, state_size=4), "linear_attention"),
        (BloomConfig(vocab_size=97, hidden_size=32, n_layer=1, n_head=2), "attention interface"),
    ):
        model = AutoModelForCausalLM.from_config(config)
        with pytest.raises(RouterError, match=f"has .*{why}"):
            score_candidates(model, PREFIX, SUFFIXES)
    model = model_of(LlamaConfig(**SIZES, **heads, attention_dropout=0.1)).train()
    with pytest.raises(RouterError, match="dropout"):
        score_candidates(model, PREFIX, SUFFIXES)


def test_the_choice_of_a_kernel_says_why(capsys):
    attention.choose_kernel.cache_clear()
    assert attention.choose_kernel("cpu", torch.float32, 64) == "torch-cpu"
    assert attention.choose_kernel("cuda", torch.float32, 64) == "plain"
    assert attention.choose_kernel("cuda", torch.bfloat16, 64) in {"torch-cuda", "flash-attn"}
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 3
    assert "no kernel for torch.float32 with heads of width 64 on cuda" in said[1]


def test_the_kernel_for_gpus_takes_and_gives_what_its_schema_says():
    """Shapes only: torch's fake tensors stand for those of a GPU."""
    with FakeTensorMode():
        q = torch.empty(6, 4, 24, 16, dtype=torch.bfloat16, device="cuda")
        k = torch.empty(6, 1, 24, 16, dtype=torch.bfloat16, device="cuda").expand(-1, 4, -1, -1)
        out, lse = attend("torch-cuda", (q, k, k), True, 0.25)
        assert out.shape == q.shape
        assert lse.shape == q.shape[:3]
        grads = attend_backward("torch-cuda", (out, q, k, k, out, lse), True, 0.25)
        assert [g.shape for g in grads] == [q.shape] * 3
