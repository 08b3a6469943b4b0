"""The verbs that fit and score routers: on one table, and on many."""

import argparse
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import routerlab
from routerlab.cli.shared import say
from routerlab.contest import breakdown, two_models, verdict
from routerlab.contest import leaderboard as board
from routerlab.contest.run import KINDS, contest
from routerlab.contest.setup import with_splits
from routerlab.core.runs import root
from routerlab.evaluate.frontier import lam_grid
from routerlab.evaluate.looking import looking
from routerlab.evaluate.stats import Interval
from routerlab.routers.cascade import answer_codes, signs_of
from routerlab.routers.encoder import Encoder
from routerlab.routers.features import Tfidf
from routerlab.routers.learned import linear
from routerlab.routers.protocol import RouterError
from routerlab.serve.choose import open_router
from routerlab.serve.log import LogError
from routerlab.serve.offline import evaluate_log, refresh
from routerlab.sources import tables
from routerlab.sources.split import clusters


def evaluate(args: argparse.Namespace) -> int:
    """Fit routers on the training split of a recorded table, choose their operating points on validation, and score
    them on the test split: the area under each frontier, its gain over the random mix of single models, what is saved
    at the best single model's quality, and the differences to the leader, with 95 % intervals."""
    if args.routers == "list":
        print("\n".join(KINDS))
        return 0
    if args.log:
        return _from_log(args)
    data = _table(args.table, args.bench)
    if args.looking:
        return _looking(data, args.seed)
    rival = _rival(args.against, list(KINDS) if args.routers == "all" else args.routers.split(","))
    salts = [None] if args.splits == 1 and not args.hold_out else [f"split {k}" for k in range(args.splits)]
    contests, say_once = [], functools.cache(say)  # a contest looks at the splits again, and says of them the same
    for salt in salts:
        contests.append(_contest(args, with_splits(data, say_once, salt=salt, hold_out=args.hold_out), say_once))
    results = contests[0]
    rival = rival or results.chosen()[0].name  # the best on validation, not on the test
    if len(contests) > 1:
        print(f"{results.test.table}, {len(contests)} splits; means over splits, [95 % intervals over splits]")
        summary = verdict.over_splits(contests, args.resamples)
        _print(summary)
    else:
        summary = _report(args, data, results, rival)
    report = _policies(args.policies, results, rival, args.resamples) if args.policies else None
    for router, why in results.left_out.items():
        say(f"{router} cannot run and is left out: {why}")
    if args.out:
        if report:
            routerlab.Run(args.out).write("comparison.json", report.as_json())
        print(f"kept in {breakdown.keep(results, routerlab.Run(args.out), summary)}")
    return 0


def _from_log(given: argparse.Namespace) -> int:
    """Print what each router would have reached on the requests of a served run, by its log alone."""
    run = routerlab.Run(given.log)
    if (data := refresh(run)) is None:
        raise LogError(f"{run.folder} has no log of served requests; name the --run of `routerlab serve`")
    specs = (spec.partition("@") for spec in given.routers.split(","))
    routers = [open_router(name, data.pool, given.table, float(lam) if lam else None) for name, _, lam in specs]
    print(data.table)
    for name, quality, usd, why in evaluate_log(run, data, routers):
        if quality is None or usd is None:
            print(f"{name}: {why}")
            continue
        mean, low, high = (1000 * value for value in usd.dr)
        print(
            f"{name}: quality {quality.dr} (doubly robust), {quality.ips} (inverse propensity); US$ per 1,000 "
            f"{mean:.4g} [{low:.4g}, {high:.4g}]; {quality.requests:.0f} effective requests"
        )
    return 0


