"""`routerlab run --profile live`: one command from a provider to the Pareto figure of its answers.

The provider listens on this machine and answers with the embedded models, as one that follows instructions would: it
takes the instruction off a question and puts its answer between tags. `make test-live` runs all ten notebooks.
"""

import asyncio
import json
import os
import threading
from collections import Counter

import pandas as pd
import pytest
import yaml
from aiohttp import web

from routerlab import Pool, Run, book, cli, recorded
from routerlab.pocket.make.record import replies

MODELS = ("pocket-nano", "pocket-mini", "pocket-words", "pocket-max")
WHOLE = os.environ.get("WHOLE_BOOK") == "1"
pytestmark = pytest.mark.skipif("WHOLE_BOOK" not in os.environ, reason="it takes minutes: make test-live")


class Provider:
    """OpenAI's chat completions over the embedded models; counts what it was asked and what it billed."""

    def __init__(self):
        self.asked, self.usd, self._one = Counter(), 0.0, threading.Lock()

    def _write(self, body):
        text, model = body["messages"][-1]["content"], body["model"]
        text = text.partition("\n\nWrite your final answer")[0]  # a question may end with a line break of its own
        with self._one:
            (pair,) = replies(model, [text], self.asked[model, text], body.get("temperature", 0.0), 160)
            self.asked[model, text] += 1
            written, counts = pair
            self.usd += Pool.load("pocket")[model].usd(counts.tokens_in, counts.tokens_out)
        answer = written if written == "I don't know" else f"<answer>{written}</answer>"
        return answer, {"prompt_tokens": counts.tokens_in, "completion_tokens": counts.tokens_out}

    async def _answer(self, request):
        assert request.headers["Authorization"] == "Bearer not-a-real-key"
        text, usage = await asyncio.to_thread(self._write, await request.json())
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        usage["total_tokens"] = sum(usage.values())
        return web.json_response({"id": "1", "object": "chat.completion", "choices": [choice], "usage": usage})

    async def _serve(self, started):
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._answer)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        started.url, self._end = f"http://127.0.0.1:{runner.addresses[0][1]}/v1", asyncio.Event()
        self._loop = asyncio.get_running_loop()
        started.set()
        await self._end.wait()
        await runner.cleanup()

    def __enter__(self):
        started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(started)), daemon=True)
        self._thread.start()
        assert started.wait(60)
        self.url = started.url
        return self

    def __exit__(self, *_):
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(60)


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    """The folder of a finished live run, the arguments it was started with, and its provider."""
    folder = tmp_path_factory.mktemp("live")
    patch = pytest.MonkeyPatch()
    patch.setenv("LOOPBACK_KEY", "not-a-real-key")
    with Provider() as provider:
        cards = yaml.safe_load(Pool.load("pocket").to_yaml())
        cards["models"] = [
            card | {"provider_id": f"openai/{card['id']}", "base_url": provider.url, "key_env": "LOOPBACK_KEY"}
            for card in cards["models"]
            if card["id"] in MODELS
        ]
        (folder / "pool.yaml").write_text(yaml.safe_dump(cards | {"name": "loopback", "sets": {}}))
        given = {"pool_name": folder / "pool.yaml", "budget_usd": 0.5, "routers": "length,linear,ridge"}
        # Notebook 09 probes 100 training questions.
        given |= {"source": "pocket:train,pocket:validation,pocket:test", "limit": 150}
        arguments = ["run", "--profile", "live", "--out", str(folder / "out"), "--jobs", "1"]
        if WHOLE:
            given |= {"seeds": 1, "steps": 60}  # of notebook 07
        else:
            arguments += ["--only", "00,09"]
        for name, value in given.items():
            arguments += ["-p", name, str(value)]
        status = cli.main(arguments)
        yield folder / "out", arguments, provider, status
    patch.undo()


def test_it_ends_with_the_pareto_figure_of_the_table_that_the_provider_filled(live):
    folder, _, _, status = live
    done = book.results(folder)
    assert status == 0, {name: one.error for name, one in done.items() if one.error}
    assert len(done) == (10 if WHOLE else 2)
    data = recorded(folder / "table")
    assert data.table.models == MODELS
    origin = json.loads((folder / "figures" / "pareto.json").read_text())
    assert origin["table"] == data.sha256, "the figure shows this table"
    points = pd.read_csv(folder / "figures" / "pareto.csv")
    assert {*MODELS, "ridge", "length rule"} <= set(points["name"])
    right = data.split("test").table.matrix("quality").mean(0)
    drawn = points.set_index("name").loc[list(MODELS), "quality"]
    assert drawn.to_numpy() == pytest.approx(right, abs=1e-6)
    assert (folder / "html" / "09_pareto.html").is_file()


def test_answers_over_http_are_graded_as_the_same_answers_in_the_embedded_table(live):
    data, embedded = recorded(live[0] / "table"), recorded("pocket")
    then = embedded.table.select([q.id for q in data.queries]).matrix("quality")
    then = then[:, [embedded.table.models.index(m) for m in data.table.models]]
    assert (data.table.matrix("quality") == then).mean() > 0.97


def test_the_budget_holds_and_a_second_run_asks_nothing(live, monkeypatch):
    folder, arguments, provider, _ = live
    paid, asked = provider.usd, sum(provider.asked.values())
    assert 0 < paid <= 0.5
    table = recorded(folder / "table").table
    assert table.matrix("usd").sum() <= paid + 1e-9
    monkeypatch.setattr(book, "_run_one", lambda *_: pytest.fail("a finished notebook was run again"))
    assert cli.main(arguments) == 0
    assert sum(provider.asked.values()) == asked


def test_a_budget_that_is_too_small_stops_before_any_notebook(live, tmp_path, capsys):
    _, arguments, _, _ = live
    small = [*arguments, "-p", "budget_usd", "0.0001"]
    small[small.index("--out") + 1] = str(tmp_path)
    assert cli.main(small) == 1
    assert "the table is not complete: the budget of $9e-05 is used up" in capsys.readouterr().err
    assert not list(tmp_path.glob("*.ipynb"))
    assert Run(tmp_path / "table").folder.is_dir()
