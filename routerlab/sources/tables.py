"""Outcome tables others recorded: RouteLLM, RouterBench, MMLU-Pro, MT-Bench judgements, and any wide or long file.

Each importer gives a `Recorded`; `save` writes it as a run that `recorded(name)` opens. A missing outcome has no row.
A file without costs needs tokens, and a file without tokens needs to be told how to count them: nothing is guessed.
"""

import ast
import datetime as dt
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from routerlab.core.pools import Pool
from routerlab.core.queries import Query
from routerlab.core.recorded import Recorded, record
from routerlab.core.runs import Run
from routerlab.sources.files import SourceError, read_rows
from routerlab.sources.import_table import (
    Tokens,
    build,
    cells_from,
    need,
    numbers,
    pool_of,
    queries_of,
    read_frame,
    refuse_gaps,
)
from routerlab.sources.rows import mt_bench
from routerlab.sources.split import split

__all__ = [
    "known",
    "long",
    "mmlu_pro",
    "mt_bench_judgements",
    "pool_of",
    "routellm",
    "routerbench",
    "save",
    "wide",
]


def save(made: Recorded, run: Run | str | Path, shares: Mapping[str, float] | None = None) -> Recorded:
    """Write an imported table as a run; `shares` first splits its queries, near-duplicates together."""
    queries = split(made.queries, shares) if shares else made.queries
    return record(run, queries, made.pool, made.table, made.card)


def wide(
    path: str | Path,
    pool: Pool | str | Path,
    *,
    question: str,
    quality: str = "{model}",
    models: Sequence[str] | None = None,
    answer: str | None = None,
    verifier: str = "recorded",
    usd: str | None = None,
    tokens_in: Tokens = None,
    tokens_out: Tokens = None,
    text: str | None = None,
    keep: Sequence[str] = (),
    source: str | None = None,
) -> Recorded:
    """A table of one row a question, and columns for each model whose names are patterns such as `ok/{model}`.

    `quality` in [0, 1] (CORRECT from 0.5) or true and false; empty is missing. `usd` is what a call cost; without it
    the cost is the pool's prices times tokens, and `tokens_in` and `tokens_out` are columns, numbers, or a number for
    each model. Only `tokens_in="characters"` estimates: a token for every four characters of the question, rounded up.
    `text` are the answers, `keep` columns for meta.
    """
    frame = read_frame(path)
    models = list(models or _models(list(frame), quality))
    source = source or Path(path).stem
    need(frame, [question, *([answer] if answer else []), *keep], path)

    def read(pattern: str, kind: type) -> np.ndarray:
        columns = [pattern.format(model=m) for m in models]
        need(frame, columns, path)
        if kind is object:
            return frame[columns].to_numpy(object)
        return np.stack([numbers(frame[c], path) for c in columns], axis=1)

    queries = queries_of(frame, question, source, answer=answer, verifier=verifier, keep=keep)
    cells, counts = cells_from(read, quality, usd, text, tokens_in, tokens_out)
    return build(Path(path).name, queries, models, cells, counts, pool)


def _models(columns: Sequence[str], pattern: str) -> list[str]:
    if pattern.strip() == "{model}":
        raise SourceError("give models=[...]: with the pattern '{model}' any column could be one")
    match = re.compile(re.escape(pattern).replace(re.escape("{model}"), "(.+)"))
    found = [m[1] for c in columns if (m := match.fullmatch(str(c)))]
    if not found:
        raise SourceError(f"no column fits {pattern!r}; the columns are {', '.join(map(str, columns))[:300]}")
    return found


