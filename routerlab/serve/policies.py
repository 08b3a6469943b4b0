"""Policy maps: rules, as data, that name a model for a question and can be changed while the server runs."""

import functools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from jsonschema import Draft202012Validator

from routerlab.core.decisions import Decisions
from routerlab.core.outcomes import OutcomeTable
from routerlab.core.pools import Pool
from routerlab.core.queries import Query
from routerlab.core.runs import root
from routerlab.label.oracle import Policy

_MATH = re.compile(
    r"\d\s*[-+*/×÷^=<>]\s*\(?-?\d|\\(frac|sqrt|sum|int|boxed)|\$[^$]+\$"
    r"|\b(solve|equation|integral|derivative|prime|factor|calculate|compute|sum|product|remainder)\b",
    re.I,
)


@functools.cache
def _form() -> dict[str, Any]:
    """The JSON schema of a policy map's file."""
    return yaml.safe_load(Path(__file__).with_name("policy_map.yaml").read_text(encoding="utf-8"))


class PolicyError(ValueError):
    """A policy map that cannot be used; the message says what to change."""


@dataclass(frozen=True)
class PolicyMap:
    """The first of `rules` that applies names the model, else `otherwise` does. Once a share of the budget is spent
    that `downgrade` lists, a model dearer than the one listed is replaced by it. `policy` reads a question's policy,
    for rules that map policies to models.
    """

    name: str
    rules: tuple[tuple[str, Mapping[str, Any]], ...]
    otherwise: str
    downgrade: Mapping[float, str] = field(default_factory=dict)
    policy: Callable[[Query], Policy | None] = lambda query: None

    @classmethod
    def load(cls, path: str | Path, pool: Pool) -> "PolicyMap":
        """Read a map from YAML; a bare name means `data/policies/<name>.yaml`. Models must be in the pool."""
        path = Path(path)
        if not path.is_file() and path.parent == Path():
            path = root() / "data" / "policies" / f"{path.stem}.yaml"
        try:
            raw = json.loads(json.dumps(yaml.safe_load(path.read_text(encoding="utf-8"))))  # keys become texts
        except (OSError, ValueError, TypeError, yaml.YAMLError, RecursionError) as error:
            known = ", ".join(sorted(p.stem for p in (root() / "data" / "policies").glob("*.yaml")))
            why = f"{path} cannot be read ({type(error).__name__}); give a YAML file, or {known}"
            raise PolicyError(why) from error
        if problem := next(Draft202012Validator(_form()).iter_errors(raw), None):
            where = "/".join(map(str, problem.absolute_path)) or "the file"
            raise PolicyError(f"{path}: {where}: {problem.message[:200]}; data/policies/hybrid.yaml shows the form")
        rules = tuple(next(iter(rule.items())) for rule in raw.get("rules", []))
        shares = {float(share): model for share, model in raw.get("downgrade", {}).items()}
        for kind, rule in [*rules, ("downgrade", shares), ("else", {"model": raw["else"]})]:
            for name, model in rule.items():
                if (name == "model" or kind in ("policy", "downgrade")) and model not in pool:
                    raise PolicyError(f"{path}: {kind}: {model!r} is not in pool {pool.name!r} ({', '.join(pool.ids)})")
        return cls(raw.get("name", path.stem), rules, raw["else"], shares)

    def choose(self, query: Query, pool: Pool, share_spent: float = 0.0) -> tuple[str, str]:
        """(model, the rule that named it), given the share of the budget that is spent."""
        text = query.text
        for kind, rule in self.rules:
            model = rule.get(self.policy(query) or "") if kind == "policy" else rule["model"]
            if model and _applies(kind, rule, text):
                break
        else:
            kind, model = "else", self.otherwise
        for share, cheaper in sorted(self.downgrade.items()):
            if share_spent >= share and pool[model].usd(1, 1) > pool[cheaper].usd(1, 1):
                kind, model = f"downgrade at {share:g}", cheaper
        return model, kind

    def route(self, queries: Sequence[Query], pool: Pool, answers: OutcomeTable | None = None) -> Decisions:
        """The model of each query while nothing of the budget is spent."""
        chosen = [pool.ids.index(self.choose(q, pool)[0]) for q in queries]
        return Decisions(tuple(q.id for q in queries), pool.ids, np.array(chosen, np.int64), self.name)


def _applies(kind: str, rule: Mapping[str, Any], text: str) -> bool:
    if kind == "math":
        return _MATH.search(text) is not None
    if kind == "longer":
        return len(text) > rule["characters"]
    if kind == "keywords":
        return re.search(rf"\b({'|'.join(map(re.escape, rule['words']))})\b", text, re.I) is not None
    return True
