"""What is installed here, what each part makes possible, and the one command to try next."""

import importlib.util
import os
import re
import shutil
from importlib.metadata import packages_distributions, version
from pathlib import Path
from typing import NamedTuple

import yaml

from routerlab.core.runs import root


class Check(NamedTuple):
    """One part: its name, what was seen of it ("" if it is missing), what it makes possible, and how to get it."""

    name: str
    seen: str
    enables: str
    cure: str


def examine() -> list[Check]:
    """Look for every optional part. Nothing is changed, asked over a network or printed, and no key is read out."""
    parts = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
    return [Check(name, globals()[how](*of), enables, cure) for name, how, of, enables, cure in map(dict.values, parts)]


def key_names() -> list[str]:
    """The names, never the values, of environment variables that look like keys of providers and are not empty."""
    return sorted(name for name, value in os.environ.items() if re.fullmatch(r"[A-Z0-9_]+_API_KEY", name) and value)


def report(checks: list[Check]) -> str:
    """A table of the checks, a line for what each missing part needs, and the command to try next."""
    wide = max(len(check.name) for check in checks)
    lines = []
    for check in checks:
        lines.append(f"{'yes' if check.seen else 'no ':3}  {check.name:{wide}}  {check.enables}")
        lines.append(f"{'':5}{'':{wide}}  {check.seen or f'missing: {check.cure}'}")
    return "\n".join([*lines, "", f"try next: {following(checks)}"])


def following(checks: list[Check]) -> str:
    """The one command to try next: the most that the parts here allow."""
    there = {check.name for check in checks if check.seen}
    if "embedded models" not in there:
        return "git checkout -- data/pocket"
    if not list((root() / "figures").glob("pareto.pdf")):
        return "routerlab run"
    if "provider keys" in there:
        return "routerlab collect --run mini --pool xrouter --backend litellm --source gsm8k --limit 20 --budget-usd 1"
    return "routerlab eval --table pocket --routers all"


def _keys() -> str:
    return ", ".join(key_names())


def _embedded() -> str:
    weights = list((root() / "data" / "pocket" / "models").glob("*/model.safetensors"))
    table = (root() / "data" / "pocket" / "outcomes.parquet").is_file()
    return f"{len(weights)} models and their table" if weights and table else ""


def _package(name: str) -> str:
    """The version of an installed package, which is not imported."""
    if importlib.util.find_spec(name) is None:
        return ""
    return ", ".join(f"{each} {version(each)}" for each in packages_distributions().get(name, [])) or name


def _program(*names: str) -> str:
    return next((path for path in map(shutil.which, names) if path), "")


def _gpu() -> str:
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return ", ".join(torch.cuda.get_device_name(number) for number in range(count))


def _sandbox() -> str:
    from routerlab.grade import sandbox

    try:
        return f"runs {sandbox.check()}"
    except sandbox.SandboxError:
        return ""
