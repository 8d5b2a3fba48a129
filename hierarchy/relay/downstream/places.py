"""Who may be connected when connections are scarce.

An address may have as many connections as are free: alone half of all, beside another one a third. So a proxy, or a
site behind one address, is hardly limited, and no address keeps all others out. When descriptors run short,
connections that never sent a request are closed first, then idle ones; the address with the most of them loses them,
the oldest first. A connection with a request is never closed for another one.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable
from typing import Any, Final, Protocol

from hierarchy.relay.warnings import Warnings
from hierarchy.runtime.descriptors import Descriptors

LEAST_PER_ADDRESS: Final = 8  # that any address may have, however few are free
BATCH: Final = 16  # one in so many is closed at once, so that not every new connection looks at all others
PAUSE_S: Final = 0.1  # after a look that found nothing to close, in which none is taken


class Guest(Protocol):
    """A client's connection, as far as its place is concerned.

    peer: its IP address. used: it has sent a request. is_idle: it has no request now. transport: its asyncio transport.
    """

    peer: str
    used: bool
    transport: Any

    @property
    def is_idle(self) -> bool: ...


class Places:
    """The connections that clients opened, by address.

    most: that one address may have; None for as many as are free. clock: monotonic seconds.
    """

    def __init__(
        self, descriptors: Descriptors, warnings: Warnings, clock: Callable[[], float], most: int | None = None
    ) -> None:
        self.most = most
        self.refused = 0  # connections, since the node started
        self._descriptors = descriptors
        self.warnings = warnings
        self._clock = clock
        self._by_address: dict[str, dict[Guest, None]] = {}  # in the order in which they were opened
        self._count = 0
        self._barren_until = 0.0  # nothing is looked for that could be closed
        descriptors.givers.append(self._make_room)

    def __len__(self) -> int:
        return self._count

    def of(self, peer: str) -> int:
        """How many connections an IP address has."""
        return len(self._by_address.get(address_of(peer), ()))

    def add(self, connection: Guest, number: int) -> bool:
        """A connection was opened. number: of its descriptor; -1 if that is not known. Returns False to refuse it."""
        if number >= 0:
            self._descriptors.note(number)
        address = address_of(connection.peer)
        own = self._by_address.get(address, {})
        if len(own) >= self._most() and not self._close_idle_of(address, own):
            self.refused += 1
            address = address or "a client"
            self.warnings.warn(
                "%s has more connections than are left for all others: its new ones are refused", address
            )
            return False
        if number >= self._descriptors.for_clients and self._clock() < self._barren_until:
            self.accept_failed()
            return False
        self._by_address.setdefault(address, {})[connection] = None
        self._count += 1
        return True

    def accept_failed(self) -> None:
        """There was no descriptor for a new connection."""
        self.refused += 1
        self.warnings.warn(
            "out of file descriptors: new connections are refused; raise the limit (ulimit -n, LimitNOFILE)"
        )

    def _close_idle_of(self, address: str, own: dict[Guest, None]) -> bool:
        """An address has all that it may have: close idle ones of its own. Returns whether there were any."""
        closed = self._close_some(list(own), len(own))
        if closed:
            self.warnings.warn(
                "%s has more connections than are left for all others: idle ones of it are closed",
                address or "a client",
            )
        return closed

    def _most(self) -> int:
        """How many connections one address may have now."""
        most = max(LEAST_PER_ADDRESS, self._descriptors.free)
        return most if self.most is None else min(most, self.most)

    def discard(self, connection: Guest) -> None:
        """A connection is gone, or no longer a client's."""
        address = address_of(connection.peer)
        own = self._by_address.get(address)
        if own is not None and connection in own:
            del own[connection]
            self._count -= 1
            if not own:
                del self._by_address[address]

    def _make_room(self) -> None:
        """Descriptors run short: close what is needed least."""
        groups = sorted(self._by_address.values(), key=len, reverse=True)
        if self._close_some([one for group in groups for one in group], self._count):
            self.warnings.warn(
                "few file descriptors are left: idle connections are closed; raise the limit (ulimit -n, LimitNOFILE)"
            )

    def _close_some(self, connections: Iterable[Guest], count: int) -> bool:
        """Close a few that never sent a request, or else that are idle. Returns whether there were any."""
        now = self._clock()
        if now < self._barren_until:
            return False
        idle = [one for one in connections if one.is_idle]
        chosen = [one for one in idle if not one.used] or idle
        if not chosen:
            self._barren_until = now + PAUSE_S
        for connection in chosen[: 1 + count // BATCH]:
            connection.transport.abort()
            self.discard(connection)
        return bool(chosen)

    def __repr__(self) -> str:
        return f"<Places {self._count} connections, {len(self._by_address)} addresses>"


def address_of(peer: str) -> str:
    """The part of an IP address that one client has for itself: of IPv6 the first 64 bits."""
    if ":" not in peer:
        return peer
    try:
        address = ipaddress.IPv6Address(peer.partition("%")[0])
    except ValueError:
        return peer
    mapped = address.ipv4_mapped
    return str(mapped) if mapped is not None else str(ipaddress.IPv6Network((int(address) >> 64 << 64, 64)))
