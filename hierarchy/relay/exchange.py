"""One request and its answer on their way through the lane.

    collect body → ready → attempt: lease → connection → send → answer → done
                              ↑______ failed before the first body byte ______|

Everything from `ready` to `done` runs in synchronous callbacks, except that a new connection to a child has to be
dialled. The lease is released exactly once, in `_settle`, whatever happens.
"""

from __future__ import annotations

import errno
import logging
from typing import TYPE_CHECKING, Protocol

from hierarchy.child import NODE, Child, Lease
from hierarchy.errors import BodyTooLarge, ChildFailed, DeadlinePassed, ModelNotAllowed, RequestError, Unavailable
from hierarchy.relay import render
from hierarchy.relay.answer import Answer
from hierarchy.relay.ending import error_tail
from hierarchy.relay.framing import Dechunker
from hierarchy.relay.peek import model_of
from hierarchy.relay.seen import RequestHead
from hierarchy.relay.upstream import Pool, Upstream
from hierarchy.rewrite import with_model

if TYPE_CHECKING:
    from hierarchy.relay.lane import Lane
    from hierarchy.relay.turns import Turns

MAX_ATTEMPTS = 3  # requests that reached a child's machine; a refused connection costs nothing
EJECT_S = 2.0  # how long a child that refused a connection is passed over
log = logging.getLogger("hierarchy.lane")


class Parent(Protocol):
    """Whom a request came from. open: how many of its requests have a lease here."""

    open: int