def long(
    path: str | Path,
    pool: Pool | str | Path,
    *,
    question: str,
    model: str = "model",
    quality: str = "quality",
    answer: str | None = None,
    verifier: str = "recorded",
    usd: str | None = None,
    tokens_in: Tokens = None,
    tokens_out: Tokens = None,
    text: str | None = None,
    keep: Sequence[str] = (),
    source: str | None = None,
) -> Recorded:
    """A table of one row a question and model; arguments as in `wide`, with names of columns for patterns. A pair that
    is not there is missing; one that is there twice is refused.
    """
    frame = read_frame(path)
    source = source or Path(path).stem
    need(frame, [question, model, *([answer] if answer else []), *keep], path)
    refuse_gaps(frame, question, path)
    refuse_gaps(frame, model, path)
    frame = frame.assign(**{model: frame[model].astype(str)})
    if (again := frame.duplicated([question, model])).any():
        row = int(np.flatnonzero(again)[0]) + 1
        raise SourceError(f"{path}: row {row} is a second outcome of one question and model; keep one of them")
    first = frame.drop_duplicates(question)
    models = list(dict.fromkeys(frame[model]))
    row_of = {q: i for i, q in enumerate(first[question])}
    column_of = {m: i for i, m in enumerate(models)}
    at = [row_of[q] for q in frame[question]], [column_of[m] for m in frame[model]]

    def read(column: str, kind: type) -> np.ndarray:
        need(frame, [column], path)
        out = np.full((len(first), len(models)), None if kind is object else np.nan, kind)
        out[at] = frame[column].to_numpy(object) if kind is object else numbers(frame[column], path)
        return out

    queries = queries_of(first, question, source, answer=answer, verifier=verifier, keep=keep)
    cells, counts = cells_from(read, quality, usd, text, tokens_in, tokens_out)
    return build(Path(path).name, queries, models, cells, counts, pool)


def known(path: str | Path, bench: str | None = None) -> Recorded:
    """A file of one of the kinds below, told by its columns. RouteLLM's has no tokens: those of the question are
    estimated (a token for every four characters) and an answer counts as one token, which its card says.
    """
    columns = dict.fromkeys(map(str, read_frame(path)))  # in the file's order, which is the models'
    if {"bench", "domain", "prompt"} <= columns.keys():
        return routellm(path, bench=bench, tokens_in="characters", tokens_out=1)
    if bench is not None:
        raise SourceError(f"{path} is not RouteLLM's table, so it has no bench {bench!r}")
    if {"query", "category", "q_tokens"} <= columns.keys():
        return mmlu_pro(path, "mmlupro")
    if costs := [c for c in columns if c.endswith("|total_cost")]:
        models = {c.removesuffix("|total_cost"): (0, 0) for c in costs}
        day = dt.date(2024, 3, 1)  # the month of the paper; its costs are in the file
        return routerbench(path, pool_of("routerbench", models, as_of=day, context=1))
    raise SourceError(
        f"{path} is no table of RouteLLM, MMLU-Pro or RouterBench; import it with sources.tables.wide or long, save it "
        f"as a run, and give the run's name"
    )


def routellm(
    path: str | Path,
    pool: Pool | str | Path = "routellm",
    *,
    bench: str | None = None,
    tokens_in: Tokens = None,
    tokens_out: Tokens = None,
) -> Recorded:
    """RouteLLM's MMLU and GSM8K table, or the part of one `bench`: true or false a model, and no tokens, so
    `tokens_in` and `tokens_out` have to be given (see `wide`).
    """
    frame = read_frame(path)
    need(frame, ["bench", "domain", "prompt"], path)
    if bench is not None and bench not in set(frame["bench"]):
        raise SourceError(f"no bench {bench!r} in {path}; it has {', '.join(frame['bench'].unique())}")
    frame = frame if bench is None else frame[frame["bench"] == bench]
    frame = frame.assign(prompt=frame["prompt"].str.removesuffix("\nAnswer:"))
    models = [c for c in frame if frame[c].dtype == bool]
    queries = queries_of(frame, "prompt", "routellm", keep=("bench", "domain"))
    cells = {"quality": frame[models].to_numpy(float)}
    counts: dict[str, Tokens] = {"tokens_in": tokens_in, "tokens_out": tokens_out}
    return build(Path(path).name, queries, models, cells, counts, pool)


