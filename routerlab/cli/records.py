"""What the verb `data` does: questions of benchmarks, their splits and bands, and records that train a router."""

import argparse
import datetime as dt
import json
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from jsonschema import Draft202012Validator

from routerlab.cli.shared import flags_of, read_env
from routerlab.collect.backends import backend
from routerlab.collect.run import collect
from routerlab.collect.settings import Settings
from routerlab.core.pools import Pool
from routerlab.core.queries import Query, by_split, to_arrow
from routerlab.core.recorded import Recorded, recorded, refuse_recorded
from routerlab.core.runs import Run, RunError, root, write_atomic
from routerlab.label.difficulty import difficulty
from routerlab.routers import prompts
from routerlab.routers.groups import KMeans
from routerlab.routers.learned import CATEGORIES
from routerlab.sources import benchmark_specs, benchmarks
from routerlab.sources.split import leakage
from routerlab.sources.split import split as again
from routerlab.train import records as make
from routerlab.train.settings import TrainError, parse, read_yaml, refuse_unknown

REASON = "Say in one sentence what this question asks of whoever answers it. Do not answer it."
BATCH = 500  # records in memory at a time
SCHEMA = yaml.safe_load(Path(make.__file__).with_name("recipe.yaml").read_text(encoding="utf-8"))


def bands_of(given: argparse.Namespace) -> dict[str, str]:
    """The band of difficulty of each question of the reference run; prints how many are in each."""
    if not given.reference:
        raise RunError("bands come from the pass rates of a reference model; name its run with --reference")
    table = recorded(given.reference).table
    if not given.model and len(table.models) > 1:
        raise RunError(f"name the reference model with --model: one of {', '.join(table.models)}")
    bands = difficulty(table, given.model or next(iter(table.models)), temperature=given.at)["band"]
    print(", ".join(f"{name} {count}" for name, count in bands.value_counts().items()))
    return {str(query): str(band) for query, band in bands.items()}


def data(given: argparse.Namespace) -> int:
    """Fetch, split and filter questions, and make records of them that train a router."""
    return globals()[given.what](given)


def listing(_: argparse.Namespace) -> int:
    """The verb `data list`."""
    print(benchmarks.listing())
    return 0


def download(given: argparse.Namespace) -> int:
    """The verb `data download`."""
    known = benchmark_specs.benchmarks()
    splits = known[given.benchmark].known_splits if given.benchmark in known else [""]
    names = ",".join(f"{given.benchmark}:{split}".rstrip(":") for split in splits)
    return _write(given.out or given.benchmark, benchmarks.load(names, folder=given.folder))


def split(given: argparse.Namespace) -> int:
    """The verb `data split`."""
    queries = benchmarks.load(given.source, folder=given.folder)
    print("before:", leakage(queries))
    queries = again(queries, given.shares)
    print("after:", leakage(queries))
    return _write(given.out.parent, queries, given.out.name) if given.out else 0


def _write(run: str | Path, queries: Sequence[Query], name: str = "queries.parquet") -> int:
    where = Run(run)
    if name == "queries.parquet" or (where.folder / name).exists():
        refuse_recorded(where)
    path = where.write_table(name, to_arrow(queries))
    print(f"{path}: {', '.join(f'{s} {len(qs)}' for s, qs in by_split(queries).items())}")
    return 0


def keep_bands(given: argparse.Namespace) -> int:
    """The verb `data filter`."""
    band, wanted = bands_of(given), given.band.split(",")
    queries = [q for q in recorded(given.reference).queries if band[q.id] in wanted]
    if not queries:
        raise RunError(f"no question is in band {given.band}; there are {', '.join(sorted(set(band.values())))}")
    return _write(given.out, queries)


