"""The verb that fits and scores routers."""

import argparse
from pathlib import Path

import routerlab
from routerlab.cli.shared import AddVerb, from_zero, say


def add(verb: AddVerb) -> None:
    """Add these verbs to the command line."""
    parser = verb(evaluate, "eval", "fit routers on a table's training split and score them on its test split")
    parser.add_argument(
        "--table",
        default="pocket",
        help="pocket, a run, a folder, or a file of RouteLLM, MMLU-Pro or RouterBench (default: pocket)",
    )
    parser.add_argument("--routers", default="all", help="names, with commas; `list` prints them (default: all)")
    parser.add_argument("--bench", help="only this benchmark of a RouteLLM file: mmlu, gsm8k")
    parser.add_argument("--encoder", metavar="WHERE", help="a sentence encoder for the features: a folder or a package")
    parser.add_argument("--against", metavar="ROUTER", help="compare the others with this one")
    parser.add_argument("--out", metavar="RUN", help="keep points, summary and routers in this run")
    parser.add_argument("--seed", type=from_zero, default=0, help="of the resampling (default: 0)")
    parser.add_argument(
        "--trainings",
        type=int,
        default=1,
        metavar="N",
        help="fit routers that draw lots N times; above 1 the intervals hold that luck too (default: 1)",
    )


def evaluate(given: argparse.Namespace) -> int:
    """Fit routers on the training split of a recorded table, choose their operating points on validation, and score
    them on the test split: the area under each frontier, what it saves at the best single model's quality, and how it
    differs from that model, with 95 % intervals."""
    from routerlab.contest.run import KINDS, contest
    from routerlab.core.runs import root
    from routerlab.evaluate.stats import Interval
    from routerlab.routers.encoder import Encoder
    from routerlab.routers.features import Tfidf

    if given.routers == "list":
        print("\n".join(KINDS))
        return 0
    data = _table(given.table, given.bench)
    cache = root() / "data" / "runs" / "embeddings"
    features = Encoder(given.encoder, cache) if given.encoder else Tfidf()
    names = given.routers if given.routers == "all" else given.routers.split(",")
    rival = _rival(given.against, KINDS if names == "all" else names, features)
    made = contest(data, names, features=features, seed=given.seed, trainings=given.trainings, say=say)
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
        say(f"{router} is left out: {why}")
    if given.out:
        from routerlab.contest.breakdown import keep

        print(f"kept in {keep(made, routerlab.Run(given.out), summary)}")
    return 0


def _rival(name: str | None, kinds, features) -> str | None:
    """The name a router has in the results, found before minutes are spent on them."""
    from routerlab.contest.run import KINDS
    from routerlab.routers.protocol import RouterError

    shown = {kind: KINDS[kind](features).name for kind in kinds if kind in KINDS}
    name = shown.get(name or "", name)
    if name and shown and name not in shown.values() and not name.endswith("lookup (told)"):
        have = ", ".join(shown.values())
        raise RouterError(f"no router {name!r} in this contest; it has {have}")
    return name


def _table(name: str, bench: str | None):

    from routerlab.sources import tables

    if not Path(name).is_file():
        if bench:
            raise tables.SourceError(f"{name} is no file of RouteLLM's; leave out --bench {bench}")
        return routerlab.recorded(name)
    made = tables.known(name, bench)
    dropped = [f"{made.card[f'{why}_questions_dropped']} {why}" for why in ("repeated", "unanswered")]
    say(f"{name}: {made.table}; questions dropped: {', '.join(dropped)}")
    return made


def _cost(card: dict) -> str:
    """How an imported table knows what its calls cost."""
    if card["usd"] == "recorded":
        return "cost: recorded"
    rules = {"recorded": "recorded", "characters": "estimated, one every four characters"}
    given, written = (rules.get(n) or f"taken as {n}" for n in (str(card["tokens_in"]), str(card["tokens_out"])))
    return f"cost: {card['usd']}; tokens of a question {given}; tokens of an answer {written}"
