"""A state machine for the connections to a child: random pieces, good and bad ends, one response for each handler."""

from __future__ import annotations

import re
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from hierarchy.relay.upstream.connection import Upstream
from tests.relay.players import OK_HEAD, RUNS, pieces
from tests.relay.raw import SSE_HEAD, FakeTransport, http_response
from tests.relay.upstream.test_connection import ANSWERS, Handler, Rig

# An answer, whether it ends by itself, and whether the connection may be used again.
UNTIL_CLOSE = (OK_HEAD + b"\r\nuntil the end", False, False)
SCRIPTS = (
    *((data, True, True) for data, _, _ in ANSWERS),
    (http_response(b"bye", b"connection: close"), True, False),
    (http_response(b"bye", b"keep-alive: max=0"), True, False),
    (http_response(b"more") + b"x", True, False),
    UNTIL_CLOSE,
    (b"HTTP/2 what\r\n\r\n", False, False),
    (SSE_HEAD + b"zz\r\n", False, False),
)


class UpstreamMachine(RuleBasedStateMachine):
    """One request at a time over whatever connection the pool has; responses in random pieces, good and bad ends."""

    def __init__(self) -> None:
        super().__init__()
        self.rig = Rig()
        self.upstream: Upstream | None = None  # the one in use
        self.transport = FakeTransport()
        self.transports: dict[Upstream, Any] = {}
        self.handler = Handler()
        self.heard: list[Handler] = []
        self.script = UNTIL_CLOSE
        self.data = b""  # of it, still to come
        self.spent: set[Upstream] = set()  # not to be used again
        self.aborted: set[int] = set()  # handlers

    @precondition(lambda self: self.upstream is None)
    @rule(script=st.sampled_from(SCRIPTS))
    def request(self, script: tuple[bytes, bool, bool]) -> None:
        upstream = self.rig.pool.take(self.rig.pool.clock())
        assert upstream not in self.spent
        if upstream is None:
            upstream, transport = self.rig.connect()
            self.transports[upstream] = transport
        self.upstream, self.transport, self.handler = upstream, self.transports[upstream], Handler()
        self.heard.append(self.handler)
        self.script, self.data = script, script[0]
        self.transport.written.clear()
        upstream.send(self.handler, b"head", [b"body"], 4)
        assert self.transport.output == b"headbody"

    @precondition(lambda self: self.upstream)
    @rule(sizes=pieces)
    def engine_responds(self, sizes: list[int]) -> None:
        assert self.upstream is not None
        _, ends, again = self.script
        for size in sizes:
            if self.data and not self.transport.is_closing() and self.transport.reading:
                piece, self.data = self.data[:size], self.data[size:]
                self.upstream.data_received(piece)
        if not self.data and ends:
            assert self.handler.calls[-1] == "ended"
            self._over(again=again)
        elif self.transport.is_closing():
            assert self.handler.calls[-1] == ("ended" if ends else "broken")
            self._over(again=False)

    @precondition(lambda self: self.upstream)
    @rule(error=st.none() | st.just(ConnectionResetError()))
    def loses(self, error: Exception | None) -> None:
        assert self.upstream is not None
        over, started = self.handler.calls[-1:] == ["ended"], "started 200" in self.handler.calls
        self.transport.state = "closed"
        self.upstream.connection_lost(error)
        if not over:
            good = error is None and started and self.script is UNTIL_CLOSE
            assert self.handler.calls[-1] == ("ended" if good else "broken")
        self._over(again=False)

    @precondition(lambda self: self.upstream)
    @rule()
    def aborts(self) -> None:
        assert self.upstream is not None
        self.aborted.add(id(self.handler))
        before = list(self.handler.calls)
        self.upstream.abort()
        self.upstream.connection_lost(None)
        assert self.handler.calls == before
        self._over(again=False)

    @precondition(lambda self: self.upstream)
    @rule()
    def pauses_or_resumes(self) -> None:
        assert self.upstream is not None
        (self.upstream.pause if self.transport.reading else self.upstream.resume)()

    @rule(seconds=st.sampled_from([0.5, 5.0]))
    def time_passes(self, seconds: float) -> None:
        self.rig.now += seconds
        self.rig.pool.sweep()

    def _over(self, *, again: bool) -> None:
        assert self.upstream is not None
        assert (self.upstream in self.rig.pool.idle and self.upstream.is_open) == again
        assert not again or self.transport.reading
        if not again:
            self.spent.add(self.upstream)
        self.upstream = None

    @invariant()
    def each_sink_hears_one_answer(self) -> None:
        for handler in self.heard:
            calls = " ".join(handler.calls)
            assert re.fullmatch(r"(started \d+( body)?( ended| broken)?|broken)?", calls), calls
            over = handler is not self.handler or self.upstream is None
            assert not over or id(handler) in self.aborted or calls.endswith(("ended", "broken"))

    @invariant()
    def the_one_at_work_is_nobody_else_s(self) -> None:
        assert self.upstream is None or self.handler.calls[-1:] == ["ended"] or self.upstream not in self.rig.pool.idle


UpstreamMachine.TestCase.settings = RUNS
TestUpstreamMachine = UpstreamMachine.TestCase
