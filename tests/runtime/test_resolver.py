"""Look-ups: one name that nobody answers delays no other, and what was known is used while an answer is late."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Awaitable, Callable, Sequence

import pytest

from hierarchy.runtime.resolver import (
    FRESH_S,
    NEGATIVE_S,
    RACE_S,
    THREADS,
    Resolver,
    alternate,
    race,
)
from tests.clocks import Clock

GOOD = "10.0.0.1"


class Names:
    """A resolver of the system that answers some names, and never answers those of `dead`."""

    def __init__(self, **known: Sequence[str]) -> None:
        self.known = dict(known)
        self.asked: list[str] = []
        self.dead = threading.Event()  # set: the dead names fail

    def __call__(self, host: str) -> Sequence[str]:
        self.asked.append(host)
        if host.startswith("dead"):
            self.dead.wait(20)
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        if host not in self.known:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return self.known[host]


def in_loop(test: Callable[[Names], Awaitable[None]]) -> Callable[[], None]:
    """Make a coroutine function a test; its argument is the system's resolver."""

    def run() -> None:
        asyncio.run(asyncio.wait_for(test(Names(engine=[GOOD], other=["10.0.0.2"])), 30.0))

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


async def looked_up(resolver: Resolver, host: str) -> None:
    """Returns when the look-up in progress is done."""
    pending = resolver._names[host].pending
    assert pending is not None
    await pending


@in_loop
async def test_addresses_need_no_look_up(names: Names) -> None:
    resolver = Resolver(Clock(), names)
    assert await resolver.addresses("127.0.0.1") == ["127.0.0.1"]
    assert await resolver.addresses("::1") == ["::1"]
    assert names.asked == []


@in_loop
async def test_dead_names_of_others_leave_threads_for_all_other_names(names: Names) -> None:
    resolver = Resolver(Clock(), names)
    dead = [asyncio.ensure_future(resolver.addresses(f"dead-{n}", configured=False)) for n in range(40)]
    own = [asyncio.ensure_future(resolver.addresses(f"dead-own-{n}")) for n in range(40)]
    await asyncio.sleep(0)
    assert sum(name.startswith("dead") for name in names.asked) <= THREADS[1]
    async with asyncio.timeout(5):
        resolver._name("engine", configured=True).rank = 0  # it resolved once, before the others came
        assert await resolver.addresses("engine") == [GOOD]
    names.dead.set()
    for task in dead + own:
        with pytest.raises(OSError, match="Temporary failure"):
            await task
    assert await resolver.addresses("other") == ["10.0.0.2"]


@in_loop
async def test_dead_names_that_were_registered_leave_threads_for_configured_ones(names: Names) -> None:
    resolver = Resolver(Clock(), names)
    dead = [asyncio.ensure_future(resolver.addresses(f"dead-{n}", configured=False)) for n in range(40)]
    async with asyncio.timeout(5):
        assert await resolver.addresses("engine") == [GOOD]
    names.dead.set()
    await asyncio.gather(*dead, return_exceptions=True)


@in_loop
async def test_a_name_is_looked_up_once_for_all_who_wait(names: Names) -> None:
    resolver = Resolver(Clock(), names)
    found = await asyncio.gather(*(resolver.addresses("engine") for _ in range(20)))
    assert found == [[GOOD]] * 20
    assert names.asked == ["engine"]
    assert await resolver.addresses("ENGINE") == [GOOD]
    assert names.asked == ["engine"]


@in_loop
async def test_a_caller_who_gives_up_does_not_end_the_look_up_of_the_others(names: Names) -> None:
    resolver = Resolver(Clock(), names)
    first, second = (asyncio.ensure_future(resolver.addresses("dead-1")) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    names.dead.set()
    with pytest.raises(OSError, match="Temporary failure"):
        await second
    assert first.cancelled()


@in_loop
async def test_the_last_addresses_are_used_while_a_look_up_is_late(names: Names) -> None:
    clock = Clock()
    resolver = Resolver(clock, names)
    await resolver.addresses("engine")
    answered = threading.Event()
    late = names.known

    def look(host: str) -> Sequence[str]:
        answered.wait(20)
        return late[host]

    resolver._look = look
    late["engine"] = ["10.0.0.9"]
    clock.tick(FRESH_S)
    assert await resolver.addresses("engine") == [GOOD]  # at once
    answered.set()
    await looked_up(resolver, "engine")
    assert await resolver.addresses("engine") == ["10.0.0.9"]


@in_loop
async def test_addresses_that_do_not_answer_are_asked_for_again(names: Names) -> None:
    clock = Clock()
    resolver = Resolver(clock, names)
    await resolver.addresses("engine")
    names.known["engine"] = ["10.0.0.9"]
    resolver.doubt("engine")  # the answer is new: the engine is down, not moved
    assert await resolver.addresses("engine") == [GOOD]
    clock.tick(FRESH_S)
    resolver.doubt("engine")
    assert await resolver.addresses("engine") == ["10.0.0.9"]


@in_loop
async def test_a_name_that_does_not_exist_is_not_asked_again_at_once(names: Names) -> None:
    clock = Clock()
    resolver = Resolver(clock, names)
    for _ in range(3):
        with pytest.raises(OSError, match="not known"):
            await resolver.addresses("nobody")
    assert names.asked == ["nobody"]
    clock.tick(NEGATIVE_S)
    names.known["nobody"] = [GOOD]
    assert await resolver.addresses("nobody") == [GOOD]


@in_loop
async def test_a_name_that_is_gone_loses_its_addresses_and_one_that_is_late_keeps_them(names: Names) -> None:
    clock = Clock()
    resolver = Resolver(clock, names)
    await resolver.addresses("engine")
    del names.known["engine"]
    clock.tick(FRESH_S)
    await resolver.addresses("engine")
    await looked_up(resolver, "engine")
    with pytest.raises(OSError, match="not known"):
        await resolver.addresses("engine")


@in_loop
async def test_an_impossible_name_is_an_error_like_any_other(names: Names) -> None:
    resolver = Resolver(Clock())
    for name in ("a" * 300, "..", "\ud800", "a\x00b"):
        with pytest.raises(OSError, match=r"."):
            await resolver.addresses(name)


@pytest.mark.parametrize(
    ("given", "order"),
    [
        (["::1", "::2", "1.1.1.1"], ["::1", "1.1.1.1", "::2"]),
        (["1.1.1.1", "2.2.2.2", "::1", "::2"], ["1.1.1.1", "::1", "2.2.2.2", "::2"]),
        ([], []),
    ],
)
def test_families_take_turns(given: list[str], order: list[str]) -> None:
    assert alternate(given) == order


@in_loop
async def test_a_family_that_leads_nowhere_costs_a_quarter_of_a_second(names: Names) -> None:
    discarded: list[str] = []
    began = asyncio.get_running_loop().time()

    async def dial(address: str) -> str:
        if ":" in address:
            await asyncio.sleep(30)
        return address

    assert await race(["::1", "1.1.1.1"], dial, discarded.append) == "1.1.1.1"
    assert asyncio.get_running_loop().time() - began >= RACE_S
    await asyncio.sleep(0)
    assert discarded == []


@in_loop
async def test_a_race_fails_with_the_error_of_the_first_address(names: Names) -> None:
    async def dial(address: str) -> str:
        raise ConnectionRefusedError(address)

    with pytest.raises(ConnectionRefusedError, match="::1"):
        await race(["::1", "1.1.1.1"], dial, print)
