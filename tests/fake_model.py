"""A model server that runs here: OpenAI's chat completions, whole and streamed, with faults named in the model's name.

    python -m tests.fake_model [WAIT_S]    serves on a free port of 127.0.0.1 and prints its URL

`m` answers; `m~hang`, `m~429`, `m~500`, `m~reset`, `m~partial` (a stream that breaks), `m~silent` (breaks before it
says anything), `m~slow` (a token each 50 ms), `m~no_usage`; `m~5%` draws a fault for that share of the requests.
"""

import asyncio
import json
import random
import sys

from aiohttp import web

from routerlab.serve.upstream import text_of

FAULTS = ("500", "429", "reset", "partial", "silent")


class FakeModel:
    """`async with FakeModel() as url`: `seen` holds the requests, `flying` is how many are being answered, `billed` how
    many answers were complete.
    """

    def __init__(self, wait_s: float = 0.0, seed: int = 0, answers=None) -> None:
        self.wait_s, self.seen, self.flying, self.cancelled, self.billed = wait_s, [], 0, 0, 0
        self.answers = answers  # of a request to a message; None: the words of the question
        self._random = random.Random(seed)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        body = json.loads(await request.read())
        if len(self.seen) < 1000:
            self.seen.append(body)
        self.flying += 1
        try:
            return await self._respond(request, body, body["model"].partition("~")[2])
        except (asyncio.CancelledError, ConnectionError):
            self.cancelled += 1
            raise
        finally:
            self.flying -= 1

    async def _respond(self, request, body, fault):
        if fault.endswith("%"):
            fault = self._random.choice(FAULTS) if self._random.random() < float(fault[:-1]) / 100 else ""
        if self.wait_s:
            await asyncio.sleep(self.wait_s)
        if fault == "hang":
            await asyncio.sleep(3600)
        if fault in ("429", "500"):
            headers = {"Retry-After": "7"} if fault == "429" else {}
            return web.json_response({"error": {"message": f"fault {fault}"}}, status=int(fault), headers=headers)
        if fault == "reset":
            request.transport.abort()
            return web.Response()
        text = text_of(body["messages"][-1])
        message = {"role": "assistant", "content": f"{body['model'].partition('~')[0]} heard: {text}"}
        if self.answers is not None:
            message = self.answers(body)
        elif body.get("tools") and body.get("tool_choice", "auto") != "none" and body["messages"][-1]["role"] == "user":
            name = body["tools"][0]["function"]["name"]
            call = {"id": "t1", "type": "function", "function": {"name": name, "arguments": '{"city": "Bern"}'}}
            message = {"role": "assistant", "content": None, "tool_calls": [call]}
        words = (message["content"] or "").split(" ")
        usage = {"prompt_tokens": 10, "completion_tokens": len(words), "total_tokens": 10 + len(words)}
        finish = "tool_calls" if message.get("tool_calls") else "stop"
        if body.get("max_tokens", 99) < len(words):
            words, finish = words[: body["max_tokens"]], "length"
            message["content"], usage["completion_tokens"] = " ".join(words), len(words)
        if not body.get("stream"):
            if fault in ("partial", "silent"):
                request.transport.abort()
                return web.Response()
            self.billed += 1
            choice = {"index": 0, "message": message, "finish_reason": finish}
            return web.json_response(
                {"id": "up", "choices": [choice]} | ({} if fault == "no_usage" else {"usage": usage})
            )
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)

        async def say(delta, finish_reason=None, **more):
            chunk = {"id": "up", "choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}], **more}
            await response.write(f"data: {json.dumps(chunk)}\n\n".encode())

        await say({"role": "assistant", "content": ""})
        if fault == "silent":
            request.transport.abort()
            return response
        if message.get("tool_calls"):
            await say({"tool_calls": [{"index": 0, **message["tool_calls"][0]}]})
            words = []
        for place, word in enumerate(words):
            if fault == "partial" and place == 2:
                request.transport.abort()
                return response
            await say({"content": word + " " * (place < len(words) - 1)})
            if fault == "slow":
                await asyncio.sleep(0.05)
        await say({}, finish)
        if fault != "no_usage":
            await response.write(f"data: {json.dumps({'id': 'up', 'choices': [], 'usage': usage})}\n\n".encode())
        await response.write(b"data: [DONE]\n\n")
        self.billed += 1
        return response

    async def __aenter__(self) -> str:
        app = web.Application(client_max_size=2**26)
        app.router.add_post("/v1/chat/completions", self._answer)
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0, backlog=2048).start()
        return f"http://127.0.0.1:{self._runner.addresses[0][1]}/v1"

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()


async def main() -> None:
    async with FakeModel(float(sys.argv[1]) if len(sys.argv) > 1 else 0.0) as url:
        print(url, flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())
