"""The bodies that the HTTP API reads count as held bytes, as those on the data path do."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hierarchy.relay.held_bytes import HeldBytes


class HeldBodies:
    """ASGI middleware. What comes of a body is counted until its request is answered.

    Each body has a limit of its own, but a thousand connections can each send one.
    """

    def __init__(self, app: ASGIApp, held: HeldBytes) -> None:
        self._app = app
        self._held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on. Whoever reads its body gets `MemoryFull` if there is no room for it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        taken = 0

        async def count() -> Message:
            nonlocal taken
            message = await receive()
            size = len(message.get("body", b""))
            self._held.take("", size)
            taken += size
            return message

        try:
            await self._app(scope, count, send)
        finally:
            self._held.give_back("", taken)
