"""One request and its answer on their way through the lane.

    collect body → ready → attempt: lease → connection → send → answer → done
                              ↑______ failed before the first body byte ______|

Everything from `ready` to `done` runs in synchronous callbacks, except that a new connection to a child has to be
dialled. The lease is released exactly once, in `_settle`, whatever happens.
"""

from __future__ import annotations

import errno
import logging
from typing import TYPE_CHECKING

from hierarchy.child import NODE, Lease
from hierarchy.errors import BodyTooLarge, ChildFailed, DeadlinePassed, RequestError, Unavailable
from hierarchy.relay import render, waiting
from hierarchy.relay.answer import Answer
from hierarchy.relay.attempts import RETRIABLE, unspent_field
from hierarchy.relay.ending import error_tail
from hierarchy.relay.framing import Dechunker
from hierarchy.relay.head import ATTEMPTS, AUTH, DEADLINE, HOPS, MODEL, SEQ, request_head
from hierarchy.relay.peek import model_of
from hierarchy.relay.retrying import Retrying
from hierarchy.relay.seen import RequestHead
from hierarchy.relay.upstream import Pool, Upstream

if TYPE_CHECKING:
    from hierarchy.relay.lane import Lane
    from hierarchy.relay.turns import Turns

FOREVER = float("inf")
log = logging.getLogger("hierarchy.lane")


