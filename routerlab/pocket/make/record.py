"""Record the embedded outcome table: the answers of every embedded model to every held-out question.

A model abstains when its confidence lies below its threshold or its answer exceeds the token limit. The threshold
maximises the mean of `correct - WRONG x incorrect` on calibration questions, which are in no split of the table.
"""

import datetime as dt
import json
import platform
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from routerlab.core.outcomes import Grade, OutcomeTable
from routerlab.core.pools import ModelCard, Pool, PoolError
from routerlab.core.queries import Query, to_arrow
from routerlab.core.runs import Run, read_json, root, sha256, write_atomic
from routerlab.pocket import tasks
from routerlab.pocket.families import FAMILIES
from routerlab.pocket.generate import MAX_NEW_TOKENS, Reply, answer

IDK = "I don't know"
WRONG = 0.25  # penalty of a wrong answer when a threshold is set; an abstention has none
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
        asked = indices[CALIBRATION:]
        ends = np.rint(np.cumsum([0, *SPLITS.values()]) * len(asked)).astype(int)
        names = rng.permutation(np.repeat(list(SPLITS), np.diff(ends)))
        calibration += [_query(family, level, i, "calibration") for i in indices[:CALIBRATION]]
        table += [_query(family, level, i, str(s)) for i, s in zip(asked, names, strict=True)]
    return calibration, [table[i] for i in rng.permutation(len(table))]


def more() -> list[Query]:
    """Up to 20,000 further training questions; none has the key of a held-out one."""
    return [_query(*name, "train") for name in tasks.further()]


def _query(family: str, level: int, index: int, split: str) -> Query:
    question = tasks.entry(family, level, index)
    meta = {"family": family, "level": level, "index": index}
    about: dict[str, Any] = {"verifier": "reasoning_gym", "source": "pocket", "split": split, "meta": meta}
    return Query.ask(question["question"], question["answer"], **about)


def right(query: Query, reply: Reply) -> bool:
    """Whether the text of a reply is correct, by the scorer of the family."""
    family, level, index = (query.meta[key] for key in ("family", "level", "index"))
    return reply.finish == "stop" and tasks.score(family, level, index, reply.text) == 1.0


def threshold(confidence: np.ndarray, correct: np.ndarray, wrong: float = WRONG) -> float:
    """The confidence below which a model should abstain: the cut with the highest mean of
    `correct - wrong x incorrect`, where an abstention counts 0.
    """
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
    """Ask an embedded model now. The same question, sample and temperature as in the table give the same answer.

    Args:
        model: its id.
        texts: the questions.
        sample: which of several tries, 0 for the greedy one.
        temperature: 0 is greedy.
        max_tokens: of each answer, worked steps included.
        folder: of the models and their card; by default `data/pocket`.

    Returns:
        For each question the answer, an abstention below the threshold on the model's card, and what the model wrote.
    """
    folder = folder or root() / "data" / "pocket"
    cards = read_json(folder / "card.json")["models"]
    if model not in cards:
        raise PoolError(f"{model!r} is not an embedded model; there are {', '.join(cards)}")
    cut, limit = cards[model]["abstain_below"], min(max_tokens, MAX_NEW_TOKENS)
    written = answer(folder / "models" / model, texts, temperature=temperature, seed=SEED + sample, max_tokens=limit)
    return [(IDK if abstains(r, cut) else r.text, r) for r in written]


def abstains(reply: Reply, cut: float) -> bool:
    """Whether a reply counts as an abstention: cut off at the token limit, or less confident than the threshold."""
    return reply.finish != "stop" or reply.confidence < cut


def ask(model: str, texts: list[str], folder: Path | None = None) -> list[str]:
    """The greedy answer of an embedded model to each text."""
    return [text for text, _ in replies(model, texts, folder=folder)]


def rows(
    card: ModelCard, queries: list[Query], replies: list[Reply], cut: float, sample: int, temperature: float
) -> Iterator[dict[str, Any]]:
    """Outcomes of one model's replies; the tokens of an abstention are billed, too.

    Args:
        card: of the model.
        queries: what was asked.
        replies: what it wrote, in the same order.
        cut: its threshold of confidence.
        sample: which of several tries.
        temperature: of this try.
    """
    for query, reply in zip(queries, replies, strict=True):
        abstained = abstains(reply, cut)
        good = not abstained and right(query, reply)
        yield {
            "query": query.id,
            "grade": Grade.IDK if abstained else Grade.CORRECT if good else Grade.INCORRECT,
            "quality": float(good),
            "answer": IDK if abstained else reply.text,
            "usd": card.usd(reply.tokens_in, reply.tokens_out),
            "latency_s": round(reply.latency_s, 3),
            **{"model": card.id, "sample": sample, "temperature": temperature},
            **{name: getattr(reply, name) for name in ("tokens_in", "tokens_out", "finish")},
        }