class Exchange:
    """A request on a lane path. Stands where uvicorn keeps its request cycle, and has the fields that it looks at."""

    # What most exchanges never change stands here once, instead of being set for each.
    my_turn = False  # no earlier request of this connection is still being answered
    received = False  # the whole request is here
    response_complete = False
    _parent: Parent | None = None  # whom it came from, if that is one that we registered with
    attempts = 0
    size = 0  # bytes of body that have come
    _model = ""
    _lease: Lease | None = None
    _pool: Pool | None = None
    _upstream: Upstream | None = None
    _tried: tuple[Child, ...] = ()
    _answer: Answer | None = None
    _started = False  # a body byte went up, so the answer can no longer be replaced
    _touched = False  # something came since the last look at the clock
    _rechunk = False
    _dechunk: Dechunker | None = None
    _sent_at = 0.0
    _outcome = ""

    def __init__(self, protocol: Turns, lane: Lane, head: RequestHead, now: float) -> None:
        self.head = head
        self.api = head.api
        self.keep_alive = head.keep_alive
        self._protocol = protocol
        self._lane = lane
        self._parts: list[bytes] = []
        self._started_at = now

    # -- the request -----------------------------------------------------------------------------------------

    @property
    def expects(self) -> bool:
        """The client waits for a 100 before it sends the body."""
        return self.head.expects

    def trust(self, parent: Parent) -> None:
        """It came from a parent: believe what its head says of the model, rather than look into the body again."""
        self._parent = parent
        self._model = self.head.model

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
                asked = self._model = model_of(self._body())
                if asked in self._lane.dispatch.aliased:
                    self._resolve(asked)
                if self.head.caller.models is not None and self._parent is None:
                    self._check_allowed(asked)
            self._attempt(now)
        except RequestError as error:
            self.fail(error)

    def _resolve(self, alias: str) -> None:
        """From here on the request is for a model that the alias stands for; nobody below knows of the alias."""
        self._model = self._lane.dispatch.resolve(alias, self.api)
        self._parts = [with_model(self._body(), self._model)]
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

    def _attempt(self, now: float, *, fresh: bool = False) -> None:
        """Send the request to the child that dispatch chooses. fresh: over a new connection.

        Raises:
            RequestError: there is no child to send it to.
        """
        lane = self._lane
        self._lease = lease = lane.dispatch.lease((self._model, self.api), self._tried)
        if self._parent is not None:
            self._parent.open += 1
        share = lease.share
        assert share is not None
        self._pool = pool = share.child.pool or lane.pool(share.child)
        upstream = None if fresh else pool.take()
        if upstream is not None:
            self._send(upstream, now)
        else:
            lane.spawn(self._dial(pool, lease))

    async def _dial(self, pool: Pool, lease: Lease) -> None:
        why, ours = "", False
        try:
            upstream = await pool.dial()
        except OSError as error:
            upstream, why = None, f"cannot be reached: {_words(error)}"
            ours = error.errno in (errno.EMFILE, errno.ENFILE)
        if self._lease is not lease or self.response_complete:  # the client left meanwhile
            if upstream is not None:
                pool.put(upstream)
        elif upstream is not None:
            self._send(upstream, self._lane.clock())
        elif ours:  # which no other child could mend, and none is to blame for
            log.error("out of file descriptors: each stream needs two; raise the limit (ulimit -n, LimitNOFILE)")
            self.fail(Unavailable("this node is out of file descriptors"))
        else:
            self._lane.registry.eject(pool.child, EJECT_S, why)
            self._try_another(why)

    def _send(self, upstream: Upstream, now: float) -> None:
        lane = self._lane
        pool = upstream.pool
        self._upstream = upstream
        self.attempts += 1
        hops = self.head.hops + 1 if self._parent is not None else 1
        opening = pool.opening(self.head, self._model, hops)
        parts, size = self._parts, self.size
        if pool.numbered:
            lease = self._lease
            assert lease is not None
            head = b"%b%d\r\ncontent-length: %d\r\n\r\n" % (opening, lease.ordinal, size)
        else:
            if pool.child.renames:  # for this child alone: another one may be tried with the body as it came
                own = pool.child.renames.get(self._model)
                if own is not None:
                    parts = [with_model(self._body(), own)]
                    size = len(parts[0])
            head = b"%b%d\r\n\r\n" % (opening, size)
        self._sent_at = now
        self._protocol.deadline = now + lane.settings.first_byte_timeout_s
        upstream.send(self, head, parts, size)
        if self._protocol.flow.write_paused:  # an earlier answer has not been read yet
            upstream.pause()

    def _try_another(self, why: str, *, stale: bool = False) -> None:
        """The child failed before the first body byte. stale: only a connection did, so it is asked again."""
        lease, self._lease = self._lease, None
        assert lease is not None
        assert lease.share is not None
        share = lease.share
        child = share.child
        self._release(lease)
        self._lane.tally(share).done("stale" if stale else "failed")
        self._answer = self._upstream = None
        if not stale:
            self._tried += (child,)
            log.warning("%s %s; request for model %s", child.name, why, self._model)
        error: RequestError = ChildFailed(f"{child.name} {why}")
        if self.attempts < MAX_ATTEMPTS:
            try:
                self._attempt(self._lane.clock(), fresh=stale)
            except RequestError:
                pass  # nobody else: then what went wrong with the last one is the answer
            else:
                self._lane.metrics.retries += 1
                return
        self.fail(error)

    # -- the answer (Sink) -----------------------------------------------------------------------------------

    def answer_started(self, answer: Answer) -> None:
        self._answer = answer  # its head waits for the first byte of its body, and so does the deadline

    def answer_body(self, data: bytes) -> None:
        self._touched = True
        head = b""
        if not self._started:
            now = self._lane.clock()
            self._first_byte(now)
            self._protocol.deadline = now + self._lane.settings.idle_timeout_s
            head = self._answer_head()
            upstream = self._upstream
            if upstream is not None and not self._rechunk and self._dechunk is None:
                upstream.pass_on(self._protocol.transport.write)
        if self._rechunk:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        elif self._dechunk is not None:
            data = self._dechunk.feed(data)
        self._protocol.transport.write(head + data if head else data)

    def answer_ended(self) -> None:
        self._upstream = None
        if not self._started:  # it has no body
            self._protocol.transport.write(self._answer_head())
        if self._rechunk:
            self._protocol.transport.write(b"0\r\n\r\n")
        self._answered(self._lane.clock())

    def answer_whole(self, answer: Answer, body: bytes) -> None:
        self._answer = answer
        self._upstream = None
        now = self._lane.clock()
        self._first_byte(now)
        self._protocol.transport.write(self._answer_head() + body)
        self._answered(now)

    def _first_byte(self, now: float) -> None:
        """The first byte of body goes up: no other attempt can follow."""
        self._started = True
        self._parts = []
        assert self._lease is not None
        share = self._lease.share
        assert share is not None
        tally = share.tally or self._lane.tally(share)
        tally.ttft.observe(now - self._sent_at)

    def _answered(self, now: float) -> None:
        assert self._answer is not None
        self._outcome = "ok" if self._answer.head.status < 500 else "error"
        self._settle(now)

    def answer_broken(self, why: str, *, stale: bool = False) -> None:
        if self._started:
            self._cut(ChildFailed(f"{self._child_name()} {why}"))
        else:
            self._try_another(why, stale=stale)

    def _answer_head(self) -> bytes:
        answer = self._answer
        assert answer is not None
        if answer.usual and self.keep_alive:
            return b"%b%d\r\n\r\n" % (answer.usual, answer.length) if answer.head.has_length else answer.usual
        framing: bytes | None = None
        if self.head.http10:
            self.keep_alive = False
            if answer.head.kind == "chunked":
                self._dechunk = Dechunker()
                framing = b""
        elif answer.head.kind == "until-close":
            self._rechunk = True
            framing = b"transfer-encoding: chunked\r\n"
        assert self._pool is not None
        path = self._pool.path
        if answer.head.path and self._pool.child.kind == NODE:
            path = b"%b/%b" % (path, answer.head.path)
        return answer.forward(path=path, framing=framing, close=not self.keep_alive)

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
        self._protocol.transport.write(
            render.error_answer(error, self.api, self._protocol.server_state.default_headers, close=not self.keep_alive)
        )
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
        settings = self._lane.settings
        paused = self._protocol.flow.write_paused
        upstream = self._upstream
        if self._touched or (upstream is not None and upstream.heard) or (paused and self._protocol.client_reads()):
            self._touched = False
            if upstream is not None:
                upstream.heard = False
            limit = settings.idle_timeout_s if self._started else settings.first_byte_timeout_s
            self._protocol.deadline = now + limit
        elif paused:
            self._protocol.transport.abort()
        elif self._started:
            self._cut(DeadlinePassed(f"{self._child_name()} sent nothing for {settings.idle_timeout_s:g} s"))
        else:
            why = f"sent no answer within {settings.first_byte_timeout_s:g} s"
            self._outcome = "timeout"
            self.fail(DeadlinePassed(f"{self._child_name()} {why}"))

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
        tail = error_tail(error, self.api, self._answer, rechunked=self._rechunk, raw=raw)
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

    def _release(self, lease: Lease) -> None:
        lease.release()
        if self._parent is not None:
            self._parent.open -= 1

    def _child_name(self) -> str:
        return self._pool.child.name if self._pool is not None else ""

    def __repr__(self) -> str:
        state = self._outcome or ("streaming" if self._started else "waiting" if self._lease else "receiving")
        return f"<Exchange {self.head.target!r} model={self._model!r} {state} attempts={self.attempts}>"


def _words(error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return "no connection in time"
    return error.strerror or str(error) or type(error).__name__
