"""A state machine for the lane and its parser: bytes in random pieces, events in any order.

Source: Hypothesis, stateful testing. The lane runs in memory, so that a test can stop it between any two callbacks of
the loop, which sockets do not allow.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from hierarchy.relay.upstream.connection import Upstream
from hierarchy.wire.status import ModelStatus, NodeStatus
from tests.http.test_framing import split
from tests.relay.memory import Link, MemoryLane
from tests.relay.players import RUNS, Peer, Play, Request, number_of, pieces, request
from tests.relay.raw import MODEL, OK_BODY, ReceivedResponse

KINDS = ("length", "length", "chunked", "fastchat", "app", "bad")
kinds = st.lists(st.sampled_from(KINDS), max_size=3)
picks = st.integers(0, 3)


def came_too_late(found: ReceivedResponse, sent: Request) -> bool:
    """Does the response say that the request did not come in time? FastChat's paths have no status but 200."""
    return found.status == 408 or (sent.kind == "fastchat" and b"the request was not complete within" in found.body)


class LaneMachine(RuleBasedStateMachine):
    """Clients that pipeline, stall and leave; an engine that responds, hangs and breaks; time that passes."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.problems: list[Any] = []
        self.loop.set_exception_handler(lambda loop, context: self.problems.append(context))
        with self.running_loop():
            self.memory = MemoryLane(connections=2)
        served = (ModelStatus(MODEL), ModelStatus(MODEL, "fastchat"))
        self.memory.lane.registry.report(self.memory.child, NodeStatus(served, 1.0))
        self.memory.pool.connect = self._connect
        self.peers: list[Peer] = []
        self.owners: dict[int, Peer] = {}
        self.plays: dict[Link, Play] = {}  # responses in progress, by the connection to the engine
        self.last: dict[int, Play] = {}  # by the request's number
        self.broken: set[int] = set()
        self.disturbed = False  # something happened that may end a connection
        self.connects()

    @contextmanager
    def running_loop(self) -> Iterator[None]:
        """The loop counts as running, but its callbacks run only in `turns`."""
        asyncio._set_running_loop(self.loop)
        try:
            yield
        finally:
            asyncio._set_running_loop(None)

    async def _connect(self, *arguments: Any, **options: Any) -> Upstream:
        await asyncio.sleep(0)
        link = Link(Upstream(self.memory.pool))
        self.memory.upstreams.append(link)
        return link.protocol  # type: ignore[no-any-return]

    def peer(self, pick: int) -> Peer:
        return self.peers[pick % len(self.peers)]

    @precondition(lambda self: len(self.peers) < 4)
    @rule()
    def connects(self) -> None:
        with self.running_loop():
            self.peers.append(Peer(self.memory.connect()))

    @precondition(lambda self: self.peers)
    @rule(pick=picks, wanted=kinds, sizes=pieces)
    def client_sends(self, pick: int, wanted: list[str], sizes: list[int]) -> None:
        peer = self.peer(pick)
        for kind in wanted if len(peer.requests) < 12 else ():
            number = len(self.owners)
            self.owners[number] = peer
            peer.wire += request(kind, number)
            peer.requests.append(Request(kind, number, len(peer.wire)))
        self.says(pick, sizes)

    def says(self, pick: int, sizes: list[int]) -> None:
        with self.running_loop():
            for size in sizes:
                self.peer(pick).send(size)

    @precondition(lambda self: self.plays)
    @rule(pick=picks, kind=st.sampled_from(["length", "interim", "closing", "chunked", "until-close"]), sizes=pieces)
    def engine_responds(self, pick: int, kind: str, sizes: list[int]) -> None:
        link = list(self.plays)[pick % len(self.plays)]
        play = self.plays[link]
        if not play.wire:
            play.begin(kind, len(self.broken))
        with self.running_loop():
            for size in sizes:
                if link.transport.reading and not play.done:
                    data = play.wire[play.sent : play.sent + size]
                    play.sent += len(data)
                    play.done = play.sent == len(play.wire)
                    link.feed(data)
            if play.done:
                del self.plays[link]
                if play.kind == "until-close":
                    link.lose()

    @rule(pick=picks, reset=st.booleans())
    def breaks(self, pick: int, reset: bool) -> None:
        links = [*self.plays, *self.memory.upstreams]
        link = links[pick % len(links)]
        play = self.plays.get(link)
        if play is not None:
            self.broken.add(play.number)
            reset = reset or play.kind == "until-close"  # where a FIN would be a good end
            self.disturbed = True
        with self.running_loop():
            link.lose(ConnectionResetError() if reset else None)

    @precondition(lambda self: len(self.peers) > 1)
    @rule(pick=picks, reset=st.booleans())
    def leaves(self, pick: int, reset: bool) -> None:
        peer = self.peer(pick)
        self.peers.remove(peer)
        with self.running_loop():
            peer.link.lose(ConnectionResetError() if reset else None)

    @precondition(lambda self: self.peers)
    @rule(pick=picks)
    def stalls_or_reads(self, pick: int) -> None:
        peer = self.peer(pick)
        with self.running_loop():
            if peer.paused:
                peer.resume()
            elif not peer.link.transport.is_closing():
                peer.pause()

    @rule(seconds=st.sampled_from([0.5, 0.5, 0.5, 1.0, 3.0, 61.0, 121.0, 601.0]))
    def time_passes(self, seconds: float) -> None:
        self.disturbed = True
        for peer in self.peers:
            begin = 0
            for one in peer.requests:
                one.late = one.late or begin < peer.sent < one.end
                begin = one.end
        while self.memory.lane.turns.waiting:  # no second passes without turns of the loop
            self.loop.run_until_complete(asyncio.sleep(0))
        self.requests_at_the_engine_have_leases_and_are_in_order()  # notes those that it was sent just now
        with self.running_loop():
            self.memory.sweep(seconds)

    @rule(times=st.integers(1, 4))
    def turns(self, times: int) -> None:
        for _ in range(times):
            self.loop.run_until_complete(asyncio.sleep(0))
        with self.running_loop():
            for link in [*self.memory.upstreams, *(peer.link for peer in self.peers)]:
                link.settle()
        self.peers = [peer for peer in self.peers if not peer.link.lost]

    # -- invariants ---------------------------------------------------------------------------------------

    @invariant()
    def requests_at_the_engine_have_leases_and_are_in_order(self) -> None:
        for link in self.memory.upstreams:
            if link.transport.is_closing():
                self.plays.pop(link, None)
            elif link.transport.output:
                assert link not in self.plays, "a request was sent before the response to the previous one"
                number = number_of(link.transport.output)
                link.transport.written.clear()
                before = self.last.get(number)
                assert before is None or (before.sent == 0 and number in self.broken), "a request was sent twice"
                self.last[number] = self.plays[link] = Play(number)
        busy, leases = len(self.plays), self.memory.leases
        assert busy <= leases <= busy + len(list(self.memory.lane._tasks))
        numbers = [play.number for play in self.plays.values()]
        assert set(Counter(id(self.owners[number]) for number in numbers).values()) <= {1}
        for number in numbers:
            peer = self.owners[number]
            done = sum(one.complete for one in peer.responses())
            assert peer.requests[done].number == number

    @invariant()
    def responses_are_in_order_and_as_the_engine_sent_them(self) -> None:
        assert self.problems == []
        for peer in self.owners.values():
            found = peer.responses()
            assert len(found) <= len(peer.requests)
            assert all(one.complete for one in found[:-1])
            for one, sent in zip(found, peer.requests, strict=False):
                self._check(one, sent, peer)

    def _check(self, found: ReceivedResponse, sent: Request, peer: Peer) -> None:
        if came_too_late(found, sent):
            assert sent.late
            return
        assert sent.end <= peer.sent, "the response came before the request was complete"
        play = self.last.get(sent.number)
        if sent.kind in ("app", "bad"):
            assert found.status == (200 if sent.kind == "app" else 400)
            assert sent.kind == "bad" or not found.complete or found.body == OK_BODY
        elif found.status != 200:
            assert found.complete
            assert (found.status == 502 and sent.number in self.broken) or (
                found.status == 504 and self.memory.now > 600
            )
        else:
            assert play is not None
            passed = re.split(rb"\n*event: error|\0|{", found.body)[0]  # FastChat's errors have status 200
            assert play.body.startswith(passed.rstrip(b"\n"))
            if play.done:
                body = found.body.lstrip(b"\0") if sent.kind == "fastchat" else found.body  # it had comments
                assert (found.complete, body) == (True, play.body)
            else:
                assert not found.complete or b'"error' in found.body, "a cut response looks complete"

    def teardown(self) -> None:
        """Complete all requests, then let all clients leave: nothing must be left."""
        with self.running_loop():
            for peer in self.peers:
                if peer.paused:
                    peer.resume()
        for _ in range(40):
            for number in range(len(self.peers)):
                self.says(number, [10_000])
            self.turns(4)
            self.requests_at_the_engine_have_leases_and_are_in_order()
            while self.plays:
                self.engine_responds(0, "length", [10_000])
        self.responses_are_in_order_and_as_the_engine_sent_them()
        for peer in self.peers:
            found = peer.responses()
            if peer.link.transport.state == "open":
                assert len(found) == len(peer.requests)
                assert all(one.complete for one in found)
            else:
                assert self.disturbed
                assert peer.link.transport.state == "half"
                assert came_too_late(found[-1], peer.requests[len(found) - 1])
        while self.peers:
            self.leaves(0, reset=False)
        self.turns(4)
        assert self.memory.leases == 0
        assert all(link.lost or link.protocol in self.memory.pool.idle for link in self.memory.upstreams)
        assert not self.memory.state.connections
        assert not self.memory.state.tasks
        assert self.problems == []
        self.loop.close()


def reached(parts: list[bytes]) -> tuple[list[bytes], bytes]:
    """The requests that the engine receives and the bytes that the client receives, if one client sends these."""

    async def run() -> tuple[list[bytes], bytes]:
        memory = MemoryLane()
        client = memory.connect()
        for part in parts:
            client.feed(part)
        received: list[bytes] = []
        for _ in range(8):  # four requests, each of which takes a turn of the app or of the engine
            await memory.turn()
            received += memory.respond_all()
        return received, client.transport.output

    return asyncio.run(run())


@given(st.lists(st.sampled_from(["length", "chunked", "app"]), min_size=1, max_size=4), st.lists(st.integers(1, 90)))
@settings(max_examples=60)
def test_the_engine_receives_the_same_however_the_bytes_are_split(wanted: list[str], cuts: list[int]) -> None:
    data = [request(kind, number) for number, kind in enumerate(wanted)]
    whole = reached([b"".join(data)])
    assert reached(split(b"".join(data), cuts)) == reached(data) == whole
    assert [number_of(one) for one in whole[0]] == [at for at, kind in enumerate(wanted) if kind != "app"]


LaneMachine.TestCase.settings = settings(RUNS, max_examples=300)  # many runs use only few of the rules
TestLaneMachine = LaneMachine.TestCase
