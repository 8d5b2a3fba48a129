"""What a connection knows of a request for the ASGI app, and who hears of the requests on a link."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mypy_extensions import mypyc_attr


class AppRequest:
    """A request for the ASGI app. cycle: uvicorn's object for it. run: starts the app."""

    def __init__(self, cycle: Any, run: Callable[[], None]) -> None:
        self.cycle = cycle
        self.run = run

    @property
    def complete(self) -> bool:
        """Is its response written?"""
        return bool(self.cycle.response_complete)

    def client_gone(self) -> None:
        """Tell the app, if it has not answered yet."""
        if not self.complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()


@mypyc_attr(allow_interpreted_subclasses=True)
class Observer:
    """Hears of the requests on one connection: by it reverse links tell which of them are busy."""

    def request_begins(self, *, local: bool) -> None:
        """The head of a lane request is complete. local: this node answers it itself."""
        raise NotImplementedError

    def request_ends(self, *, last: bool) -> None:
        """A response is written. last: no other request waits for its turn."""
        raise NotImplementedError
