import copy
import dataclasses
import hashlib
import json
import multiprocessing
import pickle

import pyarrow.parquet as pq
import pytest

from routerlab.core.queries import Query, QueryError, by_split, from_arrow, read_queries, to_arrow


def test_the_id_is_of_the_content_alone():
    one = Query.ask("What is 2+2?", "4", source="a", split="train", meta={"family": "sum"})
    two = Query.ask("What is 2+2?", "4", source="b", split="test")
    content = '[[{"content":"What is 2+2?","role":"user"}],"4","exact"]'
    assert one.id == two.id == hashlib.blake2b(content.encode(), digest_size=8).hexdigest()
    assert (
        len(
            {
                one.id,
                Query.ask("What is 2+2?", "5").id,
                Query.ask("What is 2+2?", "4", verifier="numeric").id,
            }
        )
        == 3
    )


def test_round_trip(tmp_path):
    queries = [
        Query.ask("á\n<b>", "x", meta={"k": [1, {"z": None}]}),
        Query.ask("no reference", split="train"),
    ]
    pq.write_table(to_arrow(queries), tmp_path / "q.parquet")
    again = read_queries(tmp_path / "q.parquet")
    assert again == queries
    assert [q.id for q in again] == [q.id for q in queries]
    assert list(by_split(again)) == ["test", "train"]
    assert to_arrow([]).num_rows == 0


def test_text_is_the_last_thing_the_user_said():
    roles = ("system", "user", "assistant", "user", "assistant")
    messages = tuple({"role": r, "content": f"{r} {i}"} for i, r in enumerate(roles))
    assert Query(messages, None, "exact", "t").text == "user 3"


def test_bad_queries_are_refused():
    with pytest.raises(QueryError, match="at least one message"):
        Query((), None, "exact", "t")
    with pytest.raises(QueryError, match="'role': str"):
        Query(({"role": "user"},), None, "exact", "t")
    with pytest.raises(QueryError, match=r"rows 0 and 2 are the same query"):
        to_arrow([Query.ask("a"), Query.ask("b"), Query.ask("a", split="train")])


def test_an_edited_file_is_refused():
    table = to_arrow([Query.ask("a", "1"), Query.ask("b", "2")])
    edited = table.set_column(2, "reference", [["1", "3"]]).cast(table.schema)
    with pytest.raises(QueryError, match="row 1: id .* does not match"):
        from_arrow(edited)
    with pytest.raises(QueryError, match="queries/1"):
        from_arrow(table.replace_schema_metadata({}))


def test_model_text_cannot_inject_html():
    q = Query.ask("<script>alert(1)</script>", "<img>")
    assert "<script>" not in q._repr_html_()
    assert "&lt;script&gt;" in q._repr_html_()
    assert "<img>" not in q._repr_html_()
    assert repr(q) == repr(Query.ask("<script>alert(1)</script>", "<img>"))


def _id_elsewhere(query: Query) -> tuple[str, dict, str]:
    return query.id, dict(query.meta), type(query.meta).__name__


def test_a_query_travels_whole_and_stays_as_it_is():
    query = Query.ask("á?", "4", source="s", split="train", meta={"k": [1, {"z": None}], "level": 2})
    fresh = Query.ask("á?", "4", source="s", split="train", meta={"k": [1, {"z": None}], "level": 2})
    bare = pickle.loads(pickle.dumps(fresh))  # noqa: S301 (our own bytes); its id was not computed before
    for again in (bare, pickle.loads(pickle.dumps(query)), copy.deepcopy(query), copy.copy(query)):  # noqa: S301
        assert (again, again.id, again.text) == (query, query.id, "á?")
        for change in (
            lambda q: q.meta.update(level=3),
            lambda q: q.meta.pop("level"),
            lambda q: q.meta.setdefault("new", 1),
            lambda q: q.meta.__ior__({"new": 1}),
            lambda q: q.messages[0].__setitem__("content", "b?"),
            lambda q: q.messages[0].clear(),
            lambda q: q.meta.popitem(),
            lambda q: q.meta.__delitem__("level"),
        ):
            with pytest.raises(TypeError, match=r"do not change; make another query"):
                change(again)
        with pytest.raises(dataclasses.FrozenInstanceError):
            again.split = "test"
        assert again.meta == {"k": [1, {"z": None}], "level": 2}
    told = dataclasses.asdict(query)
    assert told == {
        "messages": ({"role": "user", "content": "á?"},),
        "reference": "4",
        "verifier": "exact",
        "source": "s",
        "split": "train",
        "meta": {"k": [1, {"z": None}], "level": 2},
    }
    assert Query(**told) == query
    assert json.loads(json.dumps(told["meta"])) == {"k": [1, {"z": None}], "level": 2}
    moved = dataclasses.replace(query, split="test")
    assert (moved.id, moved.split, query.split) == (query.id, "test", "train")


def test_queries_go_through_a_process_pool():
    queries = [Query.ask(f"{n}?", str(n), meta={"n": n}) for n in range(4)]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.map(_id_elsewhere, queries) == [(q.id, {"n": n}, "Frozen") for n, q in enumerate(queries)]
