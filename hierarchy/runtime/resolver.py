"""Looking up host names so that one name which nobody answers delays no other.

`getaddrinfo` blocks its thread until the resolver gives up, 10 to 20 s, and cannot be cancelled. An event loop has few
threads for it, and a site whose DNS is cut would have none left for the names that /etc/hosts knows. So each node has
threads of its own for look-ups, and names have to earn them: what resolved before comes first, then names of the
configuration, then names that others registered; a name that did not answer last time shares two threads.

A name has one look-up at a time. Its last addresses are used while it is late, and a name that does not exist is not
asked again at once. `getaddrinfo` stays the judge, so /etc/hosts, NSS and split DNS are what they are for any program.

Source: RFC 8767 (serving stale data), RFC 2308 (negative caching), RFC 8305 (racing addresses).
"""

from __future__ import annotations

import asyncio
import ipaddress
import math
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import suppress
from itertools import zip_longest
from typing import Final, Generic, TypeVar

FRESH_S: Final = 5.0  # how long an answer is used without asking again
STALE_S: Final = 3600.0  # how long it is used if no other answer comes
NEGATIVE_S: Final = 1.0  # how long "no such name" is believed; doubled each time
MAX_NEGATIVE_S: Final = 30.0
SLOW_S: Final = 2.0  # a look-up that took longer was not answered
MAX_NAMES: Final = 10_000  # that are remembered
#: threads that look-ups may hold, by how well the name is known: each rank may use those of the ranks after it, too
KNOWN, CONFIGURED, REGISTERED, SLOW = range(4)
THREADS: Final = {KNOWN: 16, CONFIGURED: 12, REGISTERED: 6, SLOW: 2}
RACE_S: Final = 0.25  # between the first attempts at two addresses (RFC 8305, section 8)

T = TypeVar("T")
Look = Callable[[str], Sequence[str]]  #: the IP addresses of a host, or an OSError; it blocks


def look_up(host: str) -> Sequence[str]:
    """The IP addresses of a host for TCP, in the system's order. Raises OSError or UnicodeError."""
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


class _Name:
    """What is known of one host name."""

    __slots__ = ("addresses", "asked_at", "denied_s", "error", "is_configured", "pending", "rank", "told_at", "used_at")

    def __init__(self) -> None:
        self.addresses: list[str] = []  # the last good ones
        self.told_at = 0.0  # when they came
        self.asked_at = 0.0  # when the last look-up began, or ended if it has
        self.error: OSError | None = None  # of the last look-up
        self.denied_s = 0.0  # how long that is believed
        self.is_configured = False
        self.rank = REGISTERED
        self.used_at = 0.0
        self.pending: asyncio.Future[None] | None = None  # the look-up in progress


