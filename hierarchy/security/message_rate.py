"""How much of a node's time one credential's messages may take, so that no site keeps it busy with reading them.

Each credential has an account of seconds of CPU time. What its messages cost is taken from it; a share of all time
comes back. Honest sites never come near the end of it. Whoever does waits: up to `MAX_WAIT_S` for the response, which
slows a sender down that waits for it, as nodes do; beyond that it gets 429, and may try again later.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from hierarchy.errors import TooManyMessages

SHARE = 0.25  # of one core
BURST_S = 5.0  # that may be used at once: ten registrations with 10,000 engines each
MAX_WAIT_S = 2.0  # nodes wait 5 s for a response
MAX_WAITING = 4  # messages of one credential
MAX_RETRY_AFTER_S = 30
MAX_ACCOUNTS = 1024  # beyond it, those that are full are forgotten


class _Account:
    """What one credential may use. All times in seconds."""

    __slots__ = ("at", "balance", "is_logged", "waiting")

    def __init__(self, now: float) -> None:
        self.balance = BURST_S
        self.at = now  # when the balance was right
        self.waiting = 0
        self.is_logged = False

    def refill(self, now: float) -> None:
        self.balance = min(BURST_S, self.balance + SHARE * max(0.0, now - self.at))
        self.at = now
        if self.balance >= BURST_S / 2:
            self.is_logged = False


log = logging.getLogger("hierarchy.security")


class MessageRate:
    """The accounts of all credentials, by the names of their nodes. "" has none, and waits for nothing.

    clock: monotonic seconds. cpu: CPU seconds of the calling thread.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        cpu: Callable[[], float] = time.thread_time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._clock = clock
        self._cpu = cpu
        self._sleep = sleep
        self._accounts: dict[str, _Account] = {}

    def check(self, name: str) -> None:
        """Raise `TooManyMessages` if the credential has used up its time."""
        account = self._accounts.get(name)
        if account is None:  # of nearly all messages
            return
        account.refill(self._clock())
        if account.balance < 0:
            raise self._refusal(name, account)

    async def wait(self, name: str) -> None:
        """Wait until the credential has time again. Raises `TooManyMessages` if that takes long, or several wait."""
        account = self._accounts.get(name)
        if account is None:
            return
        account.refill(self._clock())
        if account.balance >= 0:
            return
        wait_s = -account.balance / SHARE
        if wait_s > MAX_WAIT_S or account.waiting >= MAX_WAITING:
            raise self._refusal(name, account)
        self._log(name, account)
        account.waiting += 1
        try:
            await self._sleep(wait_s)
        finally:
            account.waiting -= 1

    def spend(self, name: str, seconds: float) -> None:
        """A message of this credential took this much CPU time."""
        if not name:
            return
        account = self._accounts.get(name)
        if account is None:
            if len(self._accounts) >= MAX_ACCOUNTS:
                self._forget_full()
            account = self._accounts[name] = _Account(self._clock())
        account.balance -= seconds

    @contextmanager
    def spending(self, name: str) -> Iterator[None]:
        """What is done inside, without a pause, is for a message of this credential."""
        began = self._cpu()
        try:
            yield
        finally:
            self.spend(name, self._cpu() - began)

    def forget(self) -> None:
        """Call it now and then."""
        self._forget_full()

    def _forget_full(self) -> None:
        now = self._clock()
        for account in self._accounts.values():
            account.refill(now)
        self._accounts = {
            name: account for name, account in self._accounts.items() if account.balance < BURST_S or account.waiting
        }

    def _refusal(self, name: str, account: _Account) -> TooManyMessages:
        self._log(name, account)
        again_s = min(MAX_RETRY_AFTER_S, max(1, math.ceil(-account.balance / SHARE)))
        return TooManyMessages(
            f"the messages of {name} take more than their share of this node's time; send fewer or smaller ones, "
            f"and try again in {again_s} s",
            again_s,
        )

    def _log(self, name: str, account: _Account) -> None:
        if not account.is_logged:
            account.is_logged = True
            log.warning("the messages of %s take more than their share of this node's time: they have to wait", name)

    def __repr__(self) -> str:
        return f"<MessageRate {len(self._accounts)} accounts>"
