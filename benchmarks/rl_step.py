"""A whole GRPO step, generation included, with its prompt computed once, beside TRL's own trainer.

One prompt of 1,000 tokens, 8 sampled completions of 32, forward, backward and AdamW, by TRL's GRPOTrainer and by
SharedPrefixGRPO from equal weights and seeds; the samples and losses of the two are compared. The model is that of
benchmarks/prefix.py with the tokenizer of the embedded models. The trainers take turns; seconds are those of one
thread's own time, so that other processes on the machine change them little. Prints a table, and as its last line one
JSON object of named figures.
"""

import copy
import json
import os
import tempfile
import time
from statistics import median

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, PrinterCallback, Qwen2Config, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from routerlab.core.runs import root
from routerlab.train.shared_prefix import SharedPrefixGRPO

PROMPT, COMPLETION, GROUP, STEPS, TURNS = 1000, 32, 8, 2, 3


class Clock(TrainerCallback):
    """The seconds of each step, generation included."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_step_begin(self, *_, **__) -> None:
        self.started = time.process_time()

    def on_step_end(self, *_, **__) -> None:
        self.seconds.append(time.process_time() - self.started)


def train(trainer, words: PreTrainedTokenizerFast, config: Qwen2Config, prompt: str, folder: str):
    """(seconds of each step, samples, losses) of a new model trained by this trainer."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(copy.deepcopy(config), dtype=torch.float32, attn_implementation="sdpa")
    samples: list[list[str]] = []

    def reward(completions, **_):
        samples.append(completions)
        return [float(len(set(text))) for text in completions]

    settings = GRPOConfig(
        output_dir=folder, use_cpu=True, bf16=False, gradient_checkpointing=False, per_device_train_batch_size=GROUP,
        num_generations=GROUP, max_completion_length=COMPLETION, generation_kwargs={"min_new_tokens": COMPLETION},
        max_steps=STEPS, report_to="none", disable_tqdm=True, logging_steps=1, save_strategy="no", seed=1,
    )  # fmt: skip
    clock, data = Clock(), Dataset.from_dict({"prompt": [prompt] * STEPS})
    made = trainer(model, reward, settings, data, processing_class=words, callbacks=[clock])
    made.remove_callback(PrinterCallback)
    made.train()
    losses = [(line["loss"], line["grad_norm"]) for line in made.state.log_history if "loss" in line]
    return clock.seconds, samples, losses


def main() -> None:
    torch.set_num_threads(1)
    words = PreTrainedTokenizerFast.from_pretrained(root() / "data" / "pocket" / "models" / "pocket-nano")
    text = "call the model that answers best for its price "
    ids = words(text * PROMPT, add_special_tokens=False)["input_ids"][:PROMPT]
    prompt = words.decode(ids)
    assert len(words(prompt)["input_ids"]) == PROMPT
    config = Qwen2Config(
        vocab_size=len(words), hidden_size=448, intermediate_size=2432, num_hidden_layers=2, num_attention_heads=7,
        num_key_value_heads=1, bos_token_id=words.bos_token_id, eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
    )  # fmt: skip
    print(f"load of the machine: {os.getloadavg()[0]:.1f} processes on {os.cpu_count()} cores")
    print(f"{'turn':>4} {'step':>4} {'TRL s':>8} {'shared s':>9} {'gain':>6}")
    gains = []
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(TURNS):
            rows, shared = (train(t, words, config, prompt, folder) for t in (GRPOTrainer, SharedPrefixGRPO))
            assert sorted(rows[1][0]) == sorted(shared[1][0]), "the first samples differ"
            for one, other in zip(rows[2][0], shared[2][0], strict=True):
                assert abs(one - other) <= 1e-3 * max(abs(one), 1e-3), "loss or gradient of the first step differ"
            for step, (one, other) in enumerate(zip(rows[0], shared[0], strict=True)):
                gains.append(one / other)
                print(f"{turn:4} {step:4} {one:8.2f} {other:9.2f} {gains[-1]:6.2f}", flush=True)
    print(json.dumps({"gain_end_to_end": round(median(gains), 2), "gain_lowest": round(min(gains), 2)}))


if __name__ == "__main__":
    main()
