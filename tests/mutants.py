"""Mutation tests: `make mutants` changes one line of the package at a time, and named tests must notice each change.

The changes are listed in tests/mutants/*.yaml: {file, line, becomes, tests, k (optional, pytest's -k)}. `line` is the
text of one line without its indentation; it must occur exactly once in `file`. `tests` names test files with spaces.

python tests/mutants.py [NAME...] [--jobs N]    all lists, or only tests/mutants/NAME.yaml
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
FIELDS, PASSED, FAILED, LIMIT_S = {"file", "line", "becomes", "tests"}, 0, (1, 2), 300  # 1, 2: pytest's exit codes


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
            if set(mutant) - {"k"} != FIELDS:
                raise MutantError(f"{path.name}: {mutant} needs the fields {', '.join(sorted(FIELDS))} and maybe k")
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


def exit_code(mutant: dict, root: Path) -> int | None:
    """pytest's exit code on the tests of a mutant; None if they ran into the time limit."""
    # Without bytecode: it is valid by size and second, which a mutant may share with the line that it replaces.
    environment = os.environ | {"PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-x", "-q", *mutant["tests"].split()]
    command += ["-k", mutant["k"]] if "k" in mutant else []
    try:
        run = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        return None
    if run.returncode not in (PASSED, *FAILED):
        raise MutantError(f"pytest could not run {' '.join(command[5:])}:\n{run.stdout[-800:]}{run.stderr[-800:]}")
    return run.returncode


def survivors(mutants: list[dict], make_copy=copy) -> list[dict]:
    """Run mutants that share their test files in one temporary copy; return those that no test noticed."""
    alive = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "routerlab"
        root.mkdir()
        make_copy(root)
        (root.parent / "shared").symlink_to(ROOT.parent / "shared")  # real tables, for tests that read them
        for plain in {(m["tests"], m.get("k")): m for m in mutants}.values():
            if exit_code(plain, root) != PASSED:
                raise MutantError(f"{plain['tests']} {plain.get('k', '')}: fails without any mutant; run it by itself")
        for mutant in mutants:
            path = root / mutant["file"]
            before = path.read_text()
            path.write_text(mutated(mutant, root))
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
        with ThreadPoolExecutor(arguments.jobs) as threads:
            alive = [m for found in threads.map(survivors, groups.values()) for m in found]
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
