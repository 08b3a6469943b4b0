"""A `Pool` is an ordered set of dated model cards, read from YAML: what can be called, and what it costs."""

import datetime as dt
import html
import re
import reprlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from routerlab.core.runs import root

TIERS = ("premium", "standard", "budget", "specialized")
MOST_USD, MOST_TOKENS = 1e9, 10**12  # of a price and a context: beyond them a slip of the pen


class PoolError(ValueError):
    """A pool or card that cannot be used; the message names the known values."""


def short(value: object) -> str:
    """A value as an error shows it: in one line, cut, however large or deep it is."""
    if isinstance(value, int) and abs(value) >= 10**30:
        return "a number of more than 30 digits"
    return " ".join(reprlib.repr(value).split())


class Skill(NamedTuple):
    """How often a model was right on questions of one kind: measured on `n` of them, at the latest on `as_of`; and how
    many tokens it wrote on average, if that was noted.
    """

    kind: str
    accuracy: float
    n: int
    as_of: dt.date
    tokens_out: float | None = None


@dataclass(frozen=True)
class ModelCard:
    """One callable model. Prices are US dollars a million tokens, true on `as_of`.

    `base_url` and `key_env` are for a model with a server of its own: where its OpenAI-compatible API is, and the name
    of the environment variable that holds the key (never the key itself). Without them the backend's own address and
    key are used. `skills` are measured on probe questions that the model answered, not taken from advertising.
    """

    id: str
    provider_id: str
    tier: str
    usd_per_mtok_in: float
    usd_per_mtok_out: float
    context: int
    as_of: dt.date
    usd_per_mtok_cached_in: float | None = None  # None: cached input costs what other input costs
    strengths: tuple[str, ...] = ()
    description: str = ""
    base_url: str = ""
    key_env: str = ""
    skills: tuple[Skill, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.id, str) or not self.id:
            raise PoolError(f"a model's id is {short(self.id)}; give a name, in quotes if it is a number")
        for holds, what in self._demands():
            if not holds:
                raise PoolError(f"model {self.id!r}: {what}")
        object.__setattr__(self, "strengths", tuple(self.strengths))
        object.__setattr__(self, "skills", _skills(self.id, self.skills))

    def _demands(self) -> Iterator[tuple[object, str]]:
        """What must hold of a card, one after the other, and what is wrong if it does not."""
        for name in ("provider_id", "description", "base_url", "key_env"):
            value = getattr(self, name)
            text = isinstance(value, str) and (value or name != "provider_id")
            yield text, f"{name} is {short(value)}; give text, in quotes if it is a number"
        words = self.strengths
        yield not isinstance(words, str), f"strengths are {short(words)}; give a list, [{short(words)[1:-1]}]"
        listed = isinstance(words, list | tuple) and all(isinstance(s, str) for s in words)
        yield listed, f"strengths are {short(words)}; give a list of words"
        web = not self.base_url or re.match(r"https?://[^/]", self.base_url)
        yield web, f"base_url is {self.base_url!r}; it begins with http:// or https://"
        named = not self.key_env or re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", self.key_env)
        no_variable = "key_env is not the name of an environment variable (letters, digits, _)"
        yield named, f"{no_variable}; put the key into one and name it here"
        yield self.tier in TIERS, f"tier {short(self.tier)} is not one of {', '.join(TIERS)}"
        for name in ("usd_per_mtok_in", "usd_per_mtok_out", "usd_per_mtok_cached_in"):
            price = getattr(self, name)
            number = isinstance(price, int | float) and not isinstance(price, bool) and 0 <= price <= MOST_USD
            free = price is None and name == "usd_per_mtok_cached_in"
            yield number or free, f"{name} is {short(price)}; a price is a number of dollars, 0 or more"
        size = type(self.context) is int and 0 < self.context <= MOST_TOKENS
        yield size, f"context is {short(self.context)}; give the number of tokens it can hold"
        dated = isinstance(self.as_of, dt.date) and 2000 <= self.as_of.year <= 2100
        yield dated, f"as_of is {short(self.as_of)}; give the date of its prices as YYYY-MM-DD, from 2000 to 2100"

    def usd(self, tokens_in, tokens_out, tokens_cached=0):
        """Cost in dollars of a call (or of arrays of calls); `tokens_cached` of `tokens_in` were read from a cache."""
        cached = self.usd_per_mtok_cached_in
        cached = self.usd_per_mtok_in if cached is None else cached
        given = (tokens_in - tokens_cached) * self.usd_per_mtok_in + tokens_cached * cached
        return (given + tokens_out * self.usd_per_mtok_out) / 1e6


