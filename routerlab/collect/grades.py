"""From the ledger's answers to the rows of a table: by verifiers, and by a paid judge."""

from collections import Counter
from collections.abc import Sequence

from routerlab.collect.calls import Call
from routerlab.collect.ledger import Ledger
from routerlab.collect.settings import Settings, call_of
from routerlab.core.pools import ModelCard
from routerlab.core.queries import Query
from routerlab.grade.judge import PROMPT, asked, grade_prompt, read_grade
from routerlab.grade.verify import Verdict, grade_many, unread, visible

WRITTEN = {"answer": "text", "finish": "finish", "latency_s": "latency_s"}  # columns of a table, by fields of a reply


def judgements(
    queries: Sequence[Query], calls: Sequence[Call], ledger: Ledger, judge: ModelCard
) -> dict[tuple[str, str], tuple[Call, str]]:
    """For each answer (by key and query) that a judge must grade: the call to the judge, and its nonce."""
    by_id = {q.id: q for q in queries if q.verifier == "judge" and q.reference is not None}
    judged = {}
    for call in calls:
        query, row = by_id.get(call.query), ledger.results.get(call.key)
        if query and row and row.reply and unread(row.reply.text, row.reply.finish) is None:
            messages, nonce = grade_prompt(asked(query), query.reference or "", visible(row.reply.text))
            judged[call.key, call.query] = call_of(judge, call.query, messages, Settings(prompt=PROMPT)), nonce
    return judged


def grade_calls(
    queries: Sequence[Query],
    calls: Sequence[Call],
    ledger: Ledger,
    judge: ModelCard | None = None,
    sandbox: str | None = None,
) -> tuple[dict[str, list], Counter[str]]:
    """The rows of a table, from every call that the ledger has a record of.

    A call whose last record is an error is a row with that error and no grade; one that was not asked has no row.

    Args:
        queries: of the calls.
        calls: of the run.
        ledger: what came of them.
        judge: the card of the model that graded.
        sandbox: where code runs, as for `collect`.

    Returns:
        (outcome columns, how answers were graded)
    """
    by_id = {q.id: q for q in queries}
    rows = [(c, row) for c in calls if (row := ledger.results.get(c.key) or ledger.errors.get(c.key))]
    replied = [(c, row.reply) for c, row in rows if row.reply]
    texts, ends = [reply.text for _, reply in replied], [reply.finish for _, reply in replied]
    graded = grade_many([by_id[c.query] for c, _ in replied], texts, ends, sandbox=sandbox)
    verdicts = dict(zip(((c.key, c.query) for c, _ in replied), graded, strict=True))
    for key, (call, nonce) in (judgements(queries, calls, ledger, judge) if judge else {}).items():
        row = ledger.results.get(call.key)
        if row and row.reply:
            # A reply that was cut off is no verdict: its last line may be the middle of a sentence.
            verdicts[key] = read_grade(row.reply.text if row.reply.finish == "stop" else "", nonce)
    lines = []
    for call, row in rows:
        reply, verdict = row.reply, verdicts.get((call.key, call.query)) or Verdict(None, None, "error", row.error)
        heat = call.temperature if reply is None or reply.temperature is None else reply.temperature
        line = {"query": call.query, "model": call.model, "sample": call.sample, "temperature": heat, "usd": row.usd}
        line |= {"grade": verdict.grade, "quality": verdict.quality, "error": verdict.error}
        line |= {name: getattr(reply, name, 0) for name in ("tokens_in", "tokens_cached", "tokens_out")}
        lines.append(line | {name: getattr(reply, of, None) for name, of in WRITTEN.items()})
    why = Counter(v.error or v.why for v in verdicts.values())
    why.update(row.error for _, row in rows if not row.reply and row.error)
    return {name: [line[name] for line in lines] for name in lines[0]} if lines else {}, why
