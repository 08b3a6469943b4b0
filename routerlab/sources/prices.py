"""Whether a pool's prices are those others list: litellm's map and genai-prices, both as installed, without network."""

import contextlib
import datetime as dt
import json
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from routerlab.core.pools import ModelCard, Pool
from routerlab.sources.files import SourceError

FIELDS = ("usd_per_mtok_in", "usd_per_mtok_out", "usd_per_mtok_cached_in")
# genai-prices' name of a provider that litellm's ids call otherwise
_PROVIDERS = {"together_ai": "together", "gemini": "google", "vertex_ai": "google", "xai": "x-ai", "bedrock": "aws"}


class Difference(NamedTuple):
    """A price beside that of a list; with the field `model` and no `theirs`, a model that the list does not know."""

    model: str
    field: str
    ours: float | str | None
    theirs: float | None
    source: str

    @property
    def agrees(self) -> bool:
        if self.theirs is None or not isinstance(self.ours, int | float):
            return False
        return abs(self.ours - self.theirs) <= 1e-6 * max(self.ours, self.theirs)


def compare(pool: Pool) -> list[Difference]:
    """Every price that litellm's local map or genai-prices (as of the card's date) lists beside the card's own, and the
    models each does not know. A card without a price for cached input charges its input price for it.
    """
    known = _litellm()
    differences = []
    for card in pool:
        for source, listed in (("litellm", _from_litellm(card, known)), ("genai-prices", _from_genai(card))):
            if listed is None:
                differences.append(Difference(card.id, "model", card.provider_id, None, source))
            for name, price in zip(FIELDS, listed or (), strict=listed is not None):
                ours = getattr(card, name)
                ours = price if ours is None and card.usd_per_mtok_in == price else ours
                if price is not None:
                    differences.append(Difference(card.id, name, ours, price, source))
    return differences


def report(compared: Sequence[Difference]) -> str:
    """Disagreements as lines, which models each source does not know, and how many prices agree."""
    priced = [d for d in compared if d.field != "model"]
    lines = [
        f"{d.model}: {d.field} is {'not given' if d.ours is None else f'{d.ours:g}'} here, {d.theirs:g} in {d.source}"
        for d in priced
        if not d.agrees
    ]
    for source in dict.fromkeys(d.source for d in compared):
        if unknown := [d.model for d in compared if d.field == "model" and d.source == source]:
            lines.append(f"unknown to {source}: {', '.join(unknown)}")
        of = [d for d in priced if d.source == source]
        lines.append(f"{source}: {sum(d.agrees for d in of)} of {len(of)} listed prices agree")
    return "\n".join(lines) or "no disagreement"


Prices = tuple[float | None, float | None, float | None]


def _litellm() -> dict[str, Any]:
    """litellm's map is a JSON file in its package: reading it takes no 3-second import and no network."""
    name = "litellm/model_prices_and_context_window_backup.json"
    path = Path(str(metadata.distribution("litellm").locate_file(name)))
    if not path.is_file():
        raise SourceError(f"no price map at {path}; install a litellm of the range in pyproject.toml")
    return json.loads(path.read_text("utf-8"))


def _from_litellm(card: ModelCard, known: dict[str, Any]) -> Prices | None:
    wanted = card.provider_id
    entry = known.get(wanted) or known.get(wanted.partition("/")[2])
    if entry is None or "input_cost_per_token" not in entry:
        return None
    names = ("input_cost_per_token", "output_cost_per_token", "cache_read_input_token_cost")
    return tuple(None if (p := entry.get(name)) is None else round(p * 1e6, 9) for name in names)  # type: ignore


def _from_genai(card: ModelCard) -> Prices | None:
    from genai_prices import Usage, calc_price

    prefix, _, rest = card.provider_id.partition("/")
    provider = _PROVIDERS.get(prefix, prefix) if rest else None
    when, usage = dt.datetime.combine(card.as_of, dt.time(), dt.UTC), Usage(input_tokens=1, output_tokens=1)
    for name, of in ((rest or prefix, provider), (card.provider_id, None)):
        with contextlib.suppress(LookupError):
            price = calc_price(usage, name, provider_id=of, genai_request_timestamp=when).model_price
            prices = (price.input_mtok, price.output_mtok, price.cache_read_mtok)
            return tuple(None if p is None else float(getattr(p, "base", p)) for p in prices)  # type: ignore
    return None
