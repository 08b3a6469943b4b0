"""What each verb of the command line does; results on stdout, progress on stderr, the exit status returned."""

import argparse
import sys

import routerlab


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def run(given: argparse.Namespace) -> int:
    """Run the numbered notebooks with papermill and print a table of how they went. A parameter that no notebook
    declares is an error; the exit status is 1 if any notebook failed."""
    from routerlab import book

    paths = book.notebooks(given.only.split(","))
    values = {name: book.literal(value) for name, value in given.values}
    values = {"profile": given.profile, **values}
    folder = given.out.resolve() if given.out else book.root() / "data" / "runs" / "book"
    done = book.run(paths, values, folder=folder, say=_say)
    print(book.summary(done))
    failed = [d.error for d in done if d.error]
    if given.update and not failed:
        for path in paths:
            book.update(folder / path.name, path)
    if failed:
        _say(
            f"routerlab: {len(failed)} of {len(done)} notebooks failed: {'; '.join(failed)}. The "
            f"executed copies are in {folder}"
        )
    return 1 if failed else 0


def tidy(given: argparse.Namespace) -> int:
    """Drop stderr, timings, widget state and injected cells from notebooks and renumber their cells."""
    from routerlab import book

    paths = given.paths or book.notebooks()
    changed = [path for path in paths if book.tidy(path, write=not given.check)]
    for path in changed:
        print(f"{path.name}: {'not tidy' if given.check else 'tidied'}")
    if given.check and changed:
        _say("routerlab: run `routerlab tidy` and commit the result")
    return 1 if given.check and changed else 0


def show(given: argparse.Namespace) -> int:
    """Print a recorded table's size and, for each model, its grades, cost per 1,000 queries, tokens and latency."""
    found = routerlab.recorded(given.table)
    found = found.split(given.split) if given.split else found
    print(found.table)
    print(found.table.summary().to_string(float_format="{:.4g}".format))
    return 0


def collect(given: argparse.Namespace) -> int:
    """Fill an outcome table. Every answer is written down before anything else is done with it; started
    again, the same command goes on where it stopped and asks nothing twice. The exit status is 3 if the
    run stopped before its end."""
    from routerlab.collect.ask import Settings
    from routerlab.collect.backends import backend
    from routerlab.collect.collect import collect
    from routerlab.sources.benchmarks import load

    pool = routerlab.Pool.load(given.pool)
    settings = Settings(
        samples=given.samples,
        temperature=given.temperature,
        max_tokens=given.max_tokens,
        budget_usd=given.budget_usd,
        concurrency=given.concurrency,
        requests_per_minute=given.rpm,
        tokens_per_minute=given.tpm,
    )
    chosen = pool
    if given.models:
        chosen = pool.subset(given.models if given.models in pool.sets else given.models.split(","))
    where = backend(given.backend)
    judge = (pool.subset([given.judge]), backend(given.backend)) if given.judge else None
    queries = load(given.source, limit=given.limit)
    run = routerlab.Run(given.run)
    done = collect(queries, chosen, where, run, settings, judge=judge, sandbox=given.sandbox)
    print(done)
    if done.stopped:
        _say(f"routerlab: {done.stopped}")
    return 3 if done.stopped else 0


def data(given: argparse.Namespace) -> int:
    """List the benchmarks by name, or put near-duplicate questions of a source into one split and print
    the leakage that its own splits had."""
    from routerlab.sources import benchmarks, split

    if given.what == "list":
        print(benchmarks.listing())
        return 0
    queries = benchmarks.load(given.source)
    print(split.leakage(queries))
    made = split.split(queries)
    print(split.leakage(made))
    if given.out:
        from routerlab.queries import to_arrow

        routerlab.Run(given.out.parent).write_table(given.out.name, to_arrow(made))
    return 0