def _looking(data: Any, seed: int) -> int:
    """Print what a router would gain by the answers of each model, and of the cheapest two, three … models."""
    train = with_splits(data, say).split("train")
    both = train.table.matrix("quality"), train.table.matrix("usd")
    kept = np.flatnonzero(~np.isnan(sum(both)).any(1))
    queries, names = [train.queries[i] for i in kept], train.table.models
    table, texts = train.table.select([q.id for q in queries]), [q.text for q in queries]
    quality, usd = (m[kept] for m in both)
    order = np.argsort(usd.mean(0)).tolist()
    sets = [[m] for m in order] + [order[:k] for k in range(2, len(order))]
    say(f"{len(sets)} sets of models seen, {len(queries)} training questions")
    about = {"lams": lam_grid(usd, 40), "rng": np.random.default_rng(seed), "clusters": clusters(queries)}
    x, seen = Tfidf().fit(texts).views(texts).dense, (signs_of(table), answer_codes(table))
    lines = looking(x, *seen, (quality, usd), sets, fit=linear, **about)
    print(f"area of a linear router that sees no answers: {lines[0].without}; what seeing answers adds:")
    width = max(len(", ".join(names[m] for m in line.models)) for line in lines)
    print(f"{'answers seen of':{width}}  {'for free':26}  paid for")
    for line in lines:
        print(f"{', '.join(names[m] for m in line.models):{width}}  {line.free!s:26}  {line.paid}")
    print("[95 % intervals over training questions]; a cascade or an agent can pay only if what is free gains")
    return 0


def leaderboard(args: argparse.Namespace) -> int:
    """Fit and score routers on every table, and print for each router its gain in area over the random mix of single
    models on each table with its 95 % interval, its mean rank, the tables it wins, and on how many a single model is at
    least as good and as cheap as its frugal point."""
    contests = {}
    for name, data in _tables(args.tables):
        say(f"table {name}")
        contests[name] = _contest(args, data, say)
    _print(board.leaderboard(contests, args.resamples))
    for table, models in board.all_dominated(contests).items():
        print(f"on {table} every router is dominated by always calling {' or '.join(models)}")
    print("gain: mean quality over costs less that of the random mix of single models; [95 % intervals]")
    return 0


def _contest(args: argparse.Namespace, data: Any, say: Callable[[str], None]) -> Any:
    return contest(
        data,
        args.routers if args.routers == "all" else args.routers.split(","),
        features=Encoder(args.encoder, root() / "data" / "runs" / "embeddings") if args.encoder else Tfidf(),
        **{name: getattr(args, name) for name in ("seed", "trainings", "category", "missing")},
        say=say,
    )


def _report(args: argparse.Namespace, data: Any, results: Any, rival: str) -> Any:
    """Print the tables and verdicts of one contest; returns its summary."""
    low, high = (1000 * usd for usd in results.ends)
    models, single = results.models(), results.single
    names = results.test.table.models
    right = Interval(*(float(x[single]) for x in (models.quality, models.quality_low, models.quality_high)))
    print(results.test.table)
    if {"usd", "tokens_in", "tokens_out"} <= data.card.keys():  # of an imported table
        print(_cost(data.card))
    print(
        f"best single model in training: {names[single]}, right on {right} of the test at US$ "
        f"{1000 * models.usd[single]:.4g} per 1,000; areas from US$ {low:.4g} (the cheapest model, "
        f"{names[results.cheapest]}) to {high:.4g}, costs in training\nbest fixed model: always "
        f"{names[results.fixed.choice[0, 0]]}, the best on validation"
    )
    summary = results.table(args.resamples).join(results.operating_points())
    summary["fit s"] = summary.pop("fit s")
    _print(summary)
    print(
        f"area: mean quality over those costs, any router mixed with the cheapest model; gain: area less the random "
        f"mix's;\nAIQ: RouterBench's, from US$ 0 to {high:.4g}; saving: of the best single model's cost, by the "
        f"cheapest mix of two points as\ngood as it on validation (0: none is); frugal quality: of that mix, best "
        f"quality: of the best point on validation,\nboth less that model's; [95 % intervals over test questions]"
    )
    if results.quality.shape[1] == 2:
        print(results.two_models().to_string(float_format="{:.4f}".format))
        print(f"APGR and CPT: RouteLLM's, over the share of calls to {names[single]}; no intervals")
    for router, models in results.dominated().items():
        if models:
            print(f"{router} is dominated by always calling {' or '.join(models)}")
    if len(results.against(rival, resamples=args.resamples)):
        print(f"differences to {rival}; equal cost: US$ {1000 * results.equal_usd:.4g} per 1,000")
        _print(verdict.differences(results, rival, args.resamples))
    for line in verdict.sentences(results, rival, args.resamples):
        print(line)
    return summary