def recipe_of(name: str, changes: Mapping[str, str]) -> make.Recipe:
    """The recipe in a YAML file, or of that name in `data/recipes/data`, with some fields changed (values are YAML)."""
    if not (read := read_yaml(root() / "data" / "recipes" / "data", name)):
        raise TrainError(f"recipe {name!r} is empty; data/recipes/data/pocket.yaml shows what one says")
    read, known = read | {key: parse(value) for key, value in changes.items()}, asdict(make.Recipe())
    refuse_unknown(read, known, f"recipe {name!r}")
    if isinstance(read.get("lam"), int | float):
        read["lam"] = [read["lam"]] * 2
    for error in Draft202012Validator(SCHEMA).iter_errors(read):
        key = str(error.path[0])
        raise TrainError(
            f"recipe {name!r}: {key} is {read[key]!r} ({error.message}); give a value such as {known[key]!r}"
        )
    if read.get("lam", [0, 0]) != sorted(read.get("lam", [0, 0])) or sum(read.get("sets", {}).values()) > 1 + 1e-9:
        raise TrainError(f"recipe {name!r}: lam goes from least to most, and the shares of sets are at most 1 together")
    return make.Recipe(**read)


def kinds_of(data: Recorded) -> list[str]:
    """The kind of each question: its category where all questions have one, else its cluster of alike questions."""
    for name in CATEGORIES:
        if all(name in q.meta for q in data.queries):
            return [str(q.meta[name]) for q in data.queries]
    train = data.split("train")
    groups = KMeans().fit(train.queries, train.table)
    views = groups.features.views([q.text for q in data.queries])
    return [f"group {number}" for number in groups.probabilities(views).argmax(1)]  # pyright: ignore


def records(given: argparse.Namespace) -> int:
    """The verb `data records`."""
    recipe, evidence, reasons = recipe_of(given.recipe, flags_of(given, "recipe")), None, {}
    if given.pool and not given.source:
        raise RunError("--pool is for questions without outcomes; name these with --source, or leave --pool out")
    if given.source:
        everything, pool, kinds = benchmarks.load(given.source), Pool.load(given.pool or "xrouter"), ["rl"]
    else:
        data = recorded(given.table)
        everything, pool, kinds = data.queries, data.pool, given.kind.split(",")
        day = dt.date.fromisoformat(data.card["recorded"]) if "recorded" in data.card else pool.cards[0].as_of
        evidence = make.Evidence(data, kinds_of(data), day)
    queries = sorted((q for q in everything if q.split == recipe.split), key=lambda q: q.id)
    if recipe.bands:
        band = bands_of(given)
        queries = [q for q in queries if band.get(q.id) in recipe.bands]
    if not (queries := queries[: recipe.most]):
        raise TrainError(f"no question of split {recipe.split} is left; choose other bands, or another source")
    make.refuse_leaks(queries, everything)
    shapes, by_id = {kind: make.schema(kind) for kind in kinds}, {q.id: q for q in queries}

    def rows(kind: str) -> Iterator[dict[str, Any]]:
        each = make.records(kind, queries, pool, recipe, evidence, reasons)
        return (verl(row, by_id[row["query"]]) for row in each) if given.layout == "verl" else each

    run = refuse_recorded(Run(given.out))
    if given.rationale:
        for kind in kinds:
            next(rows(kind), None)  # what is wrong with a recipe is found before a call is paid
        reasons = rationales(given, queries, pool, run)
    with TemporaryDirectory() as folder:  # nothing of the run is written before all its records are made
        for kind, shape in shapes.items():
            stream(Path(folder) / kind, rows(kind), shape if given.layout == "routerlab" else None)
        for kind in kinds:
            path = run.write(f"{kind}.parquet", partial(shutil.copyfile, Path(folder) / kind))
            print(f"{path}: {pq.read_metadata(path).num_rows:,} records of {len(queries):,} questions")
    about = {"recipe": asdict(recipe), "pool": pool.name, "questions": len(queries), "layout": given.layout}
    about["left out"] = "system_prompt and temperature of calls: recorded answers do not depend on them"
    run.write("card.json", json.dumps(about, indent=1) + "\n")
    return 0


