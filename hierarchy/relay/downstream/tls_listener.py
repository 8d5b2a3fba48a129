"""A listening socket whose connections are TLS: each has its place from the moment when it is accepted.

An event loop tells a protocol of a TLS connection when its handshake is over. Until then a stranger's connections would
be neither counted nor closed where descriptors run short, for a minute each.

    accepted ──▶ place ──▶ handshake ──▶ protocol, with a place of its own
                   │            └──▶ failed, too slow, or another one needs the place: closed
                   └──▶ none left: closed
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable

from hierarchy.relay.downstream.places import PAUSE_S, Guest, Places

HANDSHAKE_S = 15.0  # it is three messages, which takes a second or two on a slow line


class Handshake:
    """A connection whose handshake is in progress: a `Guest`."""

    used = False
    is_idle = True

    def __init__(self, peer: str) -> None:
        self.peer = peer
        self.transport = self  # closes the connection
        self.task: asyncio.Task[None] | None = None

    def abort(self) -> None:
        """Close the connection at once."""
        if self.task is not None:
            self.task.cancel()

    def __repr__(self) -> str:
        return f"<Handshake {self.peer}>"


class TlsListener:
    """Accepts connections on one socket. It has what uvicorn needs of a server.

    make: the protocol of a connection; it discards the handshake's place when it is connected. handshake_s: seconds.
    """

    def __init__(
        self,
        sock: socket.socket,
        context: ssl.SSLContext,
        make: Callable[[Guest], asyncio.Protocol],
        places: Places,
        handshake_s: float = HANDSHAKE_S,
    ) -> None:
        self._sock = sock
        self._context = context
        self._make = make
        self._places = places
        self._handshake_s = handshake_s
        self._handshakes: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._listen()

    def close(self) -> None:
        """Accept no more. Handshakes that have begun go on."""
        if self._sock.fileno() < 0:
            return
        asyncio.get_running_loop().remove_reader(self._sock)
        if self._timer is not None:
            self._timer.cancel()
        self._sock.close()

    async def wait_closed(self) -> None:
        """For uvicorn. There is nothing to wait for."""

    def _listen(self) -> None:
        asyncio.get_running_loop().add_reader(self._sock, self._accept)

    def _accept(self) -> None:
        """Take one of the connections that wait: in each turn of the loop one, since a thousand may wait."""
        try:
            connection, address = self._sock.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):  # it has gone again
            return
        except OSError:  # no descriptor is left; it waits in the kernel
            self._places.accept_failed()
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._sock)
            self._timer = loop.call_later(PAUSE_S, self._listen)
            return
        connection.setblocking(False)
        self._admit(connection, str(address[0]) if isinstance(address, tuple) else "")

    def _admit(self, connection: socket.socket, peer: str) -> None:
        guest = Handshake(peer)
        if not self._places.add(guest, connection.fileno()):
            connection.close()
            return
        guest.task = task = asyncio.get_running_loop().create_task(self._shake_hands(guest, connection))
        self._handshakes.add(task)
        task.add_done_callback(self._handshakes.discard)

    async def _shake_hands(self, guest: Handshake, connection: socket.socket) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: self._make(guest), connection, ssl=self._context, ssl_handshake_timeout=self._handshake_s
            )
        except OSError:  # strangers scan ports, and clients reject a certificate
            connection.close()
        except asyncio.CancelledError:  # its place is needed
            connection.close()
            raise
        finally:
            self._places.discard(guest)

    def __repr__(self) -> str:
        return f"<TlsListener {len(self._handshakes)} handshakes>"