def _policies(models: Sequence[str], results: Any, name: str, resamples: int) -> Any:
    """Print how a router's policies for two models do beside always calling one of these."""
    medium, large = models
    (entry,) = results.chosen(name)[:1] or results.chosen()[:1]
    policies = two_models.policies_of(results, entry, medium, large)
    report = two_models.policy_report(results, policies.tolist(), medium, large, resamples=resamples)
    print(f"policies of {entry.name} for {medium} and {large} (Complex goes to {large})")
    _print(report.by_policy)
    _print(report.routing)
    print("the published two-model system expects a saving of {:.0%} to {:.0%}".format(*two_models.PUBLISHED_SAVING))
    return report


def _print(frame: Any) -> None:
    print(frame.map(lambda v: f"{v:.3g}" if isinstance(v, float) else str(v)).to_string())


def _rival(name: str | None, routers: Sequence[str]) -> str | None:
    """The name a router has in the results, checked before minutes are spent on fitting."""
    shown = {kind: KINDS[kind](Tfidf()).name for kind in routers if kind in KINDS}
    name = shown.get(name or "", name)
    known = {*shown.values(), "random mix", None}
    if len(shown) == len(routers) and name not in known and not str(name).endswith("lookup (told)"):
        raise RouterError(f"no router {name!r} in this contest; it has {', '.join(shown.values())}")
    return name


def _table(name: str, bench: str | None = None) -> Any:
    if not Path(name).is_file():
        if bench:
            raise tables.SourceError(f"{name} is no file of RouteLLM's; leave out --bench {bench}")
        return routerlab.recorded(name)
    data = tables.known(name, bench)
    dropped = [f"{data.card[f'{why}_questions_dropped']} {why}" for why in ("repeated", "unanswered")]
    say(f"{name}: {data.table}; questions dropped: {', '.join(dropped)}")
    return data


def _tables(names: Sequence[str]) -> list[tuple[str, Any]]:
    """Every table that is named, and those in the folders that are named; a file with several benchmarks is as many."""
    recorded: list[tuple[str, Any]] = []
    for name in names:
        folder = Path(name)
        inside = folder.is_dir() and not (folder / "manifest.json").is_file()
        for path in sorted(folder.iterdir()) if inside else [Path(name)]:
            try:
                data = _table(str(path))
            except ValueError as error:
                if not inside:
                    raise
                say(f"{path} is left out: {error}")
                continue
            benches = {str(q.meta["bench"]) for q in data.queries if "bench" in q.meta} if path.is_file() else set()
            if len(benches) > 1:
                recorded += [(f"{path.stem}:{bench}", _table(str(path), bench)) for bench in sorted(benches)]
            else:
                recorded.append((path.stem, data))
    if not recorded:
        raise tables.SourceError(f"no table in {', '.join(names)}; name runs, or files of a known layout")
    return recorded


def _cost(card: dict) -> str:
    """How an imported table knows what its calls cost."""
    if card["usd"] == "recorded":
        return "cost: recorded"
    rules = {"recorded": "recorded", "characters": "estimated, one every four characters"}
    asked, written = (rules.get(n) or f"taken as {n}" for n in (str(card["tokens_in"]), str(card["tokens_out"])))
    return f"cost: {card['usd']}; tokens of a question {asked}; tokens of an answer {written}"