class Resolver:
    """The look-ups of one node. Call it in the event loop.

    clock: monotonic seconds. look: looks up a name, in a thread.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, look: Look = look_up) -> None:
        self._clock = clock
        self._look = look
        self._names: dict[str, _Name] = {}
        self._running: dict[int, int] = dict.fromkeys(THREADS, 0)  # look-ups in threads, by rank
        self._waiting: list[str] = []  # names that wait for a thread, in their order

    async def addresses(self, host: str, *, configured: bool = True) -> list[str]:
        """The IP addresses of a host, at least one; those of before if the look-up is late.

        configured: the name is from this node's configuration, not from a message of another machine.

        Raises:
            OSError: it has none. The caller sets the limit on the time.
        """
        if _is_literal(host):
            return [host]
        now = self._clock()
        name = self._name(host, configured=configured)
        if name.addresses and now < name.told_at + STALE_S:
            if now >= name.told_at + FRESH_S and not self._is_denied(name, now):
                self._begin(host, name, now)
            return list(name.addresses)
        if self._is_denied(name, now) and name.error is not None:
            raise OSError(name.error.errno, name.error.strerror or str(name.error))
        await asyncio.shield(self._begin(host, name, now))
        if name.addresses and name.error is None:
            return list(name.addresses)
        raise OSError(*name.error.args) if name.error is not None else OSError(f"{host} has no address")

    def doubt(self, host: str) -> None:
        """No address of this host accepts connections: ask again at the next use, and wait for the answer."""
        name = self._names.get(host.lower())
        if name is not None and name.pending is None and self._clock() >= name.told_at + FRESH_S:
            name.told_at = self._clock() - STALE_S

    # -- names ---------------------------------------------------------------------------------------------------

    def _name(self, host: str, *, configured: bool) -> _Name:
        key = host.lower()
        name = self._names.get(key)
        if name is None:
            if len(self._names) >= MAX_NAMES:
                self._forget()
            name = self._names[key] = _Name()
        name.used_at = self._clock()
        if configured and not name.is_configured:
            name.is_configured = True
            name.rank = min(name.rank, CONFIGURED)
        return name

    def _forget(self) -> None:
        """Make room: forget the names of others that are not being looked up."""
        self._names = {key: name for key, name in self._names.items() if name.is_configured or name.pending is not None}

    def sweep(self, present: Collection[str], keep_s: float) -> None:
        """Call it now and then: forget the names that were not used for `keep_s` seconds, all but those in `present`.

        present: names in lower case that may be dialled. They may not be used for hours, while connections are kept,
        and are needed when DNS is away.
        """
        now = self._clock()
        self._names = {
            key: name
            for key, name in self._names.items()
            if name.pending is not None or key in present or now < max(name.used_at, name.asked_at) + keep_s
        }

    def _is_denied(self, name: _Name, now: float) -> bool:
        return name.error is not None and now < name.asked_at + name.denied_s

    # -- look-ups ------------------------------------------------------------------------------------------------

    def _begin(self, host: str, name: _Name, now: float) -> asyncio.Future[None]:
        """Look the name up, unless that is being done. Returns what ends with it."""
        if name.pending is None:
            name.pending = asyncio.get_running_loop().create_future()
            name.asked_at = now
            self._waiting.append(host)
            self._start()
        return name.pending

    def _start(self) -> None:
        """Give threads to the names that wait, the best known first."""
        self._waiting.sort(key=lambda host: self._names[host.lower()].rank)  # stable: in their order
        for host in list(self._waiting):
            name = self._names[host.lower()]
            if sum(count for rank, count in self._running.items() if rank >= name.rank) >= THREADS[name.rank]:
                continue
            if sum(self._running.values()) >= THREADS[KNOWN]:
                return
            self._waiting.remove(host)
            self._running[name.rank] += 1
            work = (host, name, name.rank, asyncio.get_running_loop())
            # A daemon: the process does not wait for a resolver when it ends.
            threading.Thread(target=self._work, args=work, name="resolver", daemon=True).start()

    def _work(self, host: str, name: _Name, rank: int, loop: asyncio.AbstractEventLoop) -> None:
        """In a thread."""
        began = time.monotonic()
        found: Sequence[str] = ()
        error: OSError | None = None
        try:
            found = self._look(host)
        except OSError as failure:
            error = failure
        except (UnicodeError, ValueError) as failure:  # a name that cannot be one
            error = OSError(f"{host!r} is not a host name: {failure}")
        slow = time.monotonic() - began >= SLOW_S
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(self._done, name, rank, list(found), error, slow)

    def _done(self, name: _Name, rank: int, found: list[str], error: OSError | None, slow: bool) -> None:
        self._running[rank] -= 1
        now = self._clock()
        name.asked_at = now
        name.error = error
        if found:
            name.addresses, name.told_at, name.rank, name.denied_s = found, now, KNOWN, 0.0
        else:
            name.denied_s = min(max(NEGATIVE_S, 2 * name.denied_s), MAX_NEGATIVE_S)
            if error is not None and error.errno == socket.EAI_NONAME:
                name.addresses = []  # it is gone, and that is an answer
            if slow:
                name.rank = SLOW
            elif name.rank != SLOW:
                name.rank = CONFIGURED if name.is_configured else REGISTERED
        pending, name.pending = name.pending, None
        if pending is not None and not pending.done():
            pending.set_result(None)
        self._start()

    def __repr__(self) -> str:
        return f"<Resolver names={len(self._names)} running={sum(self._running.values())} waiting={len(self._waiting)}>"


def _is_literal(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def alternate(addresses: Sequence[str]) -> list[str]:
    """The addresses with the families taking turns, the first one's first (RFC 8305, section 4)."""
    first_is_v6 = bool(addresses) and ":" in addresses[0]
    first = [one for one in addresses if (":" in one) is first_is_v6]
    second = [one for one in addresses if (":" in one) is not first_is_v6]
    return [one for pair in zip_longest(first, second) for one in pair if one is not None]


async def race(
    addresses: Sequence[str],
    dial: Callable[[str], Awaitable[T]],
    discard: Callable[[T], object],
    *,
    errors: tuple[type[Exception], ...] = (OSError,),
) -> T:
    """The first connection that can be made to one of the addresses; each next one is tried `RACE_S` after the last.

    dial: connects to one address, or raises one of `errors`. discard: gets a connection that came second.

    Raises:
        OSError, or another of `errors`: that of the address that failed first, if none can be reached.
    """
    if len(addresses) == 1:
        return await dial(addresses[0])
    heats: _Race[T] = _Race(errors)
    try:
        for address in alternate(addresses):
            heats.runners.append(asyncio.ensure_future(dial(address)))
            winner = await heats.winner(RACE_S)
            if winner is not None:
                return winner.result()
        winner = await heats.winner(None)
        if winner is not None:
            return winner.result()
        raise heats.failed[0]
    finally:
        for runner in heats.runners:
            runner.cancel()
            runner.add_done_callback(lambda task: _discard(task, discard))


class _Race(Generic[T]):
    """Attempts at several addresses. errors: with which an attempt may fail."""

    def __init__(self, errors: tuple[type[Exception], ...]) -> None:
        self.runners: list[asyncio.Task[T]] = []
        self.failed: list[BaseException] = []
        self._errors = errors

    async def winner(self, seconds: float | None) -> asyncio.Task[T] | None:
        """The first attempt that succeeds within this time, and before all others fail. It is no runner any more."""
        loop = asyncio.get_running_loop()
        deadline = math.inf if seconds is None else loop.time() + seconds
        while self.runners:
            left = None if seconds is None else max(0.0, deadline - loop.time())
            done, _ = await asyncio.wait(self.runners, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                return None
            for runner in [one for one in self.runners if one in done]:
                self.runners.remove(runner)
                error = runner.exception()
                if error is None:
                    return runner
                if not isinstance(error, self._errors):
                    raise error
                self.failed.append(error)
        return None


def _discard(task: asyncio.Task[T], discard: Callable[[T], object]) -> None:
    if not task.cancelled() and task.exception() is None:
        discard(task.result())