def record(
    models: Path,
    run: Run,
    pool: Pool,
    say: Callable[[str], None] = print,
    limit: int | None = None,
    max_tokens: int = MAX_NEW_TOKENS,
) -> dict:
    """Ask every model of the pool every question; write queries, outcomes and a card that says how.

    Args:
        models: the folder of their weights.
        run: where the table goes.
        pool: the models and their prices.
        say: takes a progress line for each model.
        limit: only the first so many questions.
        max_tokens: of each answer.

    Returns:
        The card's entry of each model.
    """
    calibration, table = questions()
    table, outcomes, cards = table[:limit], [], {}
    for card in pool:
        theirs, cards[card.id] = _kept(models / card.id, run, card, (calibration, table), max_tokens)
        outcomes += theirs
        share = sum(outcome["quality"] for outcome in theirs[: len(table)]) / len(table)
        say(f"{card.id}: {share:.3f} correct, abstains below {cards[card.id]['abstain_below']:.3f}")
    columns = {name: [outcome[name] for outcome in outcomes] for name in outcomes[0]}
    run.write_table("queries.parquet", to_arrow(table))
    OutcomeTable(columns, pool.ids).write(run)
    about = {
        "pool": pool.name,
        "recorded": dt.date.today().isoformat(),
        "how": "make pocket: greedy (sample 0) and sampled answers of the models in models/, "
        "graded by the scorers of reasoning-gym",
        "sampling": {"samples": SAMPLES, "temperature": TEMPERATURE},
        "queries": {s: sum(q.split == s for q in table) for s in SPLITS},
        "calibration_queries": len(calibration),
        "models": cards,
        "versions": {p: version(p) for p in ("torch", "transformers", "reasoning-gym", "numpy")}
        | {"python": platform.python_version()},
    }
    run.write("card.json", json.dumps(about, indent=1) + "\n")
    return cards


def _kept(
    folder: Path, run: Run, card: ModelCard, asked: tuple[list[Query], list[Query]], max_tokens: int
) -> tuple[list[dict[str, Any]], dict]:
    """One model's outcomes and its entry in the card of the table, kept in `parts/`: an interrupted recording continues
    with the model it had reached, and only a model that was trained again is asked again.

    Args:
        folder: of its weights.
        run: of the table.
        card: its prices and id.
        asked: the queries that set its threshold, and those of the table.
        max_tokens: of each answer.
    """
    path, weights = run.folder / "parts" / f"{card.id}.parquet", sha256(folder / "model.safetensors")
    calibration, table = asked
    settings = [WRONG, TEMPERATURE, SAMPLES, max_tokens, len(calibration), repr(card)]
    stamp = json.dumps([weights, *settings, *(q.id for q in table)])
    trained = json.loads((folder / "recipe.json").read_text("utf-8"))
    if path.is_file():
        earlier = pq.read_table(path)
        about = json.loads(earlier.schema.metadata[b"about"])
        if about["stamp"] == stamp:
            return earlier.to_pylist(), about["entry"] | {"recipe": trained["recipe"]}
    replies = answer(folder, [q.text for q in calibration], max_tokens=max_tokens)
    correct = np.array([right(q, r) for q, r in zip(calibration, replies, strict=True)])
    cut = threshold(np.array([r.confidence for r in replies]), correct)
    outcomes, texts = [], [q.text for q in table]
    for sample in range(1 + SAMPLES):  # greedy, then sampled
        heat = TEMPERATURE if sample else 0.0
        replies = answer(folder, texts, temperature=heat, seed=SEED + sample, max_tokens=max_tokens)
        outcomes += rows(card, table, replies, cut, sample, heat)
    entry = {
        "abstain_below": cut,
        "calibration_accuracy_without_abstention": float(correct.mean()),
        "parameters": trained["parameters"],
        "questions_dropped_from_training": sum(trained["held_out"].values()),
        "recipe": trained["recipe"],
        "weights_sha256": weights,
    }
    about = {"about": json.dumps({"stamp": stamp, "entry": entry})}
    part = pa.Table.from_pylist(outcomes).replace_schema_metadata(about)
    write_atomic(path, lambda temporary: pq.write_table(part, temporary, compression="zstd"))
    return outcomes, entry
