"""Run a session in its own thread, as a notebook's thread already runs an event loop; end it on Ctrl-C or SIGTERM."""

import asyncio
import concurrent.futures
import contextlib
import signal
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence

from routerlab.collect.backends import Backend
from routerlab.collect.progress import Progress
from routerlab.collect.settings import CollectError


def in_thread(
    session: Callable[[asyncio.Event], Coroutine], backends: Sequence[Backend], progress: Progress
) -> str | None:
    """Run the session and close the backends. Returns why it stopped, or None.

    After the first Ctrl-C or SIGTERM calls in flight are awaited; after a second one they are listed as unknown.
    """
    stop, runner = asyncio.Event(), asyncio.Runner(loop_factory=asyncio.new_event_loop)
    loop = runner.get_loop()
    done: concurrent.futures.Future[str | None] = concurrent.futures.Future()

    async def ticks() -> None:
        while True:
            await asyncio.sleep(1.0)
            progress.tick()  # also while no call returns

    async def whole() -> str | None:
        async with contextlib.AsyncExitStack() as closing:
            for backend in backends:
                closing.push_async_callback(backend.close)
            closing.callback(asyncio.ensure_future(ticks()).cancel)
            try:
                await session(stop)
            except CollectError as error:
                return str(error)

    def body() -> None:
        try:
            with runner:
                why = runner.run(whole())
            done.set_result(why)
        except BaseException as error:
            done.set_exception(error)

    with _sigterm():
        threading.Thread(target=body, name="collect", daemon=True).start()
        try:
            return done.result()
        except KeyboardInterrupt:
            loop.call_soon_threadsafe(stop.set)
            progress.line(
                f"stopping: waiting for {progress.in_flight} calls in flight, which are paid; Ctrl-C again leaves them "
                f"as unknown, charged at their reservations"
            )
            return done.result()


@contextlib.contextmanager
def _sigterm() -> Iterator[None]:
    """While this lasts, SIGTERM acts as Ctrl-C; only the main thread can set that."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
