"""How many bytes of requests and responses a node holds in memory, all together and for each API key.

Each body is within `max_body_bytes`; this bounds their sum. Whatever is held is counted, and everything that is counted
is given back exactly once. One key may hold as much as is free: alone half of the limit, beside another one a third.
So a single key is hardly limited, and none keeps all others out.

Source of the rule: A. K. Choudhury and E. L. Hahne, Dynamic Queue Length Thresholds for Shared-Memory Packet Switches,
IEEE/ACM Transactions on Networking 6(2), 1998.
"""

from __future__ import annotations

from typing import Final

from hierarchy.errors import MemoryFull, TooMuchInFlight

UNLIMITED: Final = 1 << 62


class HeldBytes:
    """The sum, and what each key has of it. limit: bytes."""

    def __init__(self, limit: int = UNLIMITED) -> None:
        self.limit = limit
        self.total = 0  # bytes held now
        self.refused = 0  # requests, since the node started
        self._by_key: dict[str, int] = {}  # name of the key -> bytes; none for requests without a key

    def change(self, size: int) -> None:
        """Count bytes that this node has in memory already, or give them back. size: negative for the latter."""
        self.total += size

    @property
    def is_full(self) -> bool:
        """Is the limit reached?"""
        return self.total > self.limit

    def check(self, key: str, size: int) -> None:
        """Would `size` more bytes be too many? key: name of the API key; "" without one.

        Raises:
            MemoryFull: the node holds too much.
            TooMuchInFlight: this key does.
        """
        free = self.limit - self.total
        if size > free:
            raise self.refusal()
        if key and self._by_key.get(key, 0) + size > free:
            self.refused += 1
            raise TooMuchInFlight(
                "the requests in progress of this API key hold as many bytes as are free on this node; wait for some"
            )

    def refusal(self) -> MemoryFull:
        """The error for a request for which there is no room; counts it."""
        self.refused += 1
        return MemoryFull(f"the requests in progress fill the {self.limit} bytes that this node may hold; try again")

    def take(self, key: str, size: int) -> None:
        """Count `size` more bytes of a request. Raises as `check`, and counts nothing then."""
        if key or self.total + size > self.limit:
            self.check(key, size)
            if key:
                self._by_key[key] = self._by_key.get(key, 0) + size
        self.total += size

    def give_back(self, key: str, size: int) -> None:
        """Bytes that were counted for a request are no longer held."""
        self.total -= size
        if key:
            left = self._by_key.get(key, 0) - size
            if left > 0:
                self._by_key[key] = left
            else:
                self._by_key.pop(key, None)

    def __repr__(self) -> str:
        return f"<HeldBytes {self.total} of {self.limit}, {len(self._by_key)} keys>"