class Pool:
    """An ordered set of cards with named fixed sets, and samplers that draw models by tier."""

    def __init__(self, name: str, cards: Iterable[ModelCard], sets: Mapping[str, Iterable[str]] | None = None) -> None:
        self.name, self.cards = name, tuple(cards)
        self.ids = tuple(c.id for c in self.cards)
        if not self.cards:
            raise PoolError(f"pool {name!r} has no models; list at least one under 'models'")
        if twice := sorted({i for i in self.ids if self.ids.count(i) > 1}):
            raise PoolError(f"pool {name!r} has two cards for {', '.join(twice)}; ids must differ")
        self._by_id = dict(zip(self.ids, self.cards, strict=True))
        self.sets = {key: tuple(value) for key, value in (sets or {}).items()}
        for key, members in self.sets.items():
            for member in members:
                if member not in self._by_id:
                    raise PoolError(f"set {key!r}: {self._unknown(member)}")

    @classmethod
    def load(cls, path: str | Path) -> "Pool":
        """Read a pool from a YAML file; a bare name means `data/pools/<name>.yaml`."""
        path = Path(path)
        if path.suffix not in {".yaml", ".yml"}:
            path = root() / "data" / "pools" / f"{path}.yaml"
        if not path.is_file():
            known = ", ".join(sorted(p.stem for p in path.parent.glob("*.yaml"))) or "none"
            raise PoolError(f"no pool at {path}; pools there: {known}")
        try:
            raw = yaml.safe_load(path.read_text(encoding="utf-8"))
        except RecursionError as error:
            raise PoolError(f"{path} is nested too deep for a pool; see data/pools/pocket.yaml for the form") from error
        except (yaml.YAMLError, ValueError) as error:  # ValueError: no UTF-8, a day that no month has, endless digits
            raise PoolError(f"{path} is not YAML ({' '.join(str(error).split())}); repair it, in UTF-8") from error
        if not isinstance(raw, dict) or not isinstance(raw.get("models"), list):
            raise PoolError(f"{path} needs a list 'models'; see data/pools/pocket.yaml for the form")
        sets = raw.get("sets") or {}
        lists = isinstance(sets, dict) and all(isinstance(v, list) for v in sets.values())
        if not lists or not all(isinstance(m, str) for v in [[*sets], *sets.values()] for m in v):
            raise PoolError(f"{path}: 'sets' is a mapping of names to lists of models, not {short(sets)}")
        if not isinstance(name := raw.get("name", path.stem), str):
            raise PoolError(f"{path}: the pool's name is {short(name)}; give text, in quotes if it is a number")
        cards = [_card(item, raw.get("as_of"), path) for item in raw["models"]]
        return cls(name, cards, sets)

    def to_yaml(self) -> str:
        """This pool as the text of a file that `Pool.load` reads."""
        cards = [{f.name: _plain(getattr(c, f.name)) for f in fields(c)} for c in self.cards]
        models = [{n: value for n, value in card.items() if value not in (None, [], "")} for card in cards]
        sets = {"sets": {k: list(v) for k, v in self.sets.items()}} if self.sets else {}
        return yaml.safe_dump({"name": self.name, "models": models, **sets}, sort_keys=False)

    def __len__(self) -> int:
        return len(self.cards)

    def __iter__(self) -> Iterator[ModelCard]:
        return iter(self.cards)

    def __contains__(self, model: object) -> bool:
        return model in self._by_id

    def __getitem__(self, model: str) -> ModelCard:
        if model not in self._by_id:
            raise PoolError(self._unknown(model))
        return self._by_id[model]

    def _unknown(self, model: str) -> str:
        return f"{model!r} is not in pool {self.name!r} ({', '.join(self.ids)})"

    def subset(self, models: str | Iterable[str]) -> "Pool":
        """The pool of these models (or of a fixed set's name), in the order given."""
        if isinstance(models, str):
            if models not in self.sets:
                raise PoolError(f"pool {self.name!r} has no set {models!r}; its sets: {', '.join(self.sets) or 'none'}")
            return Pool(f"{self.name}:{models}", [self[m] for m in self.sets[models]])
        return Pool(self.name, [self[m] for m in models])

    def tier(self, name: str) -> tuple[ModelCard, ...]:
        """The cards of one tier."""
        if name not in TIERS:
            raise PoolError(f"{name!r} is not a tier ({', '.join(TIERS)})")
        return tuple(c for c in self.cards if c.tier == name)

    def sample(self, counts: Mapping[str, tuple[int, int]], rng: np.random.Generator) -> "Pool":
        """A random pool: of each tier a uniformly drawn number of models between (low, high), in this pool's order."""
        chosen: set[str] = set()
        for tier, (low, high) in counts.items():
            members = [c.id for c in self.tier(tier)]
            if not 0 <= low <= high or low > len(members):
                raise PoolError(f"cannot draw {low} to {high} of tier {tier!r}: pool {self.name!r} has {len(members)}")
            number = int(rng.integers(low, min(high, len(members)) + 1))
            if number:
                chosen.update(rng.choice(members, size=number, replace=False).tolist())
        return Pool(self.name, [c for c in self.cards if c.id in chosen])

    def __repr__(self) -> str:
        return f"Pool({self.name!r}, {len(self)} models: {', '.join(self.ids)})"

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{h}</th>" for h in ("model", "tier", "$ / M in", "$ / M out", "prices of", "strengths"))
        rows = "".join(
            f"<tr><td>{html.escape(c.id)}</td><td>{c.tier}</td><td>{c.usd_per_mtok_in:g}</td><td>{c.usd_per_mtok_out:g}</td>"
            f"<td>{c.as_of}</td><td>{html.escape(', '.join(c.strengths))}</td></tr>"
            for c in self.cards
        )
        return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _plain(value: Any) -> Any:
    """A field of a card as YAML writes it."""
    return [v._asdict() if isinstance(v, Skill) else v for v in value] if isinstance(value, tuple) else value


