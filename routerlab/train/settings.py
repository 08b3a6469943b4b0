"""Recipes as YAML files: found by name, changed by flags, and refused in one line that names the cure."""

import difflib
import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml


class TrainError(ValueError):
    """A recipe, a record or a run that cannot be trained from; the message says what to do."""


def read_yaml(folder: Path, name: str, has: str = "") -> dict[str, Any]:
    """The YAML file NAME (a path), or NAME.yaml in a folder; if it is absent, those with the text `has` are named."""
    path = Path(name) if name.endswith(".yaml") else folder / f"{name}.yaml"
    if not path.is_file():
        known = sorted(p.stem for p in folder.glob("*.yaml") if has in p.read_text(encoding="utf-8"))
        raise TrainError(f"no recipe {name!r}; there are {', '.join(known)}, or name a .yaml file")
    try:
        settings = parse(path.read_text(encoding="utf-8")) or {}
    except ValueError as error:
        raise TrainError(f"{path}: {error}; repair it, in UTF-8") from error
    if not isinstance(settings, dict):
        raise TrainError(f"{path} is a {type(settings).__name__}; a recipe is a mapping of keys to values")
    return settings


def parse(text: str) -> Any:
    """A value in YAML, where 1e-5 is a number as well."""
    if re.search(r"(?<!\w)\.(inf|nan)\b", text, re.I):
        raise TrainError(f"{' '.join(text.split())[:60]!r} has a number that is not finite; write another")
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise TrainError(
            f"{' '.join(text.split())[:60]!r} is no YAML ({' '.join(str(error).split())[:120]})"
        ) from error
    try:
        number = float(value) if isinstance(value, str) else math.nan
    except ValueError:
        return value
    if not math.isfinite(number):
        return value
    return int(number) if number.is_integer() else number


def refuse_unknown(keys: Iterable[Any], known: Iterable[str], where: str) -> None:
    """Stop at a key that is not known, and name the nearest that is."""
    for key in keys:
        if key not in (known := set(known)):
            nearest = difflib.get_close_matches(str(key), sorted(known), 1, 0)[0]
            raise TrainError(f"{where} has no key {key!r}; the nearest is {nearest!r}")
