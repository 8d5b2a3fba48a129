"""What an exchange needs of the connection that its request came on. The connection itself is in `downstream`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from hierarchy.http.request_head import Fields

FOREVER: Final = float("inf")  # a deadline that never passes


class Client:
    """The client of one exchange at a time: where its response is written, and how patient it is."""

    write: Callable[[bytes], object]  # to the client; never blocks
    deadline: float = FOREVER  # the one time limit in force now, by the lane's clock
    blocked: bool = False  # what was written last waits for the client to read
    peer: str = ""  # the client's IP address; "" where there is none

    def fields(self) -> Fields:
        """Header fields of every response of this node (date, server)."""
        raise NotImplementedError

    def has_read(self) -> bool:
        """Has the client read anything since the last call?"""
        raise NotImplementedError

    def abort(self) -> None:
        """Drop the connection at once."""
        raise NotImplementedError

    def reset(self) -> None:
        """End the connection so that the client cannot take what it has for the whole response: RST, not FIN."""
        raise NotImplementedError

    def response_done(self, now: float, *, request_complete: bool, keep_alive: bool) -> None:
        """The response of the exchange in progress is written. request_complete: its whole body had been read."""
        raise NotImplementedError