def _skills(model: str, skills: Any) -> tuple[Skill, ...]:
    """The skills of a card, read from YAML (a list of mappings) or given as `Skill`s; a kind stands once."""
    try:
        read = tuple(Skill(**s) if isinstance(s, Mapping) else Skill(*s) for s in skills)
        usable = all(isinstance(s.kind, str) and 0 <= s.accuracy <= 1 and type(s.n) is int and s.n > 0 for s in read)
        if usable and len({s.kind for s in read}) == len(read) and all(isinstance(s.as_of, dt.date) for s in read):
            return read
    except TypeError:
        pass
    raise PoolError(
        f"model {model!r}: skills are {short(skills)}; give a list of {{kind: sums, accuracy: 0.7, n: 40, as_of: "
        f"2026-01-31}}, each kind once, accuracy from 0 to 1, n above 0"
    )


def _card(item: Any, as_of: dt.date | None, path: Path) -> ModelCard:
    if not isinstance(item, dict):
        raise PoolError(
            f"{path}: {short(item)} is not a model; each entry of 'models' is a mapping with id, tier, prices"
        )
    item = {"as_of": as_of, **item}
    name = short(item.get("id", "?"))
    known = {f.name for f in fields(ModelCard)}
    needed = [f.name for f in fields(ModelCard) if f.default is MISSING]
    if unknown := sorted(map(str, set(item) - known)):
        raise PoolError(
            f"{path}: model {name} has unknown field {', '.join(unknown)}; known: {', '.join(sorted(known))}"
        )
    if missing := [key for key in needed if item.get(key) is None]:
        extra = f" (one of {', '.join(TIERS)})" if "tier" in missing else ""
        raise PoolError(f"{path}: model {name} lacks {', '.join(missing)}{extra}")
    return ModelCard(**item)
