"""The verb that grades recorded answers again."""

import argparse

from routerlab.cli.shared import AddVerb, add_flags, say


def add(verb: AddVerb) -> None:
    """Add this verb to the command line."""
    add_flags(verb(grade, "grade", "grade the recorded answers of a run again; asks no model"), "grade")


def grade(args: argparse.Namespace) -> int:
    """Grade what a run recorded with the verifiers as they are now, and write its table again. No model is asked;
    grades given by a judge stay as they are."""
    from routerlab.core.outcomes import OutcomeTable
    from routerlab.core.recorded import record, recorded
    from routerlab.core.runs import Run, RunError
    from routerlab.grade.contract import lenient_share
    from routerlab.grade.verify import grade_many, visible

    if args.run == "pocket":
        raise RunError("'pocket' is the committed table; name a run of your own in data/runs")
    data = recorded(args.run)
    queries = {q.id: q for q in data.queries}
    columns = data.table.rows.to_pydict()
    there = [
        i
        for i, (q, answer) in enumerate(zip(columns["query"], columns["answer"], strict=True))
        if answer is not None and queries[q].verifier != "judge"
    ]
    asked, answers = [queries[columns["query"][i]] for i in there], [columns["answer"][i] for i in there]
    verdicts = grade_many(asked, answers, [columns["finish"][i] or "stop" for i in there], sandbox=args.sandbox)
    changed = 0
    for i, verdict in zip(there, verdicts, strict=True):
        changed += columns["grade"][i] != verdict.grade
        columns["grade"][i], columns["quality"][i], columns["error"][i] = verdict.grade, verdict.quality, verdict.error
    record(Run(args.run), data.queries, data.pool, OutcomeTable(columns, data.pool.ids), data.card)
    share = lenient_share(asked, map(visible, answers))
    print(f"{len(there)} answers graded again, {changed} grades changed; {share:.1%} read by the lenient reader")
    if failed := sum(v.error == "grading" for v in verdicts):
        say(f"routerlab: {failed} answers could not be graded; `routerlab show` says why")
    return 0
