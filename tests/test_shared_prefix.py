"""TRL's trainers give the same losses, gradients and samples when equal prompts are computed once."""

import copy

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer
from trl.trainer.utils import add_fused_lm_head

from routerlab.core.runs import root
from routerlab.train.shared_prefix import SharedPrefixGRPO, pack_rows, share_prefixes

FOLDER = root() / "data" / "pocket" / "models" / "pocket-nano"
PROMPTS = ["What is 12 + 7?", "Spell the word cat backward.", "What is 5 * 3 - 1?"]


@pytest.fixture
def model():
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32, attn_implementation="sdpa")


@pytest.fixture(scope="module")
def words():
    return PreTrainedTokenizerFast.from_pretrained(FOLDER)


def rows():
    """Left-padded prompts, completions padded on the right; the fourth row has no completion."""
    prompts = [[0, 0, 11, 12, 13, 14], [0, 0, 11, 12, 13, 14], [21, 22, 23, 24, 25, 26], [21, 22, 23, 24, 25, 26]]
    completions = [[5, 6, 7, 8], [9, 0, 0, 0], [15, 16, 0, 0], [0, 0, 0, 0]]
    ids = torch.tensor([p + c for p, c in zip(prompts, completions, strict=True)])
    attended = (ids != 0).long()
    labels = ids.masked_fill(attended == 0, -100)
    labels[:, :6] = -100
    return {"input_ids": ids, "attention_mask": attended, "labels": labels}


def gradients(model, outputs):
    model.zero_grad()
    weights = torch.linspace(1, -2, outputs.log_probs.numel()).view(outputs.log_probs.shape)
    ((outputs.log_probs + 0.1 * outputs.entropy) * weights).sum().backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize("adapter", [False, True])
def test_the_fused_head_gives_the_same_log_probabilities_entropies_and_gradients(model, adapter):
    add_fused_lm_head(model, temperature=0.7, outputs=("log_probs", "entropy"))
    if adapter:
        model = get_peft_model(model, LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    expected = model(**rows(), fused_lm_head=True)
    slopes = gradients(model, expected)
    share_prefixes(model, None)
    shared = model(**rows(), fused_lm_head=True)
    torch.testing.assert_close(shared.log_probs, expected.log_probs, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(shared.entropy, expected.entropy, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(shared.loss, expected.loss)
    assert torch.equal(shared.label_mask, expected.label_mask)
    assert float((gradients(model, shared) - slopes).norm() / slopes.norm()) < 1e-5
    assert torch.equal(model(**rows()).logits.argmax(-1), model(**rows(), use_cache=False).logits.argmax(-1))


def test_each_prompt_is_computed_once():
    packed, places = pack_rows(*rows().values())
    assert packed.input_ids.tolist() == [[11, 12, 13, 14, 5, 6, 7, 8, 9, 21, 22, 23, 24, 25, 26, 15, 16]]
    assert places.tolist() == [5, 6, 7, 8, 14, 23, 24]  # of 4 rows x 9


def test_the_head_never_holds_logits_of_all_tokens(model):
    """What it takes beyond hidden states is bounded by a chunk: no tensor of tokens x vocabulary is saved."""
    add_fused_lm_head(model, outputs=("log_probs", "entropy"))
    share_prefixes(model)
    sizes = []
    given = rows()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.shape) or t, lambda t: t):
        model(**given, fused_lm_head=True)
    scored = int((given["labels"] != -100).sum())
    weights = {p.shape for p in model.parameters()}
    vocabulary = model.config.vocab_size
    assert not [s for s in sizes if s and s[-1] == vocabulary and s not in weights and s.numel() >= scored * vocabulary]


def grpo(trainer, model, words, folder, seen):
    def reward(completions, **_):
        seen.append(completions)
        return [float(len(set(c)) % 5) for c in completions]

    config = GRPOConfig(
        output_dir=str(folder), use_cpu=True, bf16=False, gradient_checkpointing=False, per_device_train_batch_size=4,
        gradient_accumulation_steps=2, num_generations=4, max_completion_length=6, max_steps=2, learning_rate=1e-3,
        report_to="none", disable_tqdm=True, logging_steps=1, save_strategy="no", beta=0.05, seed=3,
    )  # fmt: skip
    data = Dataset.from_dict({"prompt": PROMPTS})
    made = trainer(model, reward, config, data, processing_class=copy.deepcopy(words))
    made.train()
    return made


def test_grpo_trains_as_before(model, words, tmp_path, monkeypatch):
    """Two optimizer steps of two batches each: the same samples, losses and weights as TRL without shuffling."""
    other, samples, shared_samples = copy.deepcopy(model), [], []
    model.config._name_or_path = other.config._name_or_path = str(FOLDER)
    monkeypatch.setattr("trl.trainer.grpo_trainer.shuffle_sequence_dict", lambda batch: batch)
    before = grpo(GRPOTrainer, model, words, tmp_path / "a", samples)
    after = grpo(SharedPrefixGRPO, other, words, tmp_path / "b", shared_samples)
    assert samples == shared_samples
    for name in ("loss", "kl", "entropy", "grad_norm"):
        pair = [[line[name] for line in t.state.log_history if name in line] for t in (before, after)]
        assert pair[0] == pytest.approx(pair[1], rel=1e-3, abs=1e-6), name
        assert len(pair[0]) == 2
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_dpo_gives_the_same_loss_and_gradients(model, words, tmp_path):
    pairs = {"prompt": PROMPTS, "chosen": [" 19", " tac", " 14"], "rejected": [" 20 or so", " cat", " 1"]}
    config = DPOConfig(
        output_dir=str(tmp_path), use_cpu=True, bf16=False, gradient_checkpointing=False, report_to="none",
        disable_tqdm=True, per_device_train_batch_size=3,
    )  # fmt: skip
    reference = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.mul_(1.01)
    trainer = DPOTrainer(model, reference, config, train_dataset=Dataset.from_dict(pairs), processing_class=words)
    batch = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
    losses, slopes = [], []
    for shared in (False, True):
        if shared:
            share_prefixes(trainer.model, trainer.ref_model)
        model.zero_grad()
        loss = trainer.compute_loss(trainer.model, dict(batch))
        loss.backward()
        losses.append(loss.item())
        slopes.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert float((slopes[1] - slopes[0]).norm() / slopes[0].norm()) < 1e-4


def test_generation_for_equal_prompts_samples_the_same(model, words):
    share = copy.deepcopy(model)
    add_fused_lm_head(share)
    share_prefixes(share)
    texts = [PROMPTS[i] for i in (0, 0, 1, 1, 0)]
    given = words(texts, return_tensors="pt", padding=True, padding_side="left", return_token_type_ids=False)
    share.generation_config.use_cache = False  # as in the settings of models that were trained
    for sampled in (False, True):
        settings = {"max_new_tokens": 12, "do_sample": sampled, "pad_token_id": words.pad_token_id}
        results = []
        for one in (model, share):
            torch.manual_seed(1)
            results.append(one.generate(**given, **settings))
        assert torch.equal(*results)
