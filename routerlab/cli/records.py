"""The verbs `data records` and `data tokens`: write records that train a router, and count their tokens."""

import argparse
import datetime as dt
import difflib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

import routerlab
from routerlab.cli.shared import flags_of, read_env
from routerlab.core.pools import Pool
from routerlab.core.queries import Query
from routerlab.core.recorded import Recorded
from routerlab.core.runs import Run, RunError, root, write_atomic
from routerlab.routers import prompts
from routerlab.train import records as make

REASON = "Say in one sentence what this question asks of whoever answers it. Do not answer it."
BATCH = 500  # records in memory at a time


def bands_of(given: argparse.Namespace) -> dict[str, str]:
    """The band of difficulty of each question of the reference run; prints how many are in each."""
    from routerlab.label.difficulty import difficulty

    if not given.reference:
        raise RunError("bands come from the pass rates of a reference model; name its run with --reference")
    table = routerlab.recorded(given.reference).table
    if not given.model and len(table.models) > 1:
        raise RunError(f"name the reference model with --model: one of {', '.join(table.models)}")
    bands = difficulty(table, given.model or next(iter(table.models)), temperature=given.at)["band"]
    print(", ".join(f"{name} {count}" for name, count in bands.value_counts().items()))
    return {str(query): str(band) for query, band in bands.items()}


def recipe_of(name: str, changes: Mapping[str, str]) -> make.Recipe:
    """The recipe in a YAML file, or of that name in `data/recipes/data`, with some fields changed (values are YAML)."""
    path = Path(name) if name.endswith(".yaml") else root() / "data" / "recipes" / "data" / f"{name}.yaml"
    if not path.is_file():
        raise make.RecordError(
            f"no recipe {path}; there are {', '.join(sorted(p.stem for p in path.parent.glob('*.yaml')))}"
        )
    read = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    read |= {key: yaml.safe_load(value) for key, value in changes.items()}
    known = [f.name for f in fields(make.Recipe)]
    for key in read:
        if key not in known:
            near = max(known, key=lambda name: difflib.SequenceMatcher(None, name, str(key)).ratio())
            raise make.RecordError(
                f"{path.name}: no field {key!r}, did you mean {near!r}? There are {', '.join(known)}"
            )
    return make.Recipe(**read)


def kinds_of(data: Recorded) -> list[str]:
    """The kind of each question: its category where all questions have one, else its cluster of alike questions."""
    from routerlab.routers.groups import KMeans
    from routerlab.routers.learned import CATEGORIES

    for name in CATEGORIES:
        if all(name in q.meta for q in data.queries):
            return [str(q.meta[name]) for q in data.queries]
    train = data.split("train")
    groups = KMeans().fit(train.queries, train.table)
    views = groups.features.views([q.text for q in data.queries])
    return [f"group {number}" for number in groups.probabilities(views).argmax(1)]  # pyright: ignore


def records(given: argparse.Namespace) -> int:
    """Write records, each with a pool of its own. They come from training questions alone; the leakage check stops the
    command if one of them has a near-duplicate outside the training split. Columns: `routerlab.train.records.schema`.
    """
    from routerlab.sources.benchmarks import load

    recipe, evidence, reasons = recipe_of(given.recipe, flags_of(given, "recipe")), None, {}
    if given.source:
        everything, pool, kinds = load(given.source), Pool.load(given.pool or "xrouter"), ["rl"]
    else:
        data = routerlab.recorded(given.table)
        everything, pool, kinds = data.queries, data.pool, given.kind.split(",")
        day = dt.date.fromisoformat(data.card["recorded"]) if "recorded" in data.card else pool.cards[0].as_of
        evidence = make.Evidence(data, kinds_of(data), day)
    queries = [q for q in everything if q.split == recipe.split]
    if recipe.bands:
        band = bands_of(given)
        queries = [q for q in queries if band.get(q.id) in recipe.bands]
    chosen = set(sorted(q.id for q in queries)[: recipe.most])
    queries = [q for q in queries if q.id in chosen]
    if not queries:
        raise make.RecordError(f"no question of split {recipe.split} is left; choose other bands, or another source")
    make.refuse_leaks(queries, everything)
    run = Run(given.out)
    if given.rationale:
        reasons = rationales(given, queries, pool, run)
    by_id = {q.id: q for q in queries}
    for kind in kinds:
        rows, shape = make.records(kind, queries, pool, recipe, evidence, reasons), make.schema(kind)
        if given.layout == "verl":
            rows, shape = (verl(row, by_id[row["query"]]) for row in rows), None
        path = run.write(f"{kind}.parquet", partial(stream, rows=rows, shape=shape))
        print(f"{path}: {pq.read_metadata(path).num_rows:,} records of {len(queries):,} questions")
    about = {"recipe": asdict(recipe), "pool": pool.name, "questions": len(queries), "layout": given.layout}
    about["left out"] = "system_prompt and temperature of calls: recorded answers do not depend on them"
    run.write("card.json", json.dumps(about, indent=1) + "\n")
    return 0


