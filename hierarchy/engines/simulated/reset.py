"""Resets the TCP connection of a request. ASGI has no word for it, so the app remembers what uvicorn sends through."""

from __future__ import annotations

import asyncio
import socket
import struct

from starlette.applications import Starlette
from starlette.types import Receive, Scope, Send

_TRANSPORT = "hierarchy.transport"
_LINGER_0 = struct.pack("ii", 1, 0)  # on, 0 s: to close is to reset


class ResettableApp(Starlette):
    """An app whose requests know their connection."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        # `send` is a method of uvicorn's cycle of a request, in both of its HTTP implementations.
        scope[_TRANSPORT] = getattr(getattr(send, "__self__", None), "transport", None)
        await super().__call__(scope, receive, send)


async def reset_connection(scope: Scope) -> None:
    """Reset the connection. On a server other than uvicorn, nothing happens: the unfinished response is a cut."""
    transport = scope.get(_TRANSPORT)
    # asyncio's or uvloop's, which have no common class; closing: the client has left
    if transport is not None and not transport.is_closing():
        sock: socket.socket = transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_0)
        transport.abort()
        await asyncio.sleep(0)  # until uvicorn knows it; it would log the missing response as a defect
