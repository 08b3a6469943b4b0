"""The verbs `route` and `meet`, end to end on the embedded models: nothing but the new model is asked."""

import numpy as np
import pytest

from routerlab import cli, recorded
from routerlab.core.outcomes import OutcomeTable
from routerlab.core.queries import Query
from routerlab.routers.features import Tfidf
from routerlab.routers.learned import Linear
from routerlab.routers.store import load, save


@pytest.fixture(scope="module")
def known(pocket, tmp_path_factory):
    """The folder of a router that was fitted without pocket-mini."""
    train = pocket.split("train")
    rows = train.table.rows
    at = np.array(rows["model"].to_pylist(), object) != "pocket-mini"
    table = OutcomeTable(rows.filter(at), [m for m in pocket.pool.ids if m != "pocket-mini"])
    router = Linear(Tfidf(width=48).fit([q.text for q in train.queries])).fit(train.queries, table).at(2e3)
    return save(router, tmp_path_factory.mktemp("known") / "r", {"data": pocket.sha256, "pool": "pocket"})


def test_plain_texts_are_questions_and_predictions_have_labels(pocket, known):
    router, texts = load(known), ["Sort these words: b, a", "What is 2 + 2?"]
    pool = pocket.pool.subset(router.models)
    asked = [Query.ask(t) for t in texts]
    np.testing.assert_array_equal(router.route(texts, pool).choice, router.route(asked, pool).choice)
    frame, (quality, usd) = router.frame(texts), router.predict(asked)
    assert list(frame["query"][:5]) == [asked[0].id] * 5
    assert list(frame["model"]) == list(router.models) * 2
    np.testing.assert_array_equal(frame["quality"], quality.ravel())
    np.testing.assert_allclose(frame["value"], (quality - 2e3 * usd).ravel())
    called = frame[frame["calls"]]["model"].tolist()
    assert called == [router.models[c] for c in router.route(asked, pool).choice]


def test_route_prints_every_model_the_choice_and_the_answer(known, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("routerlab.core.runs.Run.__init__", _runs_in(tmp_path))
    question = recorded("pocket").split("test").queries[0].text
    assert cli.main(["route", question, "--router", str(known)]) == 0
    out = capsys.readouterr().out
    assert all(m in out for m in load(known).models)
    assert "cost weight 2000:" in out
    assert cli.main(["route", question, "--router", str(known), "--lam", "1e12"]) == 0
    assert "-> pocket-nano" in capsys.readouterr().out, "the cheapest"
    file = tmp_path / "q.txt"
    file.write_text(f"{' '.join(question.split())}\n\nWhat is 2 + 2?\n")
    assert cli.main(["route", str(file), "--router", str(known), "--lam", "1e12", "--answer"]) == 0
    out = capsys.readouterr().out
    assert out.count("-> pocket-nano") == 2
    assert out.count("pocket-nano, US$") == 2
    assert "in all" in out.splitlines()[-1]
    assert cli.main(["route", question, "--router", str(tmp_path)]) == 1
    assert "no router in" in capsys.readouterr().err


def test_meet_asks_the_new_model_alone_and_writes_a_router_that_knows_it(pocket, known, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("routerlab.core.runs.Run.__init__", _runs_in(tmp_path))
    arguments = ["meet", "--router", str(known), "--pool", "pocket", "--model", "pocket-mini", "--probes", "40"]
    assert cli.main([*arguments, "--run", "probes"]) == 0
    out = capsys.readouterr().out
    assert "asked 40 in this session" in out
    met = load(tmp_path / "probes" / "router")
    assert met.models == (*load(known).models, "pocket-mini")
    assert met.lam == 2e3
    test = pocket.split("test")
    predicted = met.predict(test.queries)[0][:, -1]
    actual = test.table.matrix("quality", None)[:, pocket.pool.ids.index("pocket-mini")]
    assert ((predicted - actual) ** 2).mean() < 0.8 * actual.var(), "more than its mean accuracy"
    assert cli.main([*arguments[:2], str(tmp_path / "probes" / "router"), *arguments[3:]]) == 1
    assert "knows 'pocket-mini' already" in capsys.readouterr().err


def _runs_in(folder):
    from routerlab.core.runs import Run

    original = Run.__init__

    def init(self, name):
        original(self, folder / name if isinstance(name, str) and "/" not in name and name != "pocket" else name)

    return init
