"""Record the embedded outcome table: what every embedded model really did on every held-out question.

A model abstains when its confidence lies below its threshold or its answer did not end in time. The threshold is set
once, on calibration questions that are in no split of the table, where `correct - WRONG x incorrect` is highest.
"""

import datetime as dt
import json
import platform
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from routerlab.core.outcomes import Grade, OutcomeTable
from routerlab.core.pools import ModelCard, Pool, PoolError
from routerlab.core.queries import Query, to_arrow
from routerlab.core.runs import Run, root, sha256, write_atomic
from routerlab.pocket import tasks
from routerlab.pocket.families import FAMILIES
from routerlab.pocket.generate import MAX_NEW_TOKENS, Reply, answer

IDK = "I don't know"
WRONG = 0.25  # what a wrong answer costs a model when it sets its threshold; silence costs nothing
TEMPERATURE, SAMPLES, SEED = 0.7, 4, 100
CALIBRATION = 12  # questions of each cell, none of them in the table; the table asks the rest
SPLITS = {"train": 0.55, "validation": 0.15, "test": 0.30}


def questions() -> tuple[list[Query], list[Query]]:
    """(calibration, table): held-out questions as queries; those of the table carry their split."""
    rng = np.random.default_rng(7)
    calibration, table = [], []
    for (family, level), indices in tasks.held_out().items():
        if not FAMILIES[family].asked:
            continue
        part = indices[CALIBRATION:]
        ends = np.rint(np.cumsum([0, *SPLITS.values()]) * len(part)).astype(int)
        names = rng.permutation(np.repeat(list(SPLITS), np.diff(ends)))
        calibration += [_query(family, level, i, "calibration") for i in indices[:CALIBRATION]]
        table += [_query(family, level, i, str(s)) for i, s in zip(part, names, strict=True)]
    return calibration, [table[i] for i in rng.permutation(len(table))]


def _query(family: str, level: int, index: int, split: str) -> Query:
    made = tasks.entry(family, level, index)
    meta = {"family": family, "level": level, "index": index}
    about: dict[str, Any] = {
        "verifier": "reasoning_gym",
        "source": "pocket",
        "split": split,
        "meta": meta,
    }
    return Query.ask(made["question"], made["answer"], **about)


def right(query: Query, reply: Reply) -> bool:
    """Whether the text of a reply is correct, by the scorer of the family."""
    if reply.finish != "stop":
        return False
    meta = query.meta
    return tasks.score(meta["family"], meta["level"], meta["index"], reply.text) == 1.0


def threshold(confidence: np.ndarray, correct: np.ndarray, wrong: float = WRONG) -> float:
    """The confidence below which abstaining pays: the cut with the highest mean of `correct - wrong x incorrect`."""
    order = np.argsort(-confidence, kind="stable")
    gain = np.cumsum(np.where(correct[order], 1.0, -wrong))
    best = int(np.argmax(gain))
    return float(confidence[order][best]) if gain[best] > 0 else 1.0


def replies(
    model: str,
    texts: list[str],
    sample: int = 0,
    temperature: float = 0.0,
    max_tokens: int = MAX_NEW_TOKENS,
    folder: Path | None = None,
) -> list[tuple[str, Reply]]:
    """Ask an embedded model now: (what it says, the abstention of its card applied; what it wrote).

    The same question, sample and temperature as in the table give the same answer as there; `folder` holds another
    pocket.
    """
    folder = folder or root() / "data" / "pocket"
    cards = json.loads((folder / "card.json").read_text())["models"]
    if model not in cards:
        raise PoolError(f"{model!r} is not an embedded model; there are {', '.join(cards)}")
    cut = cards[model]["abstain_below"]
    made = answer(
        folder / "models" / model,
        texts,
        temperature=temperature,
        seed=SEED + sample,
        max_tokens=min(max_tokens, MAX_NEW_TOKENS),
    )
    return [(IDK if r.finish != "stop" or r.confidence < cut else r.text, r) for r in made]


def ask(model: str, texts: list[str], folder: Path | None = None) -> list[str]:
    """What an embedded model says to each text (greedy)."""
    return [text for text, _ in replies(model, texts, folder=folder)]


def rows(
    card, queries: list[Query], replies: list[Reply], cut: float, sample: int, temperature: float
) -> dict[str, list]:
    """Outcome columns of one model's replies; an abstention is billed for what was written before it."""
    out: dict[str, list] = {}
    for query, reply in zip(queries, replies, strict=True):
        silent = reply.finish != "stop" or reply.confidence < cut
        good = not silent and right(query, reply)
        line = {
            "query": query.id,
            "grade": Grade.IDK if silent else Grade.CORRECT if good else Grade.INCORRECT,
            "quality": float(good),
            "answer": IDK if silent else reply.text,
            "usd": card.usd(reply.tokens_in, reply.tokens_out),
            "tokens_in": reply.tokens_in,
            "tokens_out": reply.tokens_out,
            "latency_s": round(reply.latency_s, 3),
            "model": card.id,
            "sample": sample,
            "temperature": temperature,
            "finish": reply.finish,
        }
        for name, value in line.items():
            out.setdefault(name, []).append(value)
    return out