class Exchange(Retrying):
    """A request on a lane path. Stands where uvicorn keeps its request cycle, and has the fields that it looks at."""

    # What most exchanges never change stands here once, instead of being set for each.
    my_turn = False  # no earlier request of this connection is still being answered
    received = False  # the whole request is here
    attempts = 0  # that this node made
    size = 0  # bytes of body that have come
    ends_at = FOREVER  # by the limit on the whole request
    _started = False  # a body byte went up, so the answer can no longer be replaced
    _touched = False  # something came since the last look at the clock
    _rechunk = False
    _dechunk: Dechunker | None = None
    _outcome = ""

    def __init__(self, protocol: Turns, lane: Lane, head: RequestHead) -> None:
        self.head = head
        self.api = head.api
        self.keep_alive = head.keep_alive
        self._protocol = protocol
        self._lane = lane
        self._parts: list[bytes] = []
        self._started_at = lane.clock()

    # -- the request -----------------------------------------------------------------------------------------

    @property
    def expects(self) -> bool:
        """The client waits for a 100 before it sends the body."""
        return self.head.expects

    def trust(self) -> None:
        """It came from a parent: believe what its head says of the model, rather than look into the body again."""
        self.trusted = True
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
            self.go()

    def go(self) -> None:
        """The request is complete and it is its turn."""
        try:
            if not self._model:
                self._model = model_of(self._body())
            self._attempt()
        except RequestError as error:
            if not self._lane.park(self, error):
                self.fail(error)

    def _body(self) -> bytes:
        """The body in one piece; below the entry node nobody asks for it, and a long prompt is not copied."""
        if len(self._parts) != 1:
            self._parts = [b"".join(self._parts)]
        return self._parts[0]

    # -- attempts --------------------------------------------------------------------------------------------

    def _attempt(self, *, fresh: bool = False) -> None:
        """Send the request to the child that dispatch chooses. fresh: over a new connection.

        Raises:
            RequestError: there is no child to send it to.
        """
        lane = self._lane
        self._lease = lease = lane.dispatch.lease((self._model, self.api), self._tried)
        share = lease.share
        assert share is not None
        self._pool = pool = lane.pool(share.child)
        upstream = None if fresh else pool.take()
        if upstream is not None:
            self._send(upstream)
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
            self._send(upstream)
        elif ours:  # which no other child could mend, and none is to blame for
            log.error("out of file descriptors: each stream needs two; raise the limit (ulimit -n, LimitNOFILE)")
            self.fail(Unavailable("this node is out of file descriptors"))
        else:
            self._lane.registry.failed(pool.child, "unreachable", why)
            self._try_another(why)

    def _send(self, upstream: Upstream) -> None:
        lane = self._lane
        child = upstream.pool.child
        lease = self._lease
        assert lease is not None
        assert lease.share is not None
        self._upstream = upstream
        self.attempts += 1
        self._limits = limits = lease.share.limits or lane.limits(lease.share)
        self._sent_at = now = lane.clock()
        if limits.total_s is not None and not self.trusted:
            self.ends_at = self._started_at + limits.total_s
        ours, lent = b"", 1
        if child.kind == NODE:
            lent = self._lend()
            hops = self.head.hops + 1 if self.trusted else 1
            ours = b"%b: %b\r\n%b: %b\r\n%b: %d\r\n%b: %d\r\n%b: %d\r\n" % (
                AUTH, child.secret, MODEL, render.field_value(self._model), HOPS, hops, ATTEMPTS, lent,
                SEQ, lease.ordinal,
            )  # fmt: skip
            if self.ends_at != FOREVER:
                ours += b"%b: %d\r\n" % (DEADLINE, max(0, (self.ends_at - now) * 1000))
        self.left -= lent
        self._lent = lent
        said = self.head
        head = request_head(child.prefix + said.target, child.authority, said.fields, self.size, ours)
        deadline = now + (limits.below_s(said.hops) if self.trusted else limits.look_s)
        self._protocol.deadline = deadline if deadline < self.ends_at else self.ends_at
        upstream.send(self, head, self._parts, self.size)
        if self._protocol.flow.write_paused:  # an earlier answer has not been read yet
            upstream.pause()

    # -- the answer (Sink) -----------------------------------------------------------------------------------

    def answer_started(self, answer: Answer) -> None:
        self._answer = answer  # its head waits for the first byte of its body, and so does the deadline

    def answer_body(self, data: bytes) -> None:
        self._touched = True
        if self._started:
            if self._rechunk:
                data = b"%x\r\n%b\r\n" % (len(data), data)
            elif self._dechunk is not None:
                data = self._dechunk.feed(data)
            self._protocol.transport.write(data)
            return
        answer = self._answer
        assert answer is not None
        if (self._waiting or not answer.head.plain_sailing) and self._keeps_back(data):
            return
        self._begin_answer(data)

    def _begin_answer(self, data: bytes) -> None:
        """The first bytes of a body go up, and its head before them."""
        lane, lease = self._lane, self._lease
        self._parts = []  # no attempt can follow
        self._started = True
        now = lane.clock()
        if lease is not None and lease.share is not None:  # not those of a refusal that was kept back
            lane.tally(lease.share).ttft.observe(now - self._sent_at)
            if lease.share.child.trouble is not None:
                lane.registry.succeeded(lease.share.child)
        assert self._limits is not None
        deadline = now + self._limits.idle_s
        self._protocol.deadline = deadline if deadline < self.ends_at else self.ends_at
        head = self._answer_head()
        if self._rechunk:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        elif self._dechunk is not None:
            data = self._dechunk.feed(data)
        self._protocol.transport.write(head + data)

    def answer_ended(self) -> None:
        upstream, self._upstream = self._upstream, None
        assert upstream is not None
        answer = self._answer
        assert answer is not None
        if not self._started:  # it has no body, or one that is kept back
            if self._held is not None or ((self._waiting or not answer.head.plain_sailing) and self._keeps_back(b"")):
                self._held_ended()
                return
            self._protocol.transport.write(self._answer_head())
        if answer.head.status >= 500 and upstream.pool.child.kind != NODE:
            self._lane.registry.failed(upstream.pool.child, "error", f"answered {answer.head.status}")
        self._finish_answer()

    def _finish_answer(self) -> None:
        if self._rechunk:
            self._protocol.transport.write(b"0\r\n\r\n")
        assert self._answer is not None
        self._outcome = "ok" if self._answer.head.status < 500 else "error"
        self._settle()

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
        if self.trusted and (self._retried or not answer.head.plain_sailing):
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
            words = waiting.failed(error, self.api, http10=self.head.http10)
        else:
            # To a parent whose secret we do not know, too: it has not heard yet that we were started again.
            if self.head.auth and error.status in RETRIABLE:
                fields = [*fields, unspent_field(max(0, self.left))]
            words = render.error_answer(error, self.api, fields, close=not self.keep_alive)
        self._protocol.transport.write(words)
        self._outcome = self._outcome or "refused"
        self._settle()

    def client_gone(self) -> None:
        """Whoever asked has left: so must the request below, through all levels."""
        if self.response_complete:
            return
        self._drop_upstream()
        self._outcome = "cancelled"
        self._settle(gone=True)

    def check_clock(self, now: float) -> None:
        """The protocol's deadline has passed: has nothing really come since?"""
        limits = self._limits
        assert limits is not None
        paused = self._protocol.flow.write_paused
        if now >= self.ends_at:
            self._late("was not done in the time for the whole request")
        elif self._touched or (paused and self._protocol.client_reads()):
            self._touched = False
            limit = limits.idle_s if self._started else limits.first_byte_s
            self._protocol.deadline = min(now + limit, self.ends_at)
        elif paused:
            self._protocol.transport.abort()
        elif self._started:
            self._late(f"sent nothing for {limits.idle_s:g} s")
        elif not self.trusted and now < self._sent_at + limits.first_byte_s:
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
        tail = error_tail(error, self.api, self._answer, rechunked=self._rechunk, raw=raw)
        if tail is None:
            self._protocol.reset()
        else:
            self._protocol.transport.write(tail)
        self._settle()

    def _drop_upstream(self) -> None:
        upstream, self._upstream = self._upstream, None
        if upstream is not None:
            upstream.abort()

    def _settle(self, *, gone: bool = False) -> None:
        """The one place where an exchange ends."""
        self.response_complete = True
        lane = self._lane
        lease, self._lease = self._lease, None
        if self._counted:
            self._counted = False
            lane.budget.give_back()
        if lease is not None and lease.share is not None:
            share = lease.share
            lease.release()
            tally = lane.tally(share)
            tally.done(self._outcome)
            tally.total.observe(lane.clock() - self._started_at)
        self._parts = []
        if lane.access_log is not None:
            lane.access_log(self, self._outcome)
        if not gone:
            self._protocol.exchange_done(self)

    def _child_name(self) -> str:
        return self._pool.child.name if self._pool is not None else ""

    def __repr__(self) -> str:
        state = self._outcome or ("streaming" if self._started else "waiting" if self._lease else "receiving")
        return f"<Exchange {self.head.target!r} model={self._model!r} {state} attempts={self.attempts}>"


def _words(error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return "no connection in time"
    return error.strerror or str(error) or type(error).__name__