def mmlu_pro(path: str | Path, pool: Pool | str | Path) -> Recorded:
    """MMLU-Pro, a wide table of `ok/<model>` and `out/<model>` (tokens), for the models of the pool. Its input tokens
    are those of the question alone, without the examples a model may have been shown.
    """
    pool = pool if isinstance(pool, Pool) else Pool.load(pool)
    return wide(
        path,
        pool,
        question="query",
        answer="gold",
        verifier="multiple_choice",
        models=pool.ids,
        quality="ok/{model}",
        tokens_in="q_tokens",
        tokens_out="out/{model}",
        keep=("category", "src"),
        source="mmlu-pro",
    )


def routerbench(path: str | Path, pool: Pool | str | Path) -> Recorded:
    """RouterBench's wide table: `<model>` (quality), `<model>|total_cost` (dollars, taken as they are),
    `<model>|model_response`. It records no tokens: they are 0 here, and the prices of the pool are not used.
    """
    frame = read_frame(path)
    models = [str(c).removesuffix("|total_cost") for c in frame if str(c).endswith("|total_cost")]
    if not models:
        raise SourceError(f"{path} has no column '<model>|total_cost', so it is not of RouterBench")
    need(frame, ["prompt", "eval_name", "sample_id", *models], path)
    frame = frame.assign(prompt=frame["prompt"].map(_unlisted))
    queries = queries_of(frame, "prompt", "routerbench", keep=("eval_name", "sample_id"))
    cells = {
        "quality": frame[models].to_numpy(float),
        "usd": frame[[f"{m}|total_cost" for m in models]].to_numpy(float),
    }
    if all(f"{m}|model_response" in frame for m in models):
        cells["answer"] = frame[[f"{m}|model_response" for m in models]].to_numpy(object)
    return build(Path(path).name, queries, models, cells, {"tokens_in": 0, "tokens_out": 0}, pool)


def _unlisted(prompt: str) -> str:
    """RouterBench writes prompts as a Python list of strings."""
    if not prompt.startswith(("['", '["')):
        return prompt
    try:
        return "\n".join(map(str, ast.literal_eval(prompt)))
    except (ValueError, SyntaxError):
        return prompt


def mt_bench_judgements(
    questions: str | Path,
    judgements: str | Path,
    pool: Pool | str | Path,
    *,
    tokens_in: Tokens,
    tokens_out: Tokens,
) -> Recorded:
    """MT-Bench scores of 1 to 10 by a judge, as FastChat and RouteLLM write them (question_id, model, score), for the
    models of the pool. Quality is (mean score of the turns - 1) / 9, so CORRECT means 5.5 and above; a score of -1, a
    judge that failed, is missing.
    """
    pool = pool if isinstance(pool, Pool) else Pool.load(pool)
    frame = read_frame(judgements)
    need(frame, ["question_id", "model", "score"], judgements)
    frame = frame[frame["model"].isin(pool.ids) & (frame["score"] > 0)]
    if absent := set(pool.ids) - set(frame["model"]):
        raise SourceError(f"no scores of {', '.join(sorted(absent))} in {judgements}; leave them out")
    scores = frame.pivot_table(index="question_id", columns="model", values="score", aggfunc="mean")
    found = [r for r in read_rows(questions) if r["question_id"] in scores.index]
    queries = []
    for row in found:
        text, reference, meta, _ = mt_bench(row, "test")
        queries.append(Query.ask(text, reference, verifier="judge", source="mt-bench", meta=meta))
    mean = scores.loc[[r["question_id"] for r in found], list(pool.ids)].to_numpy(float)
    counts: dict[str, Tokens] = {"tokens_in": tokens_in, "tokens_out": tokens_out}
    how = Path(judgements).name
    return build(how, queries, pool.ids, {"quality": (mean - 1) / 9}, counts, pool)
