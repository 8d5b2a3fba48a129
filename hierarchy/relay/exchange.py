"""One request and its answer on their way through the lane.

    collect body → ready → attempt: lease → connection → send → answer → done
                              ↑______ failed before the first body byte ______|

Everything from `ready` to `done` runs in synchronous callbacks, except that a new connection to a child has to be
dialled. The lease is released exactly once, in `_settle`, whatever happens.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from hierarchy.balancing.lent_attempts import RETRIABLE, unspent_field
from hierarchy.errors import BodyTooLarge, ChildFailed, DeadlinePassed, ModelNotAllowed, RequestError
from hierarchy.http import render
from hierarchy.http.framing import LAST_CHUNK, Dechunker, chunk
from hierarchy.http.model_field import model_of, with_model
from hierarchy.http.request_head import DEADLINE, RequestHead
from hierarchy.http.response_head import UpstreamResponse
from hierarchy.registry.child import NODE, Child
from hierarchy.relay.attempt import Reaching
from hierarchy.relay.retry import Parent
from hierarchy.relay.upstream.connection import Upstream
from hierarchy.relay.upstream.translating import Interpreter

if TYPE_CHECKING:
    from hierarchy.relay.downstream.connection import FastPath
    from hierarchy.relay.lane import Lane

FOREVER: Final = float("inf")
log = logging.getLogger("hierarchy.lane")


class Exchange(Reaching):
    """A request on a lane path. Stands where uvicorn keeps its request cycle, and has the fields that it looks at."""

    # What most exchanges never change stands here once, instead of being set for each.
    my_turn = False  # no earlier request of this connection is still being answered
    received = False  # the whole request is here
    attempts = 0  # that this node made
    size = 0  # bytes of body that have come
    ends_at = FOREVER  # by the limit on the whole request
    _touched = False  # something came since the last look at the clock
    _rechunk = False
    _dechunk: Dechunker | None = None
    _outcome = ""

    def __init__(self, protocol: FastPath, lane: Lane, head: RequestHead, now: float) -> None:
        self.head = head
        self.api = head.dialect.api
        self.keep_alive = head.keep_alive
        self._protocol = protocol
        self._lane = lane
        self._parts: list[bytes] = []
        self._started_at = now
        self._parent = self._upstream = None  # not by the class, whose defaults of such types are lost when compiled

    # -- the request -----------------------------------------------------------------------------------------

    @property
    def expects(self) -> bool:
        """The client waits for a 100 before it sends the body."""
        return self.head.expects

    def trust(self, parent: Parent) -> None:
        """It came from a parent: believe what its head says of the model, rather than look into the body again."""
        self._parent = parent
        self._model = self.head.model
        self.left = self.head.attempts

    def body_part(self, data: bytes) -> None:
        self.size += len(data)
        if self.size > self._lane.settings.max_body_bytes:
            raise BodyTooLarge(
                f"the body is larger than {self._lane.settings.max_body_bytes} bytes, the limit of this node"
            )
        self._parts.append(data)

    def request_complete(self) -> None:
        self.received = True
        if self.my_turn:
            self.go(self._lane.clock())

    def take_whole(self, body: bytes) -> None:
        """All of the body, which is within the limits; it is this request's turn, and it came just now."""
        self.my_turn = self.received = True
        self.size = len(body)
        self._parts.append(body)
        self.go(self._started_at)

    def go(self, now: float) -> None:
        """The request is complete and it is its turn."""
        try:
            if not self._model:
                asked = self._model = model_of(self._body(), self.head.boundary)
                if asked in self._lane.dispatch.aliased:
                    self._resolve(asked)
                if self.head.caller.models is not None and self._parent is None:
                    self._check_allowed(asked)
            self._attempt(now)
        except RequestError as error:
            if not self._lane.park(self, error):
                self.fail(error)

    def _resolve(self, alias: str) -> None:
        """From here on the request is for a model that the alias stands for; nobody below knows of the alias."""
        self._model = self._lane.dispatch.resolve(alias, self.api, translated=self.head.translated)
        self._parts = [with_model(self._body(), self._model, self.head.boundary)]
        self.size = len(self._parts[0])

    def _check_allowed(self, asked: str) -> None:
        """A key for an alias is good for what that stands for; one for a model, by whatever name it is asked for."""
        caller = self.head.caller
        if not (caller.may_use(asked) or caller.may_use(self._model)):
            raise ModelNotAllowed(
                f"this API key is not for model {asked[:100]!r}; GET /v1/models lists those that it is for"
            )

    def _body(self) -> bytes:
        """The body in one piece; below the entry node nobody asks for it, and a long prompt is not copied."""
        if len(self._parts) != 1:
            self._parts = [b"".join(self._parts)]
        return self._parts[0]

    # -- attempts --------------------------------------------------------------------------------------------

    def _send(self, upstream: Upstream | Interpreter, now: float) -> None:
        pool, lease = upstream.pool, self._lease
        assert lease is not None
        share = lease.share
        assert share is not None
        self._upstream = upstream
        self.attempts += 1
        self._sent_at = now
        self._limits = limits = share.limits or self._lane.limits(share)
        if limits.total_s is not None and self._parent is None:
            self.ends_at = self._started_at + limits.total_s
        parts, size, lent = self._parts, self.size, 1
        hops = 0 if self._parent is None else self.head.hops
        if pool.numbered:
            lent = self._lend()
            opening = pool.opening(self.head, self._model, hops + 1, lent)
            number = str(lease.ordinal).encode() + self._time_left(now)
            head = b"".join([opening, number, b"\r\ncontent-length: ", str(size).encode(), b"\r\n\r\n"])
        else:
            if pool.child.renames:  # for this child alone: another one may be tried with the body as it came
                own = pool.child.renames.get(self._model)
                if own is not None:
                    parts = [with_model(self._body(), own, self.head.boundary)]
                    size = len(parts[0])
            head = b"".join([pool.opening(self.head, self._model, 0, 0), str(size).encode(), b"\r\n\r\n"])
        self.left -= lent
        self._lent = lent
        deadline = now + (limits.look_s if self._parent is None else limits.below_s(hops))
        self._protocol.deadline = deadline if deadline < self.ends_at else self.ends_at
        upstream.send(self, head, parts, size)
        if self._protocol.blocked:  # an earlier answer has not been read yet
            upstream.pause()

    def _time_left(self, now: float) -> bytes:
        """The line that tells a node below how long the whole request may still take, if that is limited."""
        if self.ends_at == FOREVER:
            return b""
        return b"\r\n%b: %d" % (DEADLINE, max(0, (self.ends_at - now) * 1000))

    # -- the answer (Sink) -----------------------------------------------------------------------------------

    def answer_started(self, answer: UpstreamResponse) -> None:
        self._answer = answer  # its head waits for the first byte of its body, and so does the deadline

    def answer_body(self, data: bytes) -> None:
        self._touched = True
        if not self._started:
            answer = self._answer
            assert answer is not None
            if (self._waiting or not answer.head.is_ordinary) and self._keeps_back(data):
                return
            self._begin_answer(data)
            return
        if self._rechunk:
            data = chunk(data)
        elif self._dechunk is not None:
            data = self._dechunk.feed(data)
        self._protocol.transport.write(data)

    def _begin_answer(self, data: bytes) -> None:
        """The first bytes of a body go up, and its head before them."""
        now = self._lane.clock()
        self._first_byte(now)
        assert self._limits is not None
        deadline = now + self._limits.idle_s
        self._protocol.deadline = deadline if deadline < self.ends_at else self.ends_at
        head = self._answer_head()
        if self._rechunk:
            data = chunk(data)
        elif self._dechunk is not None:
            data = self._dechunk.feed(data)
        elif self._upstream is not None:
            self._upstream.pass_on(self._protocol.transport.write)
        self._protocol.transport.write(head + data)

    def answer_ended(self) -> None:
        upstream, self._upstream = self._upstream, None
        answer = self._answer
        assert upstream is not None
        assert answer is not None
        if not self._started:  # it has no body, or one that is kept back
            if self._held is not None or ((self._waiting or not answer.head.is_ordinary) and self._keeps_back(b"")):
                self._held_ended()
                return
            self._protocol.transport.write(self._answer_head())
        if answer.head.is_failure and upstream.pool.child.kind != NODE:
            self._lane.registry.failed(upstream.pool.child, "error", f"answered {answer.head.status}")
        self._finish_answer()

    def answer_whole(self, answer: UpstreamResponse, body: bytes) -> None:
        self._answer = answer
        if self._waiting or not answer.head.is_ordinary:
            self.answer_body(body)
            self.answer_ended()
            return
        self._upstream = None
        now = self._lane.clock()
        self._first_byte(now)
        self._protocol.transport.write(self._answer_head() + body)
        self._outcome = "ok"
        self._settle(now)

    def _first_byte(self, now: float) -> None:
        """The first byte of body goes up: no other attempt can follow."""
        self._started = True
        self._parts = []
        share = self._lease.share if self._lease is not None else None
        if share is not None:  # else it is a refusal that was kept back
            tally = share.tally or self._lane.tally(share)
            tally.ttft.observe(now - self._sent_at)
            if share.child.failures is not None:
                self._lane.registry.succeeded(share.child)

    def _finish_answer(self) -> None:
        if self._rechunk:
            self._protocol.transport.write(LAST_CHUNK)
        assert self._answer is not None
        self._outcome = "error" if self._answer.head.is_failure else "ok"
        self._settle(self._lane.clock())

    def answer_broken(self, why: str, *, stale: bool = False) -> None:
        assert self._pool is not None
        if not stale:
            self._lane.registry.failed(self._pool.child, "cut" if self._started else "broke", why)
        if self._started:
            self._cut(ChildFailed(f"{self._child_name()} {why}"))
        else:
            self._try_another(why, stale=stale)

    def _answer_head(self) -> bytes:
        answer = self._answer
        assert answer is not None
        if answer.ordinary_head and self.keep_alive and not (self._retried or self._waiting):
            if not answer.head.has_length:
                return answer.ordinary_head
            return b"".join([answer.ordinary_head, str(answer.length).encode(), b"\r\n\r\n"])
        framing: bytes | None = None
        if self.head.http10:
            self.keep_alive = False
            if answer.head.kind == "chunked":
                self._dechunk = Dechunker()
                framing = b""
        elif answer.head.kind == "until-close" or (self._waiting and answer.head.kind != "chunked"):
            self._rechunk = True
            framing = b"transfer-encoding: chunked\r\n"
        if self._waiting:
            return b""  # a head is out already
        assert self._pool is not None
        path = self._pool.path
        if answer.head.path and self._pool.child.kind == NODE:
            path = b"%b/%b" % (path, answer.head.path)
        ours = b""
        if self._parent is not None and (self._retried or not answer.head.is_ordinary):
            ours = self._told_to_parent()
        return answer.forward(path=path, framing=framing, close=not self.keep_alive, ours=ours)

    # -- endings ---------------------------------------------------------------------------------------------

    def fail(self, error: RequestError) -> None:
        """Answer with an error of our own, or end a started stream with one."""
        if self.response_complete:
            return
        if self._started:
            self._cut(error)
            return
        self._drop_upstream()
        if not self.received:
            self.keep_alive = False
        self._lane.metrics.refuse(error.code)
        fields = self._protocol.server_state.default_headers
        if self._waiting:
            words = render.waiting_error(error, self.head.dialect, http10=self.head.http10)
        else:
            # To a parent whose secret we do not know, too: it has not heard yet that we were started again.
            if self.head.auth and error.status in RETRIABLE:
                fields = [*fields, unspent_field(max(0, self.left))]
            words = render.error_response(error, self.head.dialect, fields, close=not self.keep_alive)
        self._protocol.transport.write(words)
        self._outcome = self._outcome or "refused"
        self._settle(self._lane.clock())

    def drop_child(self, child: Child, error: RequestError) -> None:
        """End the request if it is this child's."""
        if self._lease is not None and self._pool is not None and self._pool.child is child:
            self.fail(error)

    def client_gone(self) -> None:
        """Whoever asked has left: so must the request below, through all levels."""
        if self.response_complete:
            return
        self._drop_upstream()
        self._outcome = "cancelled"
        self._settle(self._lane.clock(), gone=True)

    def check_clock(self, now: float) -> None:
        """The protocol's deadline has passed: has nothing really come since?"""
        limits, upstream = self._limits, self._upstream
        assert limits is not None
        paused = self._protocol.blocked
        if now >= self.ends_at:
            self._late("was not done in the time for the whole request")
        elif self._touched or (upstream is not None and upstream.heard) or (paused and self._protocol.client_reads()):
            self._touched = False
            if upstream is not None:
                upstream.heard = False
            limit = limits.idle_s if self._started else limits.first_byte_s
            self._protocol.deadline = min(now + limit, self.ends_at)
        elif paused:
            self._protocol.transport.abort()
        elif self._started:
            self._late(f"sent nothing for {limits.idle_s:g} s")
        elif self._parent is None and now < self._sent_at + limits.first_byte_s:
            self._keep_waiting(now)
        else:
            self._late(f"sent no answer within {limits.first_byte_s:g} s")

    def _late(self, why: str) -> None:
        """A time limit has passed; the child is to blame if it sent nothing at all."""
        error = DeadlinePassed(f"{self._child_name()} {why}")
        if self._started:
            self._cut(error)
            return
        if self._pool is not None and self._pool.child.kind != NODE and self._upstream is not None:
            self._lane.registry.failed(self._pool.child, "timeout", why)
        self._outcome = "timeout"
        self.fail(error)

    def pause(self) -> None:
        """The client reads too slowly: stop reading from the child."""
        if self._upstream is not None:
            self._upstream.pause()

    def resume(self) -> None:
        if self._upstream is not None:
            self._upstream.resume()

    def _cut(self, error: RequestError) -> None:
        """End a started answer that will not be completed; never so that it looks complete."""
        log.warning("answer for model %s cut: %s", self._model, error)
        assert self._answer is not None
        self._drop_upstream()
        self._outcome = "cut"
        self.keep_alive = False
        raw = self._dechunk is not None or (self.head.http10 and self._answer.head.kind == "until-close")
        tail = render.error_tail(error, self.head.dialect, self._answer, rechunked=self._rechunk, raw=raw)
        if tail is None:
            self._protocol.reset()
        else:
            self._protocol.transport.write(tail)
        self._settle(self._lane.clock())

    def _drop_upstream(self) -> None:
        upstream, self._upstream = self._upstream, None
        if upstream is not None:
            upstream.abort()

    def _settle(self, now: float, *, gone: bool = False) -> None:
        """The one place where an exchange ends."""
        self.response_complete = True
        lane = self._lane
        lease, self._lease = self._lease, None
        if self._counted:
            self._counted = False
            lane.budget.give_back()
        if lease is not None and lease.share is not None:
            share = lease.share
            self._release(lease)
            tally = share.tally or lane.tally(share)
            tally.done(self._outcome)
            tally.total.observe(now - self._started_at)
        self._parts = []
        if lane.access_log is not None:
            lane.access_log(self, self._outcome)
        if not gone:
            self._protocol.exchange_done(self, now)

    def _child_name(self) -> str:
        return self._pool.child.name if self._pool is not None else ""

    def __repr__(self) -> str:
        state = self._outcome or ("streaming" if self._started else "waiting" if self._lease else "receiving")
        return f"<Exchange {self.head.target!r} model={self._model!r} {state} attempts={self.attempts}>"
