"""What a router reads depends on the question alone."""

from dataclasses import replace

from routerlab.label.oracle import label
from routerlab.label.rationale import analyse, leaks, rationale
from routerlab.routers import prompts


def test_counts_by_hand():
    text = "What is 12 + 3,450 - 7?\nA) 1\nB) 2"
    found = analyse(text)
    assert (found.words, found.longest_word, found.sentences) == (4, 4, 1)
    assert (found.numbers, found.digits, found.operators) == (5, 4, 2)
    assert (found.options, found.code, found.asks) == (2, False, "what")
    assert rationale(text) == (
        'A question of 4 words in 1 sentence, asking "what", with 5 numbers of up to 4 digits, 2 signs of arithmetic, '
        "2 options to choose from."
    )
    assert rationale("Yes.") == "A question of 1 word in 1 sentence."
    assert analyse("def f(x):\n    return x").code
    assert analyse("").words == 0


def read(text, cards=()):
    return "\n".join(m["content"] for m in prompts.prompt("oracle", text, cards, 1000.0).messages)


def training_texts(queries, table):
    made = label(table.grades(), table.matrix("usd").mean(0))
    replies = [prompts.reply("oracle", p, (), rationale(q.text)) for q, p in zip(queries, made.policy, strict=True)]
    return [(read(q.text), r["content"]) for q, r in zip(queries, replies, strict=True)]


def test_no_answer_grade_or_reference_reaches_a_prompt(pocket):
    """Swap every reference, label of origin, answer and cost for another one: prompts and rationales stay the same
    byte for byte, and only the policy, which is what is to be learned, may change.
    """
    train = pocket.split("train")
    queries, table = train.queries[:400], train.table.select([q.id for q in train.queries[:400]])
    marked = [
        replace(q, reference="REFERENCE-CANARY", meta={"grade": "GRADE-CANARY"}, source="SOURCE-CANARY")
        for q in queries
    ]
    # The rows of other queries: every answer, grade, cost and token count differs.
    shifted = table.select([*table.queries[1:], table.queries[0]])
    plain, changed = training_texts(queries, table), training_texts(marked, shifted)
    assert [p for p, _ in plain] == [p for p, _ in changed]
    assert [c.rsplit("\n", 1)[0] for _, c in plain] == [c.rsplit("\n", 1)[0] for _, c in changed]
    assert [c for _, c in plain] != [c for _, c in changed], "the shift changed no label: no test"
    assert "CANARY" not in str(changed)
    texts, seen, blank = [q.text for q in queries], [p for p, _ in plain], read("")
    for grade in ("CORRECT", "INCORRECT", "IDK"):
        assert leaks(seen, blank, texts, [grade] * len(texts)) == []
    for model in range(len(table.models)):
        assert leaks(seen, blank, texts, [a or "" for a in table.text("answer")[:, model]]) == []
    assert leaks(seen, blank, texts, [q.reference for q in queries]) == []


def test_a_prompt_that_tells_is_found():
    told, honest = read("What is 2+2? (4)"), read("Is 4 even?")
    assert leaks([told, honest], read(""), ["What is 2+2?", "Is 4 even?"], ["4", "4"]) == [0]
