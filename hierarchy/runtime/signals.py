"""The signals of a process that stays, owned from its first moment.

By default SIGHUP, SIGUSR1, SIGUSR2 and SIGQUIT end a process, without a word to its streams. An operator sends SIGHUP
to a daemon to have it read its files again, and a terminal that is closed sends it, too. So a daemon handles it before
it imports anything that takes time: what comes until it can act is remembered. Where SIGHUP is ignored, as under
nohup, it stays ignored.

This module is imported first of all, so it imports little.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    import asyncio

TERMINAL_CLOSED_S = 1.0  # a shell that ends sends SIGHUP just before its terminal is closed
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT)  # the first lets running streams finish, the second does not
UNUSED = (signal.SIGUSR1, signal.SIGUSR2)


class Hangup:
    """The handler of SIGHUP in a process that stays."""

    def __init__(self) -> None:
        self._had_terminal = has_terminal()
        self._came = False  # while nothing listened
        self._tell: Callable[[], object] | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """The signal came. Runs in the main thread, between any two instructions."""
        if self._tell is None:
            self._came = True
        else:
            self._tell()

    def tell(self, call: Callable[[], object]) -> None:
        """From now on, call this at each signal, as `__call__` runs; at once if the signal has come before."""
        self._tell = call
        if self._came:
            self._came = False
            call()

    def listen(
        self, loop: asyncio.AbstractEventLoop, on_hangup: Callable[[], object], on_closed: Callable[[], object]
    ) -> None:
        """From now on, call one of these in the event loop; at once if the signal has come before.

        on_hangup: for each signal. on_closed: once, if the terminal of this process was closed.
        """

        def end_if_closed() -> bool:
            if self.lost_terminal():
                self._had_terminal = False
                on_closed()
                return True
            return False

        def act() -> None:
            if not end_if_closed():
                on_hangup()
                loop.call_later(TERMINAL_CLOSED_S, end_if_closed)

        self.tell(lambda: loop.call_soon_threadsafe(act))

    def ignore(self) -> None:
        """The process ends: there is nothing to do any more."""
        self._tell = _nothing

    def lost_terminal(self) -> bool:
        """Whether the terminal of this process was closed."""
        return self._had_terminal and not has_terminal()


def hangup() -> Hangup | None:
    """The handler of SIGHUP, set now if none was; None if the signal is ignored, or handled in another way."""
    handler = signal.getsignal(signal.SIGHUP)
    if handler is signal.SIG_DFL and _in_main_thread():
        handler = Hangup()
        signal.signal(signal.SIGHUP, handler)
    return handler if isinstance(handler, Hangup) else None


def own() -> None:
    """Own the signals of this process, which stays until one of `ENDING` comes."""
    hangup()
    for number in UNUSED:
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _nothing)
    if os.getpid() == 1:
        for number in (signal.SIGTERM, signal.SIGQUIT):
            signal.signal(number, end_by)


def ends_process() -> Any:
    """What makes a signal end this process at once, as its default action does.

    The kernel skips the default action in the first process of a container.
    """
    return end_by if os.getpid() == 1 else signal.SIG_DFL


def end_by(number: int, frame: FrameType | None = None) -> NoReturn:
    """End this process at once, with the status that shells show for one that a signal ended."""
    os._exit(128 + number)


def has_terminal() -> bool:
    """Whether a terminal controls this process. It does no longer after the terminal was closed."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _nothing(*_: object) -> None:
    """Handles a signal that means nothing here. Programs that this one starts would inherit SIG_IGN, but not this."""
