"""Support for many tests: serve an ASGI app, find a free port, wait for a condition."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from random import SystemRandom
from typing import Any, TypeVar

import uvicorn

DEADLINE_S = 10.0
TICK_S = 0.005
T = TypeVar("T")


@contextlib.contextmanager
def running_app(app: Any, port: int = 0, **config: Any) -> Iterator[str]:
    """Serve an ASGI app with uvicorn on 127.0.0.1 in a thread; yields its URL without a slash at the end.

    `config` is passed to `uvicorn.Config`. At the end, running requests get half a second before they are cancelled.
    """
    settings: dict[str, Any] = {"log_level": "critical", "timeout_graceful_shutdown": 0.5, **config}
    listener = socket.create_server(("127.0.0.1", port))
    server = uvicorn.Server(uvicorn.Config(app, **settings))
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    try:
        eventually(lambda: server.started or not thread.is_alive(), "the server to start")
        assert server.started, "the application failed to start"
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(DEADLINE_S)
        listener.close()
        assert not thread.is_alive(), "the server did not stop"


def at_once(work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that waits for nothing, such as an operation on a file that runs `AT_ONCE`."""
    try:
        work.send(None)
    except StopIteration as ended:
        result: T = ended.value
        return result
    work.close()
    raise AssertionError("it waits for something")


def free_port() -> int:
    """A port that no process uses now, on any address.

    The system gives none of these to connections, nor to servers that ask for any port: such a one could be taken
    before the test uses it.
    """
    while True:
        port = SystemRandom().randrange(22_000, 32_000)
        with contextlib.suppress(OSError), socket.create_server(("", port)):
            return port


def eventually(condition: Callable[[], Any], what: str = "the condition", deadline_s: float = DEADLINE_S) -> Any:
    """Poll `condition` until it returns a true value, and return that; fail after `deadline_s`."""
    end = time.monotonic() + deadline_s
    while not (value := condition()):
        assert time.monotonic() < end, f"waited {deadline_s} s for {what}"
        time.sleep(TICK_S)
    return value


async def eventually_async(
    condition: Callable[[], Awaitable[Any] | Any], what: str = "the condition", deadline_s: float = DEADLINE_S
) -> Any:
    """As `eventually`, inside an event loop; `condition` may be a coroutine function."""
    end = time.monotonic() + deadline_s
    while True:
        value = condition()
        if isinstance(value, Awaitable):
            value = await value
        if value:
            return value
        assert time.monotonic() < end, f"waited {deadline_s} s for {what}"
        await asyncio.sleep(TICK_S)