def evaluate(given: argparse.Namespace) -> int:
    """Fit routers on the training split of a recorded table, choose their operating points on validation, and score
    them on the test split: the area under each frontier, what it saves at the best single model's quality, and how it
    differs from that model, with 95 % intervals."""
    from routerlab.evaluate.stats import Interval
    from routerlab.routers.contest import KINDS, contest
    from routerlab.routers.encoder import Encoder
    from routerlab.routers.features import Tfidf

    if given.routers == "list":
        print("\n".join(KINDS))
        return 0
    data = _table(given.table, given.bench)
    cache = routerlab.runs.root() / "data" / "runs" / "embeddings"
    features = Encoder(given.encoder, cache) if given.encoder else Tfidf()
    names = given.routers if given.routers == "all" else given.routers.split(",")
    rival = _rival(given.against, KINDS if names == "all" else names, features)
    made = contest(data, names, features=features, seed=given.seed, trainings=given.trainings, say=_say)
    low, high = (1000 * usd for usd in made.ends)
    models, single = made.models(), made.single
    right = Interval(*(float(x[single]) for x in (models.quality, models.quality_low, models.quality_high)))
    print(f"{made.test.table}, features {features.name}")
    if {"usd", "tokens_in", "tokens_out"} <= data.card.keys():  # of an imported table
        print(_cost(data.card))
    print(
        f"best single model in training: {made.test.table.models[single]}, right on {right} of the test at "
        f"US$ {1000 * models.usd[single]:.4g} per 1,000; areas from US$ {low:.4g} to {high:.4g}"
    )
    summary = made.table()
    print(summary.map(lambda v: f"{v:.3g}" if isinstance(v, float) else str(v)).to_string())
    print(
        "area: mean quality over those costs; saving: of that model's cost, at its quality; frugal and best: points "
        "chosen on\nvalidation, quality as a difference to that model, saving as a share of its cost; [95 % intervals]"
    )
    if made.quality.shape[1] == 2:
        print(made.two_models().to_string(float_format="{:.4f}".format))
        stronger = made.test.table.models[single]
        print(f"APGR and CPT: RouteLLM's, over the share of calls to {stronger}; no intervals")
    for router, beaten_by in made.dominated().items():
        if beaten_by:
            print(f"{router} is dominated by always calling {' or '.join(beaten_by)}")
    rival = rival or made.chosen()[0].name  # the best on validation, not on the test
    if versus := made.against(rival):
        print("differences of quality at the frugal points:")
    for line in versus:
        print(f"against {rival}, {line}")
    for router, why in made.left_out.items():
        _say(f"{router} is left out: {why}")
    if given.out:
        from routerlab.routers.breakdown import keep

        print(f"kept in {keep(made, routerlab.Run(given.out), summary)}")
    return 0


def _rival(name: str | None, kinds, features) -> str | None:
    """The name a router has in the results, found before minutes are spent on them."""
    from routerlab.routers.contest import KINDS
    from routerlab.routers.protocol import RouterError

    shown = {kind: KINDS[kind](features).name for kind in kinds if kind in KINDS}
    name = shown.get(name or "", name)
    if name and shown and name not in shown.values() and not name.endswith("lookup (told)"):
        have = ", ".join(shown.values())
        raise RouterError(f"no router {name!r} in this contest; it has {have}")
    return name


def _table(name: str, bench: str | None):
    from pathlib import Path

    from routerlab.sources import tables

    if not Path(name).is_file():
        if bench:
            raise tables.SourceError(f"{name} is no file of RouteLLM's; leave out --bench {bench}")
        return routerlab.recorded(name)
    made = tables.known(name, bench)
    dropped = [f"{made.card[f'{why}_questions_dropped']} {why}" for why in ("repeated", "unanswered")]
    _say(f"{name}: {made.table}; questions dropped: {', '.join(dropped)}")
    return made


def _cost(card: dict) -> str:
    """How an imported table knows what its calls cost."""
    if card["usd"] == "recorded":
        return "cost: recorded"
    rules = {"recorded": "recorded", "characters": "estimated, one every four characters"}
    given, written = (rules.get(n) or f"taken as {n}" for n in (str(card["tokens_in"]), str(card["tokens_out"])))
    return f"cost: {card['usd']}; tokens of a question {given}; tokens of an answer {written}"


def pools(given: argparse.Namespace) -> int:
    """Compare a pool's dated prices with those litellm and genai-prices carry, and print every
    disagreement and what they do not know; the exit status is 1 if there is a disagreement."""
    from routerlab.sources import prices

    found = prices.check(routerlab.Pool.load(given.pool))
    print(prices.report(found))
    return int(any(d.theirs is not None for d in found))


def pocket(given: argparse.Namespace) -> int:
    """Train every embedded model that has no weights yet, then record what each does on the held-out questions.
    The committed files make this unnecessary; it is here so that they can be made again from seeds."""
    from routerlab.pocket.make import make

    folder = given.out.resolve() if given.out else routerlab.runs.root() / "data" / "pocket"
    make(folder, quick=given.quick, again=given.again, threads=given.threads, say=_say)
    return 0
