"""Forward and backward of a GRPO group with its prompt computed once, beside TRL's own step on padded rows.

Both compute log-probabilities and entropies of the completions by TRL's fused head, and the gradients of one loss; the
losses and the norms of the gradients are compared. The model has the proportions of Qwen2.5-0.5B at half its width, two
layers, random weights, and a vocabulary of 1,024 tokens: on a CPU TRL's head scores all tokens of a row and ours those
of completions, which with a large vocabulary would be another gain. On a CPU the seconds are those of one thread's own
time, each measured in a process of its own; other processes on the machine change them less than those of the clock.

Then a router that scores the 20 candidates of a pool for one question after the other (`CausalReader`): with the pool
kept from question to question, beside one row for each candidate.

    python benchmarks/prefix.py                    # 2,000 + 100 tokens, 8 and 16 completions
    python benchmarks/prefix.py --sweep            # other lengths as well; rewrites benchmarks/results/prefix.csv
    python benchmarks/prefix.py --device cuda      # 28 layers of Qwen2.5-1.5B in bfloat16; share of the card's peak

Prints a table, and as its last line one JSON object of named figures.
"""

import argparse
import json
import multiprocessing
import os
import resource
import time
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np
import pandas as pd
import torch
from transformers import AutoModelForCausalLM, Qwen2Config
from trl.trainer.utils import add_fused_lm_head, get_peak_flops

from routerlab.core.recorded import recorded
from routerlab.core.runs import root
from routerlab.pocket.generate import load
from routerlab.routers.lm import CausalReader
from routerlab.train.shared_prefix import share_prefixes

CPU = Qwen2Config(
    vocab_size=1024, hidden_size=448, intermediate_size=2432, num_hidden_layers=2, num_attention_heads=7,
    num_key_value_heads=1, max_position_embeddings=4096,
)  # fmt: skip
CUDA = Qwen2Config(
    vocab_size=151936, hidden_size=1536, intermediate_size=8960, num_hidden_layers=28, num_attention_heads=12,
    num_key_value_heads=2, max_position_embeddings=8192, tie_word_embeddings=True,
)  # fmt: skip
RESULTS = Path(__file__).parent / "results" / "prefix.csv"


def flops(config: Qwen2Config, prefix: int, completion: int, group: int, shared: bool) -> float:
    """Floating-point operations of a step: 6 a weight and token; for attention 4 width x pairs forward and 2.5 times
    that backward; for the head, of completions only, 8 a weight, since its backward pass computes the logits again.

    Args: the `config` of the model; tokens of the `prefix` and of each `completion`; their number (`group`); `shared`.
    """
    wide, kv = config.hidden_size, config.hidden_size * config.num_key_value_heads // config.num_attention_heads
    weights = config.num_hidden_layers * (2 * wide * (wide + kv) + 3 * wide * config.intermediate_size)
    if shared:
        tokens = prefix + group * completion
        pairs = prefix**2 / 2 + group * completion * (prefix + completion / 2)
    else:
        tokens = group * (prefix + completion)
        pairs = tokens * (prefix + completion) / 2
    head = 8 * config.vocab_size * wide * group * completion
    return 6 * weights * tokens + 14 * wide * config.num_hidden_layers * pairs + head


def step(model, batch: dict) -> tuple[float, float]:
    """One forward and backward; the loss and the norm of the gradients."""
    model.zero_grad(set_to_none=True)
    output = model(**batch, fused_lm_head=True)
    rows = len(batch["input_ids"])
    advantage = torch.linspace(-1, 1, rows, device=output.log_probs.device)[:, None]
    loss = -((output.log_probs - output.log_probs.detach()).exp() * advantage).sum() + output.log_probs.mean()
    loss.backward()
    norm = torch.stack([p.grad.float().norm() for p in model.parameters() if p.grad is not None]).norm()
    return float(loss.detach()), float(norm)


def in_process(model, batch: dict) -> tuple[float, float, float, float]:
    """(seconds of this thread, GB beyond what the process held before, loss, norm) of a step in a forked process."""
    receive, send = multiprocessing.Pipe(False)
    if not os.fork():
        held = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        started = time.process_time()
        loss, norm = step(model, batch)
        seconds = time.process_time() - started
        send.send((seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - held, loss, norm))
        os._exit(0)
    send.close()
    seconds, used, loss, norm = receive.recv()
    os.wait()
    return seconds, used / 1e9, loss, norm


def on_gpu(model, batch: dict) -> tuple[float, float, float, float]:
    """The same on a GPU, after a step that is not counted."""
    step(model, batch)
    torch.cuda.synchronize()
    held = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()
    loss, norm = step(model, batch)
    torch.cuda.synchronize()
    return time.perf_counter() - started, (torch.cuda.max_memory_allocated() - held) / 1e9, loss, norm


def batch_of(prefix: int, completion: int, group: int, vocabulary: int, device: str) -> dict:
    draw = torch.Generator().manual_seed(prefix + completion + group)
    prompt = torch.randint(1, vocabulary, (1, prefix), generator=draw).expand(group, -1)
    ids = torch.cat([prompt, torch.randint(1, vocabulary, (group, completion), generator=draw)], 1).to(device)
    labels = ids.clone()
    labels[:, :prefix] = -100
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


