"""One request and its answer on their way through the lane.

    collect body → ready → attempt: lease → connection → send → answer → done
                              ↑______ failed before the first body byte ______|

Everything from `ready` to `done` runs in synchronous callbacks, except that a new connection to a child has to be
dialled. The lease is released exactly once, in `_settle`, whatever happens.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import httptools
import msgspec

from hierarchy.child import NODE, Child, Lease
from hierarchy.errors import BadRequest, BodyTooLarge, ChildFailed, DeadlinePassed, RequestError
from hierarchy.relay import render
from hierarchy.relay.framing import Chunked, Framing, Length, UntilClose
from hierarchy.relay.head import AUTH, HOPS, MODEL, SEQ, Answer, Fields, request_fields, request_head
from hierarchy.relay.upstream import Pool, Upstream
from hierarchy.status import Api

if TYPE_CHECKING:
    from hierarchy.relay.lane import Lane, LaneProtocol

MAX_ATTEMPTS = 3  # requests that reached a child's machine; a refused connection costs nothing
EJECT_S = 2.0  # how long a child that refused a connection is passed over
log = logging.getLogger("hierarchy.lane")


class _Peek(msgspec.Struct):
    """The only field that routing needs; the rest is skipped, but must be JSON."""

    model: str


_peek = msgspec.json.Decoder(_Peek).decode


def model_of(body: bytes) -> str:
    """The `model` of a request body.

    Raises:
        BadRequest: it is not JSON, or has no `model`, or one that is not a string.
    """
    try:
        return _peek(body).model
    except msgspec.ValidationError as error:
        if "$.model" in str(error):
            raise BadRequest("'model' must be a string", param="model") from None
        if "missing required field" in str(error):
            raise BadRequest("the body has no 'model'; name one of GET /v1/models", param="model") from None
        raise BadRequest("the body must be a JSON object with a 'model'", param="model") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadRequest(f"the body is not JSON: {error}") from None
    except RecursionError:
        raise BadRequest("the body is not JSON that can be read: it is nested too deeply") from None


class Exchange:
    """A request on a lane path. Stands where uvicorn keeps its request cycle, and has the fields that it looks at."""

    __slots__ = (
        "_answer",
        "_body",
        "_dechunk",
        "_fields",
        "_lane",
        "_lease",
        "_model",
        "_outcome",
        "_parts",
        "_pool",
        "_protocol",
        "_rechunk",
        "_sent_at",
        "_size",
        "_started",
        "_started_at",
        "_target",
        "_touched",
        "_tried",
        "_upstream",
        "api",
        "attempts",
        "hops",
        "http10",
        "keep_alive",
        "my_turn",
        "received",
        "response_complete",
        "trusted",
    )

    def __init__(self, protocol: LaneProtocol, lane: Lane, api: Api, target: bytes, fields: Fields) -> None:
        self.api = api
        self.keep_alive = True
        self.http10 = False
        self.my_turn = False  # no earlier request of this connection is still being answered
        self.received = False  # the whole request is here
        self.response_complete = False
        self.trusted = False  # it came from a parent that we registered with
        self.attempts = 0
        self.hops = 0
        self._protocol = protocol
        self._lane = lane
        self._target = target
        self._fields = fields
        self._parts: list[bytes] = []
        self._size = 0
        self._body = b""
        self._model = ""
        self._lease: Lease | None = None
        self._pool: Pool | None = None
        self._upstream: Upstream | None = None
        self._tried: list[Child] = []
        self._answer: Answer | None = None
        self._started = False  # a body byte went up, so the answer can no longer be replaced
        self._touched = False  # something came since the last look at the clock
        self._rechunk = False
        self._dechunk: _Dechunker | None = None
        self._started_at = lane.clock()
        self._sent_at = 0.0
        self._outcome = ""

    # -- the request -----------------------------------------------------------------------------------------

    def begin(self, model: str) -> None:
        """The head is complete. model: from a trusted parent's header; empty: look into the body."""
        self._model = model

    def body_part(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > self._lane.settings.max_body_bytes:
            raise BodyTooLarge(
                f"the body is larger than {self._lane.settings.max_body_bytes} bytes, the limit of this node"
            )
        self._parts.append(data)

    def request_complete(self) -> None:
        parts = self._parts
        self._body = parts[0] if len(parts) == 1 else b"".join(parts)
        self._parts = []
        self.received = True
        if self.my_turn:
            self.go()

    def go(self) -> None:
        """The request is complete and it is its turn."""
        try:
            if not self._model:
                self._model = model_of(self._body)
            self._attempt()
        except RequestError as error:
            self.fail(error)

    # -- attempts --------------------------------------------------------------------------------------------

    def _attempt(self) -> None:
        lane = self._lane
        self._lease = lease = lane.dispatch.lease((self._model, self.api), self._tried)
        share = lease.share
        assert share is not None
        self._pool = pool = lane.pool(share.child)
        upstream = pool.take()
        if upstream is not None:
            self._send(upstream)
        else:
            lane.spawn(self._dial(pool, lease))

    async def _dial(self, pool: Pool, lease: Lease) -> None:
        why = ""
        try:
            upstream = await pool.dial()
        except OSError as error:
            upstream, why = None, f"cannot be reached at {pool.child.url}: {_words(error)}"
        if self._lease is not lease or self.response_complete:  # the client left meanwhile
            if upstream is not None:
                pool.put(upstream)
        elif upstream is not None:
            self._send(upstream)
        else:
            self._lane.registry.eject(pool.child, EJECT_S, why)
            self._try_another(why)

    def _send(self, upstream: Upstream) -> None:
        lane = self._lane
        child = upstream.pool.child
        self._upstream = upstream
        self.attempts += 1
        ours = b""
        if child.kind == NODE:
            lease = self._lease
            assert lease is not None
            ours = b"%b: %b\r\n%b: %d\r\n%b: %b\r\n%b: %d\r\n" % (
                AUTH, child.secret, SEQ, lease.ordinal, MODEL, render.field_value(self._model), HOPS, self.hops + 1,
            )  # fmt: skip
        head = request_head(
            child.prefix + self._target, child.authority, request_fields(self._fields), len(self._body), ours
        )
        self._sent_at = now = lane.clock()
        self._protocol.deadline = now + lane.settings.first_byte_timeout_s
        upstream.send(self, head, self._body)

    def _try_another(self, why: str) -> None:
        """The child failed before the first body byte."""
        lease, self._lease = self._lease, None
        assert lease is not None
        assert lease.share is not None
        share = lease.share
        child = share.child
        lease.release()
        self._lane.tally(share).done("failed")
        self._answer = self._upstream = None
        self._tried.append(child)
        log.warning("%s %s; request for model %s", child.name, why, self._model)
        error: RequestError = ChildFailed(f"{child.name} {why}")
        if self.attempts < MAX_ATTEMPTS:
            try:
                self._attempt()
            except RequestError:
                pass  # nobody else: then what went wrong with the last one is the answer
            else:
                self._lane.metrics.retries += 1
                return
        self.fail(error)

    # -- the answer (Sink) -----------------------------------------------------------------------------------

    def answer_started(self, answer: Answer) -> None:
        self._answer = answer
        self._touched = True

    def answer_body(self, data: bytes) -> None:
        self._touched = True
        if self._started:
            if self._rechunk:
                data = b"%x\r\n%b\r\n" % (len(data), data)
            elif self._dechunk is not None:
                data = self._dechunk.feed(data)
            self._protocol.transport.write(data)
            return
        lane = self._lane
        self._body = b""  # no attempt can follow
        self._started = True
        lease = self._lease
        assert lease is not None
        assert lease.share is not None
        now = lane.clock()
        lane.tally(lease.share).ttft.observe(now - self._sent_at)
        self._protocol.deadline = now + lane.settings.idle_timeout_s
        head = self._answer_head()
        if self._rechunk:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        elif self._dechunk is not None:
            data = self._dechunk.feed(data)
        self._protocol.transport.write(head + data)

    def answer_ended(self) -> None:
        upstream, self._upstream = self._upstream, None
        if not self._started:  # it has no body
            self._protocol.transport.write(self._answer_head())
        if self._rechunk:
            self._protocol.transport.write(b"0\r\n\r\n")
        assert upstream is not None
        assert self._answer is not None
        self._outcome = "ok" if self._answer.status < 500 else "error"
        self._settle()

    def answer_broken(self, why: str) -> None:
        if self._started:
            self._cut(ChildFailed(f"{self._child_name()} {why}"))
        else:
            self._try_another(why)

    def _answer_head(self) -> bytes:
        answer = self._answer
        assert answer is not None
        framing: bytes | None = None
        if self.http10:
            self.keep_alive = False
            if isinstance(answer.framing, Chunked):
                self._dechunk = _Dechunker()
                framing = b""
        elif isinstance(answer.framing, UntilClose):
            self._rechunk = True
            framing = b"transfer-encoding: chunked\r\n"
        path = render.field_value(self._child_name())
        if answer.path and self._pool is not None and self._pool.child.is_node:
            path += b"/" + answer.path
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
        self._outcome = self._outcome or error.code
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
        settings = self._lane.settings
        paused = self._protocol.flow.write_paused
        if self._touched or (paused and self._protocol.client_reads()):
            self._touched = False
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
        framing = self._answer.framing
        self._drop_upstream()
        self._outcome = "cut"
        self.keep_alive = False
        tail = self._error_tail(error, framing)
        if tail is None:
            self._protocol.reset()
        else:
            self._protocol.transport.write(tail)
        self._settle()

    def _error_tail(self, error: RequestError, framing: Framing) -> bytes | None:
        """The bytes that end a stream with an error event; None where its form has no place for one."""
        assert self._answer is not None
        if self.api == "fastchat":
            filler, event = b"\0", render.fastchat_event(error)
        elif self._answer.is_event_stream:
            filler, event = b"\n", render.sse_event(error)
        else:
            return None
        if self._rechunk:
            return b"%x\r\n%b\r\n0\r\n\r\n" % (len(event), event)
        if self._dechunk is not None or (self.http10 and isinstance(framing, UntilClose)):
            return event
        if isinstance(framing, Length):
            return None
        mended = framing.mend(filler)
        return None if mended is None else b"%b%x\r\n%b\r\n0\r\n\r\n" % (mended, len(event), event)

    def _drop_upstream(self) -> None:
        upstream, self._upstream = self._upstream, None
        if upstream is not None:
            upstream.abort()

    def _settle(self, *, gone: bool = False) -> None:
        """The one place where an exchange ends."""
        self.response_complete = True
        lane = self._lane
        lease, self._lease = self._lease, None
        if lease is not None and lease.share is not None:
            share = lease.share
            lease.release()
            tally = lane.tally(share)
            tally.done(self._outcome)
            tally.total.observe(lane.clock() - self._started_at)
        self._body, self._parts = b"", []
        if lane.access_log is not None:
            lane.access_log(self, self._outcome)
        if not gone:
            self._protocol.exchange_done(self)

    def _child_name(self) -> str:
        return self._pool.child.name if self._pool is not None else ""

    def __repr__(self) -> str:
        state = self._outcome or ("streaming" if self._started else "waiting" if self._lease else "receiving")
        return f"<Exchange {self._target!r} model={self._model!r} {state} attempts={self.attempts}>"


class _Dechunker:
    """Takes the chunk framing away, for clients of HTTP/1.0, who do not know it."""

    def __init__(self) -> None:
        self._out: list[bytes] = []
        self._parser = httptools.HttpResponseParser(self)
        self._parser.feed_data(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")

    def on_body(self, data: bytes) -> None:
        self._out.append(data)

    def feed(self, data: bytes) -> bytes:
        self._parser.feed_data(data)  # our own tracker has already found the framing good
        out, self._out = self._out, []
        return b"".join(out)


def _words(error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return "no connection in time"
    return error.strerror or str(error) or type(error).__name__
