"""The verbs that use a saved router: ask it about questions, teach it a new model, give it new prices."""

import argparse
from pathlib import Path

import numpy as np

import routerlab
from routerlab.cli.collect import ended
from routerlab.collect.backends import backend
from routerlab.collect.run import collect
from routerlab.collect.settings import Settings
from routerlab.core.runs import read_text
from routerlab.routers import newcomers, store
from routerlab.routers.protocol import RouterError, as_queries


def route(args: argparse.Namespace) -> int:
    """Print for each question what a saved router predicts of every model (quality, US$, and their balance, quality -
    lam * US$) and which model it calls. With --answer that model is asked too."""
    router = store.load(args.router)
    router = router if args.lam is None else router.at(args.lam)
    texts = [args.question]
    if len(args.question) < 250 and Path(args.question).is_file():
        texts = read_text(args.question).splitlines()
    if not (texts := [text for text in texts if text.strip()]):
        raise RouterError(f"{args.question} has no questions; write one on each line")
    queries = list({q.id: q for q in as_queries(texts)}.values())
    chosen: dict[str, list] = {}
    frame, columns = router.frame(queries), ["model", "quality", "usd", "value"]
    for query, (_, lines) in zip(queries, frame.groupby("query", sort=False), strict=True):
        called = lines[lines["calls"]].iloc[0]
        chosen.setdefault(called["model"], []).append(query)
        print(f"{_short(query.text)}\n  -> {called['model']}")
        for model, quality, usd, value in lines.sort_values("value", ascending=False)[columns].to_numpy():
            print(f"     {model:24} quality {quality:6.3f}  US$ {usd:.3g}  balance {value:+.3f}")
    print(f"cost weight {router.lam:g}: the called model has the highest balance, quality - {router.lam:g} * US$")
    return _answered(args, chosen) if args.answer else 0


def _answered(args: argparse.Namespace, chosen: dict[str, list]) -> int:
    """Ask each chosen model its questions, in the run's ledger, and print answers and costs."""
    pool, total = routerlab.Pool.load(args.pool), 0.0
    routerlab.Run(args.run)  # refuses what is no name
    for model, queries in chosen.items():
        run = routerlab.Run(f"{args.run}-{model.replace('/', '_')}")
        left = None if args.budget_usd is None else max(args.budget_usd - total, 0.0)
        done = collect(queries, pool.subset([model]), backend(args.backend), run, Settings(budget_usd=left))
        held = set(done.table.queries)  # without those that a budget left out, and with those of earlier commands
        answered = [query for query in queries if query.id in held]
        table, place = done.table.select([query.id for query in answered]), done.table.models.index(model)
        answers, usd = table.text("answer")[:, place], table.matrix("usd")[:, place]
        total += float(np.nansum(usd))
        for query, answer, cost in zip(answered, answers, usd, strict=True):
            print(f"{_short(query.text)}\n  {model}, US$ {cost:.3g}: {answer}")
        if ended(done):
            return 3
    print(f"US$ {total:.3g} in all")
    return 0


def meet(args: argparse.Namespace) -> int:
    """Choose probes among the recorded training questions, ask the new model these, and write a router that knows one
    model more. No other model is asked, and nothing is fitted again. The exit status is 3 if asking stopped early."""
    router, pool = store.load(args.router), routerlab.Pool.load(args.pool).subset([args.model])
    if args.model in router.models:
        raise RouterError(f"the router knows {args.model!r} already; a new price or a smaller pool needs no probes")
    train = routerlab.recorded(args.table).split("train")
    if absent := [m for m in router.models if m not in train.table.models]:
        raise RouterError(f"{args.table} has no outcomes of {absent[0]}; name the table this router was fitted on")
    groups = newcomers.groups_of(router, train.queries, train.table)
    probes = newcomers.choose_probes(router, groups, train.queries, args.probes)
    run = routerlab.Run(args.run or f"meet-{args.model.replace('/', '_')}")
    out = store.place(args.out or run.folder / "router")
    settings = Settings(budget_usd=args.budget_usd, max_tokens=args.max_tokens)
    done = collect(probes, pool, backend(args.backend), run, settings)
    print(done)
    if ended(done):
        return 3
    held = set(done.table.queries)  # also probes of earlier commands
    asked = [query.id for query in probes if query.id in held]
    met = newcomers.meet(router, groups, (train.queries, train.table), args.model, done.table.select(asked))
    card = {"data": train.sha256, "pool": train.pool.name, "met": args.model, "probes": args.probes}
    folder = store.save(met, out, card)
    print(f"a router that knows {', '.join(met.models)} is in {folder}")
    return 0


def reprice(args: argparse.Namespace) -> int:
    """Predict costs anew from the recorded tokens and the prices of a pool, and write that router. What it predicts of
    qualities stays, and so does its cost weight."""
    router, pool = store.load(args.router), routerlab.Pool.load(args.pool)
    train = routerlab.recorded(args.table).split("train")
    card = {"data": train.sha256, "pool": pool.name, "repriced": {m: pool[m].as_of for m in router.models}}
    folder = store.save(router.repriced(train.queries, train.table, pool), args.out, card)
    print(f"the router at the prices of {pool.name} is in {folder}")
    return 0


def _short(text: str, width: int = 100) -> str:
    text = " ".join(text.split())
    return text if len(text) <= width else text[: width - 1] + "…"