def stream(path: Path, rows: Iterable[dict[str, Any]], shape: pa.Schema | None = None) -> None:
    """Write rows to a Parquet file, a batch at a time; without a `shape` that of the first batch."""
    rows, writer = iter(rows), None
    while (batch := list(islice(rows, BATCH))) or writer is None:
        if not batch and shape is None:
            raise RunError("no records: no question has an outcome of every model of its pool")
        table = pa.Table.from_pylist(batch, shape)
        writer, shape = writer or pq.ParquetWriter(path, table.schema, compression="zstd"), table.schema
        writer.write_table(table)
    writer.close()


def verl(row: Mapping[str, Any], query: Query) -> dict[str, Any]:
    """A record in the published columns, which verl-style trainers read; what they do not name is in `extra_info`."""
    if "prompt" not in row or "chosen" in row:
        raise RunError("the published layout is of records for reinforcement learning; add --kind rl")
    return {
        "data_source": query.source,
        "prompt": json.loads(row["prompt"]),
        "ability": query.verifier,
        "apply_chat_template": True,
        "reward_model": {"style": "rule", "ground_truth": query.reference or ""},
        "extra_info": {k: v for k, v in row.items() if k not in {"prompt", "id", "set"}} | {"split": query.split},
        "id": row["id"],
        "model_set_type": row["set"],
    }


def rationales(given: argparse.Namespace, queries: Sequence[Query], pool: Pool, run: Run) -> dict[str, str]:
    """What a model writes about each question, by query id, from the question alone; every call is in the ledger of the
    run `RUN/rationales`. A text that tells the reference is dropped; the question then gets the counted rationale.
    """
    from routerlab.collect.backends import backend
    from routerlab.collect.run import collect
    from routerlab.collect.settings import Settings

    read_env()
    settings = Settings(system=REASON, contract="none", max_tokens=100, budget_usd=given.budget_usd)
    where = Run(run.folder / "rationales")
    asked = [replace(q, verifier="exact", reference=q.reference or "") for q in queries]
    done = collect(asked, pool.subset([given.rationale]), backend(given.backend), where, settings)
    if done.stopped:
        raise RunError(f"the rationales are not complete: {done.stopped}")
    texts = dict(
        zip((q.id for q in queries), done.table.select([q.id for q in asked]).text("answer")[:, 0], strict=True)
    )
    kept = {q.id: " ".join(t.split()) for q in queries if (t := texts[q.id]) and not tells(t, q)}
    refused = len(queries) - len(kept)
    print(f"{done}\n{len(kept):,} rationales of {given.rationale}; {refused:,} more told the answer or are empty")
    return kept


def tells(text: str, query: Query) -> bool:
    """Whether a text holds the reference, as words of their own, and the question does not."""
    secret = (query.reference or "").strip()
    standing = rf"(?<!\w){re.escape(secret)}(?!\w)"
    return bool(secret and re.search(standing, text, re.I) and not re.search(standing, query.text, re.I))


def lengths(rows: Iterable[Mapping[str, Any]], tokenizer: Any = None) -> Iterator[int]:
    """Tokens of each record, functions and replies included, by a tokenizer; without one, bytes / 4."""
    for row in rows:
        replies = [json.loads(row[name]) for name in ("chosen", "rejected") if row.get(name)] or [[]]
        messages, tools = json.loads(row.get("messages") or row["prompt"]), json.loads(row["tools"] or "[]")
        if tokenizer is None:
            size = [len(json.dumps([messages, reply, tools], ensure_ascii=False).encode()) // 4 for reply in replies]
        else:
            last = max(i for i, m in enumerate(messages) if m["role"] == "user")
            read = prompts.Prompt(messages[: last + 1], tools)
            question = messages[last]["content"][-row["question_chars"] :] if row["question_chars"] else ""
            size = [len(prompts.tokens(tokenizer, read, question, [*messages[last + 1 :], *r], False)) for r in replies]
        yield max(size)


def tokens(given: argparse.Namespace) -> int:
    """Print how many tokens records have, with their functions, and leave out those that are too long."""
    tokenizer = None
    if given.tokenizer:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(given.tokenizer, local_files_only=True)
    read = pq.ParquetFile(given.file)
    size = np.array([n for batch in read.iter_batches(BATCH) for n in lengths(batch.to_pylist(), tokenizer)])
    how = "tokens" if tokenizer else "tokens, estimated at 4 bytes each"
    marks = zip((0, 5, 50, 95, 99, 100), np.percentile(size, (0, 5, 50, 95, 99, 100)), strict=True)
    print(f"{len(size):,} records, {size.sum():,} {how}")
    print(", ".join(f"{mark} %: {int(value):,}" for mark, value in marks))
    if given.most:
        print(f"{(size > given.most).sum():,} records ({(size > given.most).mean():.1%}) have more than {given.most:,}")
    if given.out:
        short = iter((size <= (given.most or size.max())).tolist())
        rows = (row for batch in read.iter_batches(BATCH) for row in batch.to_pylist() if next(short))
        write_atomic(given.out, partial(stream, rows=rows, shape=read.schema_arrow))
    if given.figure:
        import pandas as pd

        from routerlab.figures.plots import distributions

        frame = pd.DataFrame({"tokens": size, "records": given.file.stem})
        title = f"Half of the records have up to {np.median(size):,.0f} {how}"
        distributions(title, frame, "tokens", "records", "Tokens of a record, functions included").savefig(given.figure)
    return 0
