"""A `Query` is one question with what is needed to grade an answer; its id is a hash of its content."""

import hashlib
import html
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NoReturn

import pyarrow as pa

SCHEMA_VERSION = "queries/1"
SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("messages", pa.string(), nullable=False),  # JSON: a list of {"role", "content"}
        pa.field("reference", pa.string()),
        pa.field("verifier", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("meta", pa.string(), nullable=False),  # JSON object
    ],
    metadata={"schema": SCHEMA_VERSION},
)


class QueryError(ValueError):
    """A query, or a file of them, that cannot be used; the message says what to change."""


class Frozen(dict):
    """A dict that refuses changes, and that pickle, `copy.deepcopy` and `dataclasses.asdict` can copy."""

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError("a query's messages and meta do not change; make another query: dataclasses.replace(query, …)")

    __setitem__ = __delitem__ = __ior__ = clear = pop = popitem = setdefault = update = _refuse  # type: ignore

    def __reduce__(self) -> tuple[type, tuple[dict]]:
        return Frozen, (dict(self),)


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


@dataclass(frozen=True)
class Query:
    """One question: what is asked, the reference answer, and the name of the verifier that grades answers to it.

    `id` is the first 16 hex digits of a BLAKE2b hash of messages, reference and verifier: equal content, equal id,
    wherever the query came from. `source`, `split` and `meta` say where it came from and do not change the id.
    """

    messages: tuple[Mapping[str, str], ...]
    reference: str | None
    verifier: str
    source: str
    split: str = "test"
    meta: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.messages:
            raise QueryError("a query needs at least one message; give messages=[{'role': 'user', 'content': ...}]")
        for message in self.messages:
            texts = all(isinstance(v, str) for v in message.values())
            if not texts or set(message) != {"role", "content"}:
                raise QueryError(f"a message is {{'role': str, 'content': str}}, not {dict(message)!r}")
        try:
            for text in (self.reference or "", *(m["content"] for m in self.messages)):
                text.encode()
        except UnicodeEncodeError as error:
            raise QueryError(
                f"half a surrogate pair in {_short(ascii(error.object))}; it is no text: replace or drop it"
            ) from error
        object.__setattr__(self, "messages", tuple(map(Frozen, self.messages)))
        object.__setattr__(self, "meta", Frozen(self.meta))

    @classmethod
    def ask(
        cls,
        text: str,
        reference: str | None = None,
        *,
        verifier: str = "exact",
        source: str = "user",
        **rest,
    ) -> "Query":
        """A query of one user message."""
        return cls(({"role": "user", "content": text},), reference, verifier, source, **rest)

    @cached_property
    def id(self) -> str:
        content = _canonical([[dict(m) for m in self.messages], self.reference, self.verifier])
        return hashlib.blake2b(content.encode(), digest_size=8).hexdigest()

    @property
    def text(self) -> str:
        """The last user message: what routers read."""
        asked = [m["content"] for m in self.messages if m["role"] == "user"]
        return asked[-1] if asked else self.messages[-1]["content"]

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        return f"Query({self.id}, {self.source}/{self.split}, {_short(self.text)!r})"

    def _repr_html_(self) -> str:
        given = self.reference
        answer = "" if given is None else f" &rarr; <b>{html.escape(_short(given))}</b>"
        where = html.escape(f"{self.source}/{self.split}")
        return f"<div><code>{self.id}</code> <small>{where}</small> {html.escape(_short(self.text, 300))}{answer}</div>"


def _short(text: str, width: int = 70) -> str:
    text = " ".join(text.split())
    return text if len(text) <= width else text[: width - 1] + "…"


def to_arrow(queries: Iterable[Query]) -> pa.Table:
    """Queries as an Arrow table of `SCHEMA`; two queries with one id are refused."""
    rows: dict[str, tuple] = {}
    for number, q in enumerate(queries):
        if q.id in rows:
            first = [*rows].index(q.id)
            raise QueryError(
                f"rows {first} and {number} are the same query {q.id}: {_short(q.text)!r}; keep one of them"
            )
        messages, meta = _canonical([dict(m) for m in q.messages]), _canonical(dict(q.meta))
        rows[q.id] = q.id, messages, q.reference, q.verifier, q.source, q.split, meta
    return pa.Table.from_pylist([dict(zip(SCHEMA.names, row, strict=True)) for row in rows.values()], schema=SCHEMA)


def from_arrow(table: pa.Table) -> list[Query]:
    """The queries of a table; an id that does not match its content is refused."""
    version = (table.schema.metadata or {}).get(b"schema", b"").decode()
    if version != SCHEMA_VERSION:
        raise QueryError(
            f"this is not a table of queries of version {SCHEMA_VERSION!r} but {version!r}; write it with to_arrow"
        )
    out = []
    for number, row in enumerate(table.to_pylist()):
        content = {**row, "messages": tuple(json.loads(row["messages"])), "meta": json.loads(row["meta"])}
        q = Query(**{n: content[n] for n in SCHEMA.names[1:]})
        if q.id != row["id"]:
            raise QueryError(
                f"row {number}: id {row['id']} does not match its content ({q.id}); the file was edited: make it again"
            )
        out.append(q)
    return out


def read_queries(path) -> list[Query]:
    """Queries from a Parquet file written from `to_arrow`."""
    import pyarrow.parquet as pq

    return from_arrow(pq.read_table(path))


def by_split(queries: Sequence[Query]) -> dict[str, list[Query]]:
    """Queries by the name of their split, in order."""
    out: dict[str, list[Query]] = {}
    for q in queries:
        out.setdefault(q.split, []).append(q)
    return out
