"""Answers a second of the embedded models on CPU, beside transformers' own `generate` on the same
prompts.

Prints a table, and as its last line one JSON object of named figures.
"""

import json
import os
import time

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

from routerlab import recorded
from routerlab.core.runs import root
from routerlab.pocket.generate import answer, load, prompt

BATCH, LIMIT = 256, 160


def plain(folder, questions: list[str]) -> int:
    """transformers' generate, greedy, the same batches in the same order of length."""
    model, words = load(folder)
    prompts = sorted((prompt(words, q) for q in questions), key=lambda p: len(words(p)["input_ids"]))
    with torch.inference_mode():
        for start in range(0, len(prompts), BATCH):
            batch = words(prompts[start : start + BATCH], return_tensors="pt", padding=True)
            batch.pop("token_type_ids", None)
            model.generate(**batch, do_sample=False, max_new_tokens=LIMIT)
    return len(prompts)


def main() -> None:
    data = recorded("pocket")
    questions = [q.text for q in data.split("test").queries]
    figures: dict[str, float] = {}
    print(f"{'model':14} {'greedy/s':>9} {'sampled/s':>9} {'generate/s':>10}  ({len(questions)} questions)")
    for model in data.pool.ids:
        folder = root() / "data" / "pocket" / "models" / model
        answer(folder, questions[:BATCH])  # warm
        rates = []
        for run in (
            lambda f=folder: answer(f, questions, batch=BATCH),
            lambda f=folder: answer(f, questions, batch=BATCH, temperature=0.7),
            lambda f=folder: plain(f, questions),
        ):
            started = time.perf_counter()
            run()
            rates.append(len(questions) / (time.perf_counter() - started))
        print(f"{model:14} {rates[0]:9.0f} {rates[1]:9.0f} {rates[2]:10.0f}")
        name = model.removeprefix("pocket-")
        figures |= {f"{name}_greedy_per_s": rates[0], f"{name}_sampled_per_s": rates[1]}
        figures[f"{name}_vs_generate"] = rates[0] / rates[2]
    print(json.dumps({k: round(v, 2) for k, v in figures.items()}))


if __name__ == "__main__":
    main()
