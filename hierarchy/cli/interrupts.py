"""What signals do to a command while it starts, and Ctrl-C later.

By default Python raises KeyboardInterrupt, wherever it is. In the middle of an import that ends in a traceback, and a
look-up of a host name goes on. So Ctrl-C ends a command as SIGTERM does, at once; only a command that has something to
finish first, such as a picture on the terminal, lets Python raise KeyboardInterrupt meanwhile.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from hierarchy.runtime import signals

DAEMONS = ({"serve"}, {"up"}, {"engine", "simulated"}, {"engine", "local"})  # the words of the commands that stay


def own_signals(arguments: Sequence[str]) -> None:
    """Called first of all: if the command is one that stays, a hangup does not end it while it starts."""
    words = {argument for argument in arguments[:2] if not argument.startswith("-")}
    if any(daemon <= words for daemon in DAEMONS) and threading.current_thread() is threading.main_thread():
        signals.own()


def end_at_once() -> Any:
    """A context in which Ctrl-C ends the process at once; it stays ignored where it was, as under nohup."""
    return _handled(signal.default_int_handler, signals.ends_process())


def raise_keyboard_interrupt() -> Any:
    """A context inside that of `end_at_once`, in which Ctrl-C raises KeyboardInterrupt."""
    return _handled(signals.ends_process(), signal.default_int_handler)


@contextmanager
def _handled(expected: Any, handler: Any) -> Iterator[None]:
    """Set the handler of SIGINT for a while, if it is `expected` now."""
    in_main_thread = threading.current_thread() is threading.main_thread()  # only there can it be set
    if not in_main_thread or signal.getsignal(signal.SIGINT) is not expected:
        yield
        return
    signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, expected)
