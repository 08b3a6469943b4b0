"""Verbs that make what is committed: executed and tidied notebooks, and the embedded models; and the doctor."""

import argparse
from pathlib import Path

from routerlab import book
from routerlab.cli import headless, pages
from routerlab.cli.shared import say
from routerlab.core.runs import root


def run(args: argparse.Namespace) -> int:
    """Execute the numbered notebooks with papermill; print a table of results, and write what the notebooks computed
    (result.json) and the notebooks as pages that need no network (html). What is finished and unchanged is not
    executed again. A parameter that no notebook declares is an error; the exit status is 1 if any notebook failed."""
    paths = book.notebooks(args.only.split(","))
    values = {"profile": args.profile} | {name: headless.literal(value) for name, value in args.values}
    headless.refuse_other_kinds(paths, values)
    if values["profile"] == "gpu":
        headless.refuse_without_gpu()
    folder = args.out.resolve() if args.out else book.folder_of(values)
    own = headless.live(paths, values, folder) if values["profile"] == "live" else {}
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
    changed = [path for path in args.paths or book.notebooks() if book.tidy(path, write=not args.check)]
    for path in changed:
        print(f"{path.name}: {'not tidy' if args.check else 'tidied'}")
    if args.check and changed:
        say("routerlab: run `routerlab tidy` and commit the result")
    return 1 if args.check and changed else 0


def actor(args: argparse.Namespace) -> int:
    """Train the actors `known`, on all embedded models, and `unseen`, without one of them, from seeds."""
    from routerlab.train.actor import make

    make(_folder(args.out or root() / "data" / "pocket" / "actor"), say)
    return 0


def pocket(args: argparse.Namespace) -> int:
    """Train every embedded model that has no weights yet, then record its answers to the held-out questions. You need
    this only to reproduce the committed files from seeds."""
    from routerlab.pocket.make.build import make

    make(_folder(args.out or root() / "data" / "pocket"), args.quick, args.again, args.threads, say)
    return 0


def _folder(path: Path) -> Path:
    """The folder of a result, made before hours of work, so that a path that cannot be one is refused at once."""
    path.mkdir(parents=True, exist_ok=True)
    return path.resolve()