def scoring(model, questions: int = 20) -> dict[str, float]:
    """Milliseconds of a question to a pool of 20: one row a candidate, the pool kept, and the first with that pool."""
    data, folder = recorded("pocket"), root() / "data" / "pocket" / "models" / "pocket-nano"
    reader = CausalReader(model, load(folder)[1])
    cards = [replace(c, id=f"{c.id}-{i}") for i in range(4) for c in data.pool.cards][:20]
    asked = [q.text for q in data.split("validation").queries[: questions + 1]]
    seconds, read = [], []
    for shares, texts in ((False, asked[:4]), (True, asked[:1]), (True, asked[1:])):
        reader.shares = shares
        started = time.process_time()
        read.append(reader.read(texts, cards)[0])
        seconds.append((time.process_time() - started) / len(texts))
    np.testing.assert_allclose(np.vstack(read[1:])[:4], read[0], rtol=1e-3)
    rows, first, kept = (1000 * each for each in seconds)
    size = len(reader._prompt(asked[0], cards))
    print(
        f"20 candidates, a prompt of {size} tokens, milliseconds a question: {rows:.0f} in rows, {kept:.0f} with the",
        end="",
    )
    print(f" pool kept ({first:.0f} for its first question): {rows / kept:.1f} times as fast")
    return {"pool20_rows_ms": round(rows, 1), "pool20_kept_ms": round(kept, 1), "gain_pool20": round(rows / kept, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument(
        "--sweep", action="store_true", help="other lengths as well, each measured once; rewrites results/prefix.csv"
    )
    parser.add_argument("--repeats", type=int, default=3)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config, dtype = (CPU, torch.float32) if asked.device == "cpu" else (CUDA, torch.bfloat16)
    rows = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa").to(asked.device)
    add_fused_lm_head(rows, outputs=("log_probs", "entropy"))
    shared = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa").to(asked.device)
    shared.load_state_dict(rows.state_dict())
    add_fused_lm_head(shared, outputs=("log_probs", "entropy"))
    share_prefixes(shared)
    measure = in_process if asked.device == "cpu" else on_gpu
    peak = get_peak_flops(torch.cuda.get_device_name(), "bf16") if asked.device == "cuda" else None
    shapes = [(2000, 100, 8), (2000, 100, 16)]
    if asked.sweep:
        shapes += [(p, c, g) for p in (1000, 500, 250) for c in (25, 100) for g in (4, 8, 16)]
    print(f"load of the machine: {os.getloadavg()[0]:.1f} processes on {os.cpu_count()} cores; {asked.device}, {dtype}")
    print(f"{'prefix':>6} {'compl.':>6} {'G':>3} {'rows s':>8} {'shared s':>8} {'gain':>6} {'by FLOPs':>8}", end="")
    print(f" {'rows GB':>8} {'shared GB':>9}" + (f" {'of peak':>8}" if peak else ""))
    table = []
    for prefix, completion, group in shapes:
        batch = batch_of(prefix, completion, group, config.vocab_size, asked.device)
        repeats = asked.repeats if prefix == 2000 else 1
        pairs = [(measure(rows, batch), measure(shared, batch)) for _ in range(repeats)]
        for one, other in pairs:
            tolerance = 1e-3 if dtype == torch.float32 else 0.1
            assert abs(one[3] - other[3]) <= tolerance * abs(one[3]), "the gradients differ"
            assert abs(one[2] - other[2]) <= tolerance * abs(one[2]), "the losses differ"
        seconds = [median(pair[side][0] for pair in pairs) for side in (0, 1)]
        memory = [median(pair[side][1] for pair in pairs) for side in (0, 1)]
        work = [flops(config, prefix, completion, group, side) for side in (False, True)]
        gain = median(one[0] / other[0] for one, other in pairs)
        line = f"{prefix:6} {completion:6} {group:3} {seconds[0]:8.2f} {seconds[1]:8.2f} {gain:6.2f} "
        line += f"{work[0] / work[1]:8.2f} {memory[0]:8.2f} {memory[1]:9.2f}"
        if peak:
            line += f" {work[1] / seconds[1] / peak:8.1%}"
        print(line, flush=True)
        names = ("prefix", "completion", "group", "rows_seconds", "shared_seconds", "gain", "gain_by_flops", "rows_gb")
        values = (prefix, completion, group, *seconds, gain, work[0] / work[1], *memory)
        table.append(dict(zip((*names, "shared_gb"), values, strict=True)))
    frame = pd.DataFrame(table)
    if asked.sweep:
        with RESULTS.open("w", encoding="utf-8") as file:
            file.write(
                "# python benchmarks/prefix.py --sweep: forward and backward on one CPU thread, each measured once\n"
            )
            frame.round(3).to_csv(file, index=False)
    main_rows = frame[(frame.prefix == 2000) & (frame.completion == 100)].set_index("group")
    figures = {f"gain_g{g}": round(float(main_rows.gain[g]), 2) for g in (8, 16)}
    # Gains: seconds of padded rows in those of shared prefixes; the same for the memory that a step takes.
    if asked.device == "cpu":
        figures |= scoring(AutoModelForCausalLM.from_config(config, dtype=dtype))
    figures |= {f"memory_g{g}": round(float(main_rows.rows_gb[g] / main_rows.shared_gb[g]), 2) for g in (8, 16)}
    if peak:
        work = [flops(config, 2000, 100, g, True) / float(main_rows.shared_seconds[g]) / peak for g in (8, 16)]
        figures |= {f"share_of_peak_g{g}": round(w, 3) for g, w in zip((8, 16), work, strict=True)}
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
