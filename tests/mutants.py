"""Mutation tests: `make mutants` changes one line of the package at a time, and named tests must notice each change.

The changes are listed in tests/mutants/*.yaml: {file, line, becomes, tests, k}. `line` is the text of one line without
its indentation; it must occur exactly once in `file`. `tests` names test files with spaces, `k` (pytest's -k) the tests
in them that notice the change, so that no others are run.

Most of the time of a short test goes into imports. So one process imports the packages that tests need, nothing of this
project, and every run of pytest is a fork of it.

python tests/mutants.py [NAME...] [--jobs N]    all lists, or only tests/mutants/NAME.yaml
"""

import argparse
import functools
import gc
import importlib
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
FIELDS, PASSED, FAILED, LIMIT_S = {"file", "line", "becomes", "tests", "k"}, 0, (1, 2), 300  # 1, 2: pytest's exit codes
FORK = multiprocessing.get_context("fork")
ENVIRONMENT = {"OMP_WAIT_POLICY": "PASSIVE", "TQDM_DISABLE": "1", "HF_HUB_OFFLINE": "1", "MPLBACKEND": "Agg"}
# Nothing of this project: that is imported from the copy with the mutant. A package may be missing here; it costs time.
PACKAGES = (
    "aiohttp",
    "anywidget",
    "genai_prices",
    "hypothesis.strategies",
    "lightgbm",
    "math_verify",
    "matplotlib.pyplot",
    "nbconvert",
    "nbformat",
    "openai",
    "papermill",
    "peft",
    "prometheus_client",
    "reasoning_gym",
    "schemathesis.pytest.xdist",
    "seaborn",
    "sklearn.ensemble",
    "sklearn.feature_extraction.text",
    "transformers.trainer",
    "trl.trainer.dpo_trainer",
    "trl.trainer.grpo_trainer",
    "trl.trainer.sft_trainer",
    "tueplots",
    "xgrammar",
)


class MutantError(ValueError):
    """A mutant that cannot be applied, or tests that fail without it."""


def read(names=(), root=ROOT) -> list[dict]:
    """The listed mutants, each with the list it stands in."""
    paths = sorted((root / "tests" / "mutants").glob("*.yaml"))
    if unknown := set(names) - {p.stem for p in paths}:
        raise MutantError(f"no list {', '.join(sorted(unknown))}; there are {', '.join(p.stem for p in paths)}")
    mutants = []
    for path in paths:
        for mutant in (yaml.safe_load(path.read_text()) or ()) if not names or path.stem in names else ():
            if set(mutant) != FIELDS:
                raise MutantError(f"{path.name}: {mutant} needs the fields {', '.join(sorted(FIELDS))}")
            mutants.append(mutant | {"list": path.stem})
    return mutants


def mutated(mutant: dict, root=ROOT) -> str:
    """The text of the mutant's file with its line replaced; the indentation stays."""
    lines = (root / mutant["file"]).read_text().split("\n")
    places = [n for n, text in enumerate(lines) if text.strip() == mutant["line"]]
    if len(places) != 1 or mutant["line"] == mutant["becomes"]:
        raise MutantError(
            f"{mutant['list']}.yaml: {mutant['line']!r} must occur exactly once in {mutant['file']} and be changed; "
            f"it occurs {len(places)} times"
        )
    indent = lines[places[0]].removesuffix(lines[places[0]].lstrip())
    text = "\n".join([*lines[: places[0]], indent + mutant["becomes"], *lines[places[0] + 1 :]])
    compile(text, mutant["file"], "exec")
    return text