def stream(path: Path, rows: Iterable[dict[str, Any]], shape: pa.Schema | None = None) -> None:
    """Write rows to a Parquet file, a batch at a time; without a `shape` that of the first batch."""
    rows = iter(rows)
    batch = list(islice(rows, BATCH))
    if not batch and shape is None:
        raise RunError("no records: no question has an outcome of every model of its pool")
    table = pa.Table.from_pylist(batch, shape)
    with pq.ParquetWriter(path, table.schema, compression="zstd") as writer:
        writer.write_table(table)
        while batch := list(islice(rows, BATCH)):
            writer.write_table(pa.Table.from_pylist(batch, table.schema))


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
    read_env()
    settings = Settings(system=REASON, contract="none", max_tokens=100, budget_usd=given.budget_usd)
    where = Run(run.folder / "rationales")
    asked = [replace(q, verifier="exact", reference=q.reference or "") for q in queries]
    done = collect(asked, pool.subset([given.rationale]), backend(given.backend), where, settings)
    if done.stopped:
        raise RunError(f"the rationales are not complete: {done.stopped}")
    texts = done.table.select([q.id for q in asked]).text("answer")[:, list(done.table.models).index(given.rationale)]
    kept = {q.id: " ".join(t.split()) for q, t in zip(queries, texts, strict=True) if t and not tells(t, q)}
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
            yield max(len(json.dumps([messages, r, tools], ensure_ascii=False).encode()) // 4 for r in replies)
        else:
            asked = next(m["content"] for m in reversed(messages) if m["role"] == "user")
            question = asked[len(asked) - row["question_chars"] :]
            yield max(len(prompts.tokens(tokenizer, [*messages, *r], tools, False, question)) for r in replies)


def tokens(given: argparse.Namespace) -> int:
    """The verb `data tokens`."""
    tokenizer = None
    if given.tokenizer:
        from transformers import AutoTokenizer

        try:
            tokenizer = AutoTokenizer.from_pretrained(given.tokenizer, local_files_only=True)
        except (OSError, ValueError) as error:
            why = str(error).splitlines()[0]
            raise RunError(f"no tokenizer in {given.tokenizer}; give the folder of a model ({why})") from error
    read = pq.ParquetFile(given.file)
    if not {"tools", "question_chars"} <= {*read.schema_arrow.names} or not read.metadata.num_rows:
        raise RunError(f"{given.file} holds no records of this package; write some with `routerlab data records`")
    size = np.array([n for batch in read.iter_batches(BATCH) for n in lengths(batch.to_pylist(), tokenizer)])
    how = "tokens" if tokenizer else "tokens, estimated at 4 bytes each"
    marks = [0, 5, 50, 95, 99, 100]
    print(f"{len(size):,} records, {size.sum():,} {how}")
    print(", ".join(f"{m} %: {int(value):,}" for m, value in zip(marks, np.percentile(size, marks), strict=True)))
    long = size > (given.most or size.max())
    if given.most:
        print(f"{long.sum():,} records ({long.mean():.1%}) have more than {given.most:,}")
    if given.out:
        drop = iter(long.tolist())
        rows = (row for batch in read.iter_batches(BATCH) for row in batch.to_pylist() if not next(drop))
        write_atomic(given.out, partial(stream, rows=rows, shape=read.schema_arrow))
    if given.figure:
        import pandas as pd

        from routerlab.figures.plots import distributions

        frame = pd.DataFrame({"tokens": size, "records": given.file.stem})
        title = f"Half of the records have up to {np.median(size):,.0f} {how}"
        drawn = distributions(title, frame, "tokens", "records", "Tokens of a record, functions included")
        try:
            drawn.savefig(given.figure)
        except ValueError as error:
            raise RunError(f"{given.figure} cannot be drawn ({error}); name a file such as lengths.svg") from error
    return 0
