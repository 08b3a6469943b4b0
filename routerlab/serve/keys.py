"""The API keys of a server, and their limits: a file that is checked whole before the server starts."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from routerlab.core.pools import short
from routerlab.serve.log import Account, LogError, digest

_MINUTE = 1.0, 1e12, "a number of at least 1"  # with less, no request would ever be answered
_LIMITS = {
    "usd": (1e-12, 1e6, "a number of US dollars from 1e-12 to 1e6"),
    "requests_per_minute": _MINUTE,
    "tokens_per_minute": _MINUTE,
}
_FORM = "data/keys-example.yaml shows the form"
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def accounts(keys: Path | None, usd: float | None, host: str) -> list[Account]:
    """The API keys of a YAML file: a list of name, key_env (the environment variable with the key) and limits (usd,
    requests_per_minute, tokens_per_minute). Without a file: the key in ROUTERLAB_API_KEY, or none on loopback.

    Args:
        keys: the file.
        usd: the budget without a file.
        host: the address that is bound; another than loopback needs a key.
    """
    if keys is None:
        if os.environ.get("ROUTERLAB_API_KEY"):
            return [Account("default", _digest("ROUTERLAB_API_KEY", "the key of the server"), usd)]
        if host not in ("127.0.0.1", "::1", "localhost"):
            raise LogError(f"{host} can be reached from elsewhere: give --keys, or set ROUTERLAB_API_KEY")
        return [Account(usd=usd)]
    if usd is not None:
        raise LogError(f"--budget-usd is for a server without --keys; write usd into {keys} for each key")
    held: list[Account] = []
    for number, row in enumerate(_rows(keys), 1):
        account = _account(row, f"{keys}: entry {number}")
        for other in held:
            if account.name == other.name:
                raise LogError(f"{keys}: two entries have the name {account.name!r}; give each its own")
            if account.digest == other.digest:
                raise LogError(f"{keys}: {other.name!r} and {account.name!r} have the same key; give each its own")
        held.append(account)
    return held


def _rows(path: Path) -> list[Any]:
    """The entries of the file. No message quotes its text, which may hold a key that was put there by mistake."""
    try:
        raw = yaml.safe_load(path.read_text("utf-8"))
    except OSError as error:
        raise LogError(f"{path} cannot be read ({error.strerror}); name a file of keys, {_FORM}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        line = f", line {mark.line + 1}" if (mark := getattr(error, "problem_mark", None)) else ""
        raise LogError(f"{path}{line} is not YAML in UTF-8, or nested too deep; {_FORM}") from None
    if not isinstance(raw, Mapping) or [*raw] != ["keys"] or not isinstance(raw["keys"], list) or not raw["keys"]:
        raise LogError(f"{path} needs a list 'keys' with at least one key, and nothing else; {_FORM}")
    return raw["keys"]


def _account(row: Any, where: str) -> Account:
    """The account of an entry; `where` names the entry in messages."""
    if not isinstance(row, Mapping):
        raise LogError(f"{where} has no name and key_env; {_FORM}")
    name, variable = row.get("name"), row.get("key_env")
    if not isinstance(name, str) or not name.strip():
        raise LogError(f"{where}: name is {short(name)}; give text, in quotes if it is a number")
    where = f"{where} ({short(name)})"
    if strange := [field for field in row if field not in ("name", "key_env", *_LIMITS)]:
        shown = f" {strange[0]!r}" if _VARIABLE.fullmatch(str(strange[0])) else ""
        raise LogError(f"{where}: unknown field{shown}; there are name, key_env, {', '.join(_LIMITS)}")
    if not isinstance(variable, str) or not _VARIABLE.fullmatch(variable):
        raise LogError(
            f"{where}: key_env is not the name of an environment variable (letters, digits, _); put the key into one "
            f"and name it here"
        )
    limits = {field: row[field] for field in _LIMITS if row.get(field) is not None}
    for field, value in limits.items():
        low, high, what = _LIMITS[field]
        if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value <= high:
            raise LogError(f"{where}: {field} is {short(value)}; give {what}, or leave it out for no limit")
    return Account(name, _digest(variable, where), **limits)


def _digest(variable: str, where: str) -> bytes:
    if not (key := os.environ.get(variable, "").strip()):
        raise LogError(f"{where}: the variable {variable} must be set and not empty, here or in a file .env")
    return digest(key)