def copy(target: Path) -> None:
    """Copy what git tracks and what it would track."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    for name in subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0"):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target / name)


def import_packages() -> None:
    """Import what tests need, without computing anything: threads that a computation starts are missing in a fork."""
    os.environ.update(ENVIRONMENT | os.environ)
    for name in PACKAGES:
        importlib.import_module(name)
    import numba

    for plugin in entry_points(group="pytest11"):
        plugin.load()
    # Loops that one run has compiled are kept beside their file, as bytecode is, for the next runs in the same copy.
    numba.njit = functools.partial(numba.njit, cache=True)


def run_pytest(arguments: list[str], root: Path, log: Path) -> None:
    """In a fork: do as `python -m pytest` in the folder `root` does; the output goes to the file `log`."""
    sys.stdout = sys.stderr = log.open("w")
    os.dup2(sys.stdout.fileno(), 1)
    os.dup2(sys.stdout.fileno(), 2)
    os.chdir(root)
    sys.path[0] = str(root)
    os.environ["PYTHONPATH"] = str(root)
    sys.dont_write_bytecode = False
    gc.freeze()  # what was imported before is shared memory until the garbage collector looks at it
    sys.exit(pytest.main(arguments))


def exit_code(mutant: dict, root: Path) -> int | None:
    """pytest's exit code on the tests of a mutant; None if they ran into the time limit."""
    log = root.parent / "log"
    # A fork ends without pytest's removal of its folders, so they stand beside the copy and go when that goes.
    arguments = ["-x", "-q", f"--basetemp={root.parent / 'tmp'}", *mutant["tests"].split(), "-k", mutant["k"]]
    process = FORK.Process(target=run_pytest, args=(arguments, root, log))
    process.start()
    process.join(LIMIT_S)
    if process.is_alive():
        process.kill()
        process.join()
        return None
    if process.exitcode not in (PASSED, *FAILED):
        raise MutantError(f"pytest could not run {mutant['tests']} -k {mutant['k']!r}:\n{log.read_text()[-1600:]}")
    return process.exitcode


def survivors(mutants: list[dict], make_copy=copy) -> list[dict]:
    """Run mutants that share their test files in one temporary copy; return those that no test noticed."""
    alive = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "routerlab"
        root.mkdir()
        make_copy(root)
        (root.parent / "shared").symlink_to(ROOT.parent / "shared")  # real tables, for tests that read them
        for plain in {(m["tests"], m["k"]): m for m in mutants}.values():
            if exit_code(plain, root) != PASSED:
                raise MutantError(f"{plain['tests']} -k {plain['k']!r}: fails without any mutant; run it by itself")
        for number, mutant in enumerate(mutants, 1):
            path = root / mutant["file"]
            before = path.read_text()
            path.write_text(mutated(mutant, root))
            os.utime(path, (number, number))  # bytecode is valid by size and second, so each mutant has its own second
            survived = exit_code(mutant, root) == PASSED
            path.write_text(before)
            alive += [mutant] if survived else []
            state = "SURVIVED" if survived else "killed"
            print(f"{state:8}  {mutant['file']}: {mutant['line']}  ->  {mutant['becomes']}", flush=True)
    return alive


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="lists in tests/mutants, without .yaml; all if none is named")
    parser.add_argument("--jobs", type=int, default=2, help="test processes at a time (%(default)s)")
    arguments = parser.parse_args()
    groups = defaultdict(list)
    try:
        mutants = read(arguments.names)
        for mutant in mutants:
            mutated(mutant)
            groups[mutant["tests"]].append(mutant)
        import_packages()
        with ProcessPoolExecutor(arguments.jobs, FORK) as processes:
            largest_first = sorted(groups.values(), key=len, reverse=True)
            alive = [m for found in processes.map(survivors, largest_first) for m in found]
    except MutantError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"\n{'list':16}  mutants  survived")
    for name in sorted({m["list"] for m in mutants}):
        print(f"{name:16}  {sum(m['list'] == name for m in mutants):7}  {sum(m['list'] == name for m in alive):8}")
    for mutant in alive:
        print(f"survived: {mutant['list']}.yaml, {mutant['file']}: {mutant['line']}")
    return 1 if alive else 0


if __name__ == "__main__":
    sys.exit(main())
