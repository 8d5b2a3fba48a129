"""What was written and a client has not read yet: whether it reads at all, and how much memory that takes."""

from __future__ import annotations

import asyncio
import socket
import struct

from hierarchy.relay.held_bytes import HeldBytes


class Unread:
    """The bytes that wait for one client. held: counts those of a client that is slow."""

    transport: asyncio.Transport
    _size: int = 0  # when that was looked at last
    _counted: int = 0  # of them, in `held`

    def __init__(self, held: HeldBytes) -> None:
        self._held = held

    def look(self) -> None:
        """Note how much waits now."""
        self._size = self.transport.get_write_buffer_size()

    def has_shrunk(self) -> bool:
        """Has the client read anything since that was looked at last?"""
        before, self._size = self._size, self.transport.get_write_buffer_size()
        return self._size < before

    def begin(self) -> bool:
        """The client is slower than this node writes. Returns False if this node holds too much already."""
        self.look()
        self._count(self._size)
        return not self._held.is_full

    def end(self) -> None:
        """The client has read what was written, or is gone."""
        self._count(0)

    def _count(self, size: int) -> None:
        self._held.change(size - self._counted)
        self._counted = size

    def reset(self) -> None:
        """Drop it, and close with a RST, which no client takes for the end of a response."""
        sock = self.transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    def __repr__(self) -> str:
        return f"<Unread {self._size}>"