def run_model(
    folder: Path,
    card: ModelCard,
    calibration: list[Query],
    table: list[Query],
    max_tokens: int = MAX_NEW_TOKENS,
) -> tuple[dict[str, list], dict]:
    """(outcome columns, card entry) of one model: its threshold first, then every question, greedy and sampled."""
    replies = answer(folder, [q.text for q in calibration], max_tokens=max_tokens)
    correct = np.array([right(q, r) for q, r in zip(calibration, replies, strict=True)])
    cut = threshold(np.array([r.confidence for r in replies]), correct)
    columns: dict[str, list] = {}
    for sample in range(1 + SAMPLES):
        heat = TEMPERATURE if sample else 0.0
        texts = [q.text for q in table]
        replies = answer(folder, texts, temperature=heat, seed=SEED + sample, max_tokens=max_tokens)
        for name, values in rows(card, table, replies, cut, sample, heat).items():
            columns.setdefault(name, []).extend(values)
    about = json.loads((folder / "recipe.json").read_text())
    entry = {
        "abstain_below": cut,
        "calibration_accuracy_without_abstention": float(correct.mean()),
        "parameters": about["parameters"],
        "questions_dropped_from_training": sum(about["held_out"].values()),
        "recipe": about["recipe"],
        "weights_sha256": sha256(folder / "model.safetensors"),
    }
    return columns, entry


def record(
    models: Path,
    run: Run,
    pool: Pool,
    say: Callable[[str], None] = print,
    limit: int | None = None,
    max_tokens: int = MAX_NEW_TOKENS,
) -> dict:
    """Run every model of the pool on every question and write queries, outcomes and a card; returns the card."""
    calibration, table = questions()
    table = table[:limit]
    columns: dict[str, list] = {}
    cards = {}
    for card in pool:
        made, cards[card.id] = _part(models, run, card, calibration, table, max_tokens)
        for name, values in made.items():
            columns.setdefault(name, []).extend(values)
        share = sum(made["quality"][: len(table)]) / len(table)
        cut = cards[card.id]["abstain_below"]
        say(f"{card.id}: {share:.3f} correct, abstains below {cut:.3f}")
    write(run, pool, columns, cards, table, len(calibration))
    return cards


def _part(models: Path, run: Run, card: ModelCard, calibration, table, max_tokens):
    """What `run_model` gives, kept in `parts/`: recording that was broken off goes on at the model
    it had reached, and a model that is trained again is the only one asked again.
    """
    path = run.folder / "parts" / f"{card.id}.parquet"
    weights = sha256(models / card.id / "model.safetensors")
    settings = [WRONG, TEMPERATURE, SAMPLES, max_tokens, len(calibration), repr(card)]
    stamp = json.dumps([weights, *settings, *(q.id for q in table)])
    if path.is_file():
        found = pq.read_table(path)
        about = json.loads(found.schema.metadata[b"about"])
        if about["stamp"] == stamp:
            recipe = json.loads((models / card.id / "recipe.json").read_text())["recipe"]
            return found.to_pydict(), about["entry"] | {"recipe": recipe}
    made, entry = run_model(models / card.id, card, calibration, table, max_tokens)
    about = {"about": json.dumps({"stamp": stamp, "entry": entry})}
    part = pa.table(made).replace_schema_metadata(about)
    write_atomic(path, lambda temporary: pq.write_table(part, temporary, compression="zstd"))
    return made, entry


def write(run: Run, pool: Pool, columns, cards, table: list[Query], calibrated: int) -> None:
    """Write queries, outcomes and the card that says how they were made."""
    outcomes = OutcomeTable(columns, pool.ids)
    run.write_table("queries.parquet", to_arrow(table))
    outcomes.write(run)
    made = {
        "pool": pool.name,
        "recorded": dt.date.today().isoformat(),
        "how": "make pocket: greedy (sample 0) and sampled answers of the models in models/, "
        "graded by the scorers of reasoning-gym",
        "sampling": {"samples": SAMPLES, "temperature": TEMPERATURE},
        "queries": {s: sum(q.split == s for q in table) for s in SPLITS},
        "calibration_queries": calibrated,
        "models": cards,
        "versions": {p: version(p) for p in ("torch", "transformers", "reasoning-gym", "numpy")}
        | {"python": platform.python_version()},
    }
    run.write("card.json", json.dumps(made, indent=1) + "\n")
