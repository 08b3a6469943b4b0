"""Verbs on notebooks: execute them without a browser, tidy them, and say what this machine can do."""

import argparse

from routerlab.cli.shared import AddVerb, add_flags, say


def add(verb: AddVerb) -> None:
    """Add these verbs to the command line."""
    parser = verb(run, "run", "execute the notebooks in order, each in a fresh kernel")
    add_flags(parser, "run")
    pair = {"nargs": 2, "metavar": ("NAME", "VALUE"), "action": "append", "default": []}
    parser.add_argument("-p", dest="values", help="set a parameter the notebook declares", **pair)
    verb(doctor, "doctor", "list what is installed, what it makes possible, and what to try next")
    add_flags(verb(tidy, "tidy", "drop from notebooks what differs between runs"), "tidy")


def run(args: argparse.Namespace) -> int:
    """Execute the numbered notebooks with papermill; print a table of results, and write what the notebooks computed
    (result.json) and the notebooks as pages that need no network (html). What is finished and unchanged is not
    executed again. A parameter that no notebook declares is an error; the exit status is 1 if any notebook failed."""
    from routerlab import book
    from routerlab.cli import headless, pages

    paths = book.notebooks(args.only.split(","))
    values = {"profile": args.profile} | {name: headless.literal(value) for name, value in args.values}
    if values["profile"] == "gpu":
        headless.refuse_without_gpu()
    folder = args.out.resolve() if args.out else book.folder_of(values)
    own = headless.live(values, folder) if values["profile"] == "live" else {}
    jobs = args.jobs or headless.jobs()
    results = book.run(
        paths, values, own=own, folder=folder, say=say, fresh=args.fresh, jobs=jobs, timeout_s=args.timeout
    )
    print(headless.summary(results))
    failed = [result.error for result in results if result.error]
    if args.update and not failed:
        for path in paths:
            book.update(folder / path.name, path)
    say(f"to read: {pages.write(folder, book.results(folder))}")
    if failed:
        say(
            f"routerlab: {len(failed)} of {len(results)} notebooks failed: {'; '.join(failed)}; "
            f"open the executed copies in {folder}"
        )
    return 1 if failed else 0


def doctor(args: argparse.Namespace) -> int:
    """Look for the embedded models, provider keys (names only), a GPU, flash-attn, vLLM, bubblewrap, TeX and Chromium;
    print what each makes possible, how to get what is missing, and the command to try next."""
    from routerlab import doctor

    print(doctor.report(doctor.examine()))
    return 0


def tidy(args: argparse.Namespace) -> int:
    """Drop stderr, timings, widget state and injected cells from notebooks and renumber their cells."""
    from routerlab import book

    paths = args.paths or book.notebooks()
    changed = [path for path in paths if book.tidy(path, write=not args.check)]
    for path in changed:
        print(f"{path.name}: {'not tidy' if args.check else 'tidied'}")
    if args.check and changed:
        say("routerlab: run `routerlab tidy` and commit the result")
    return 1 if args.check and changed else 0
