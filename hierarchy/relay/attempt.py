"""One try to get a response from one child: a lease, a connection, the request in a form the child understands.

The commonest case, an idle connection to a child that takes the request as it came, is synchronous. A new connection
has to be dialled, and an engine of the other API family may have to be asked for its chat template first.

The child's bytes go straight to the client's `Response`. The exchange hears of the end, or of the failure.
"""

from __future__ import annotations

import errno
import logging
from http import HTTPStatus

from hierarchy.balancing.lent_attempts import lend, returned
from hierarchy.errors import BadRequest, ChildFailed, EngineUnreadable, RequestError, Unavailable, describe
from hierarchy.http.content_coding import CodingError
from hierarchy.http.promise import Fate, too_long, unfit
from hierarchy.http.request_head import DEADLINE
from hierarchy.http.response_check import looks_good
from hierarchy.http.response_head import ResponseHead, UpstreamResponse
from hierarchy.registry import is_avoided
from hierarchy.registry.child import NODE, Lease, Share
from hierarchy.registry.ejection import Failure as Failing
from hierarchy.relay.client import FOREVER, Client
from hierarchy.relay.held import Held
from hierarchy.relay.lane import Lane
from hierarchy.relay.request import Request
from hierarchy.relay.response import Response, path_of
from hierarchy.relay.retry import Cause, Failure, Refusal
from hierarchy.relay.upstream.connection import RequestSender, ResponseHandler
from hierarchy.relay.upstream.destination import Destination
from hierarchy.relay.upstream.translating import TranslatedRequest, Translator, translate
from hierarchy.relay.verdict import Verdict

log = logging.getLogger("hierarchy.lane")


class Listener:
    """Hears how an attempt ended: the exchange."""

    def attempt_done(self, attempt: Attempt, response: UpstreamResponse, now: float) -> None:
        """The child's response is complete, and the client has all of it."""
        raise NotImplementedError

    def attempt_failed(self, attempt: Attempt, failure: Failure) -> None:
        """It failed before the first byte of the body: another child may be tried."""
        raise NotImplementedError

    def attempt_cut(self, error: RequestError) -> None:
        """It failed after that."""
        raise NotImplementedError

    def fail(self, error: RequestError) -> None:
        """The request cannot be served by any child."""
        raise NotImplementedError


class Attempt(ResponseHandler):
    """One attempt. It holds its lease from the beginning until `end`, which is called exactly once."""

    over: bool = False  # its lease is released
    sent_at: float = 0.0  # when the request was sent to the child
    lent: int = 0  # attempts that were lent to the child with it
    others: bool = False  # the child, a node, was told that others could take the request
    outcome: str = ""  # of a complete response: `ok`, `error`, or `cut` if the child says so
    reason: str = ""  # of an outcome that is not `ok`, as a sentence without its subject, the child
    _forwards: bool = False  # the connection passes the body on without this object
    _is_whole: bool = False  # the whole body came in one read
    _counted: int = 0  # bytes of the response that is held, in the lane's count
    _received: bool = False  # something came since `take_received`

    def __init__(
        self, listener: Listener, lane: Lane, client: Client, request: Request, response: Response,
        lease: Lease, destination: Destination,
    ) -> None:  # fmt: skip
        self.lease = lease
        self.destination = destination
        self.child = destination.child
        self.pool = destination.pool
        self.sender: RequestSender | None = None  # None: not connected yet, or the response is complete
        self._listener = listener
        self._lane = lane
        self._client = client
        self._request = request
        self._response = response
        self._renamed: list[bytes] | None = None  # the body, where the engine has its own name for the model
        self._held: Held | None = None  # a response that the client shall not see yet, or not in this form
        self._verdict: Verdict | None = None  # on a response that did not come whole, or not as most do
        parent = request.parent
        if parent is not None:
            parent.open += 1

    @property
    def holds(self) -> bool:
        """Has something come that the client does not get yet?"""
        return self._held is not None

    # -- sending -------------------------------------------------------------------------------------------------

    def start(self, now: float, *, fresh: bool) -> None:
        """Send the request, at once if there is an idle connection. fresh: over a new connection."""
        if self.destination.share.key[1] != self._request.head.native and not self.pool.numbered:
            self._lane.spawn(self._translate(fresh=fresh), "translation")
            return
        if self.child.renames and not self._rename():
            return
        upstream = None if fresh else self.pool.take(now)
        if upstream is not None:
            self._send(upstream, now)
        else:
            self._lane.spawn(self._connect(None), "connection")

    def _rename(self) -> bool:
        """Use the engine's own name for the model, if it has another. Returns False if the body cannot be read."""
        own = self.child.renames.get(self._request.model)
        if own is not None:  # for this child alone: another one may be tried with the body as it came
            try:
                self._renamed = self._request.parts_with(own)
            except BadRequest as error:
                self._listener.fail(error)
                return False
        return True

    def _send(self, sender: RequestSender, now: float) -> None:
        request, lane, pool, timeouts = self._request, self._lane, self.pool, self.destination.timeouts
        self.sender = sender
        self.sent_at = now
        at_entry = request.parent is None
        if timeouts.total_s is not None and at_entry:
            request.ends_at = request.started_at + timeouts.total_s
        parts, size, lent = request.parts, request.size, 1
        hops = 0 if at_entry else request.head.hops
        if pool.numbered:
            shares = lane.registry.available(self.destination.share.key)
            lent, self.others = self._lend(shares), self._others(shares)
            opening = pool.opening(request.head, request.model, hops + 1, lent, self.others)
            number = str(self.lease.ordinal).encode() + self._time_left(now)
            head = b"".join([opening, number, b"\r\ncontent-length: ", str(size).encode(), b"\r\n\r\n"])
        else:
            if self._renamed is not None:
                parts = self._renamed
                size = sum([len(part) for part in parts])
            head = b"".join([pool.opening(request.head, request.model, 0, 0, False), str(size).encode(), b"\r\n\r\n"])
        request.left -= lent
        self.lent = lent
        self._set_deadline(now + (timeouts.look_s if at_entry else timeouts.below_s(hops)))
        sender.send(self, head, parts, size)
        if self._client.blocked:  # an earlier response has not been read yet
            sender.pause()

    def _lend(self, shares: list[Share]) -> int:
        """How many attempts go down with the request to a node. shares: that serve the model now."""
        request, lane = self._request, self._lane
        left = request.left
        if left <= 1:
            return 1
        if request.parent is not None:
            return lend(left, entry=False, rivals=len(shares) - len(request.passed) > 1)
        lent = lend(left, entry=True, rivals=True)
        if lent > 1 and lane.retry_budget.troubled and not request.has_retry_place:
            return lent if lane.take_retry_place(request) else 1
        return lent

    def _others(self, shares: list[Share]) -> bool:
        """Could others than the child take the request: another child of this node, or a node above?"""
        request = self._request
        if request.others or request.insists:
            return not request.insists
        if is_avoided(shares):
            return False
        if not request.passed:
            return len(shares) > 1 or shares[0].child is not self.child
        return any(share.child is not self.child and share.child not in request.passed for share in shares)

    def _time_left(self, now: float) -> bytes:
        """The line that tells a node below how long the whole request may still take, if that is limited."""
        ends_at = self._request.ends_at
        if ends_at == FOREVER:
            return b""
        return b"\r\n%b: %d" % (DEADLINE, max(0, (ends_at - now) * 1000))

    def _set_deadline(self, deadline: float) -> None:
        ends_at = self._request.ends_at
        self._client.deadline = deadline if deadline < ends_at else ends_at

    # -- connecting ----------------------------------------------------------------------------------------------

    async def _connect(self, translated: TranslatedRequest | None) -> None:
        """Dial, then send. translated: what is sent instead of the request as it came."""
        reason, no_descriptors = "", False
        try:
            upstream = await self.pool.dial()
        except OSError as error:
            upstream, reason = None, unreachable_reason(error)
            no_descriptors = error.errno in (errno.EMFILE, errno.ENFILE)
        if self.over:  # the client left meanwhile
            if upstream is not None:
                self.pool.put(upstream)
        elif upstream is not None:
            sender: RequestSender = upstream if translated is None else self._translator(upstream, translated)
            self._send(sender, self._lane.clock())
        elif no_descriptors:  # no other child could help, and none is to blame
            self._lane.warnings.warn(
                "out of file descriptors: each stream needs two; raise the limit (ulimit -n, LimitNOFILE)"
            )
            self._listener.fail(Unavailable("this node is out of file descriptors"))
        else:
            self._failed("unreachable", reason)
            self._fail(Cause.BROKEN, reason)

    async def _translate(self, *, fresh: bool) -> None:
        """Send the request to an engine in the form of its own API family."""
        request = self._request
        reason = ""
        refusal: RequestError | None = None
        translated: TranslatedRequest | None = None
        try:
            translated = await translate(self.destination, request.head, request.model, request.body())
        except BadRequest as error:
            refusal = error
        except (RequestError, EngineUnreadable) as error:
            reason = str(error).removeprefix(f"{self.child.name} ")
        except Exception:  # a defect, which must not leave its client without a response
            log.exception("a request for model %s could not be translated for %s", request.model, self.child.name)
            refusal = RequestError("this request could not be translated for the engine of its model")
        if self.over:
            return
        if refusal is not None:
            self._listener.fail(refusal)
        elif translated is None:
            self._failed("broke", reason)
            self._fail(Cause.BROKEN, reason)
        else:
            upstream = None if fresh else self.pool.take(self._lane.clock())
            if upstream is None:
                await self._connect(translated)
            else:
                self._send(self._translator(upstream, translated), self._lane.clock())

    def _translator(self, upstream: RequestSender, translated: TranslatedRequest) -> Translator:
        return Translator(upstream, translated, self._client.fields())

    # -- the child's response (ResponseHandler) ------------------------------------------------------------------

    def response_started(self, response: UpstreamResponse) -> None:
        """Its head waits for the first byte of its body, and so does the deadline."""

    def response_body(self, response: UpstreamResponse, data: bytes) -> None:
        """Pass on the bytes, or hold them."""
        self._received = True
        if self.over:
            return
        if self._response.started:
            if response.framing.done:
                data = self._last_piece(response, data)
            else:
                self._judge().keep(data)
            try:
                self._response.pass_on(data)
            except CodingError as error:
                self._tear(error)
        elif not (self._is_questionable(response) and self._holds(response, data, whole=self._is_done(response))):
            self._begin(response, data)

    def response_ended(self, response: UpstreamResponse) -> None:
        """The response is complete: it is passed on, or it was held."""
        if self.over:
            return
        if not self._response.started:  # it has no body, or one that is held
            if self._held is None and self._is_questionable(response):
                self._holds(response, b"", whole=True)
            if self.over:
                return
            held = self._held
            if held is not None:
                self.sender = None
                self._held_is_whole(held)
                return
            self._response.begin(response, self.pool, b"", self._lines_for_parent(response))
        if self._response.is_torn:
            self._tear(CodingError("ended its response inside its compressed content"))
            return
        if not self.outcome:
            self._judge_end(response, b"")
        self.sender = None
        self._note_outcome()
        self._response.end(self._trailer())
        self._listener.attempt_done(self, response, self._lane.clock())

    def response_whole(self, response: UpstreamResponse, body: bytes) -> None:
        """The common case: nothing has to be held, and the body came with the head."""
        head = response.head
        if (
            self._response.waiting
            or not head.is_ordinary
            or not looks_good(head, body)
            or self._request.wants_stream
            or self._request.api != "openai"
        ):
            self._is_whole = True
            self.response_body(response, body)
            self.response_ended(response)
            return
        self.sender = None
        now = self._lane.clock()
        self._first_byte(response, now)
        self.outcome = "ok"
        self._note_outcome()
        self._response.begin(response, self.pool, body, self._lines_for_parent(response))
        self._listener.attempt_done(self, response, now)

    def response_broken(self, reason: str, *, stale: bool = False) -> None:
        """The connection broke: before the first byte another child may be tried."""
        if self.over:
            return
        self.sender = None
        started = self._response.started
        # A node resets a connection where it has no other way to tell that a response was cut below it.
        if not (stale or (started and self.child.kind == NODE)):
            self._failed("cut" if started else "broke", reason)
        held = self._held
        if started:
            self._listener.attempt_cut(ChildFailed(f"{self.child.name} {reason}"))
        elif held is not None and self._fate_of(held) == "as_error" and held.response.head.status >= 400:
            self._refused(held, reason)  # what the engine said so far is worth more than that it broke off
        else:
            self._fail(Cause.STALE if stale else Cause.BROKEN, reason)

    def _begin(self, response: UpstreamResponse, data: bytes) -> None:
        """The first bytes of the body go to the client, and the head before them."""
        now = self._lane.clock()
        self._first_byte(response, now)
        self._set_deadline(now + self.destination.timeouts.idle_s)
        if self._is_done(response):
            data = self._last_piece(response, data)
        else:
            self._judge().keep_first(data)
        try:
            self._response.begin(response, self.pool, data, self._lines_for_parent(response))
        except CodingError as error:
            self._tear(error)
            return
        if self.sender is not None and self._response.is_verbatim:
            self.sender.forward_to(self._client.write)
            self._forwards = True

    def _is_done(self, response: UpstreamResponse) -> bool:
        """Is what came now the last piece of the body?"""
        return self._is_whole or response.framing.done

    def _first_byte(self, response: UpstreamResponse, now: float) -> None:
        """The body begins: no other attempt can follow."""
        self._request.forget_body()
        self.destination.metrics.ttft.observe(now - self.sent_at)
        share = self.lease.share
        if (share.failures is not None or self.child.failures is not None) and not response.head.is_failure:
            self._lane.registry.first_byte(share)

    # -- how it ended --------------------------------------------------------------------------------------------

    def _last_piece(self, response: UpstreamResponse, data: bytes) -> bytes:
        """The last bytes of the body as they are passed on: a parent is told how it ended, if not well."""
        self._judge_end(response, data)
        trailer = self._trailer()
        if trailer and response.head.kind == "chunked" and self._response.is_verbatim:
            return b"".join([data[: len(data) - 2], trailer, b"\r\n"])
        return data

    def _judge(self) -> Verdict:
        verdict = self._verdict
        if verdict is None:
            verdict = self._verdict = Verdict(self._request.head.dialect, self.child)
        return verdict

    def _judge_end(self, response: UpstreamResponse, last: bytes) -> None:
        """All of the body has come, with `last` as its end: note the outcome."""
        verdict = self._judge()
        if self._forwards and self.sender is not None:
            verdict.keep_forwarded(self.sender)
        verdict.end(response, last)
        self.outcome, self.reason = verdict.outcome, verdict.reason

    def _trailer(self) -> bytes:
        """For a parent that reads it, if the response did not end well."""
        return b"" if self.outcome == "ok" or not self._request.reports_outcome else self._judge().trailer()

    def _note_outcome(self) -> None:
        """The response is complete: was it a good one? A node judges only its own engines."""
        share = self.lease.share
        if self.outcome == "ok":
            share.responses.good += 1
            if share.failures is not None:
                self._lane.registry.completed(share)
        elif self._judge().blames_child:
            self._failed("error", self.reason)

    def _failed(self, failure: Failing, reason: str) -> None:
        """The child is to blame, but not for what an engine below it did."""
        if self.child.kind != NODE or failure in ("unreachable", "broke"):
            self._lane.registry.failed(self.lease.share, failure, reason, elsewhere=self._request.others)

    def _lines_for_parent(self, response: UpstreamResponse) -> bytes:
        request, head = self._request, response.head
        if request.parent is None or not (request.retried or not head.is_ordinary):
            return b""
        return request.lines_for_parent(gives_back=self._is_retriable(head.status, head.unspent))

    # -- responses that the client shall not see, if another child can do better ---------------------------------

    def _is_questionable(self, response: UpstreamResponse) -> bool:
        """Does it have to be looked at before it may begin?"""
        head = response.head
        return self._response.waiting or not head.is_ordinary or head.form != 0 or self._request.api == "fastchat"

    def _holds(self, response: UpstreamResponse, data: bytes, *, whole: bool) -> bool:
        """Hold the next bytes of a response that is not for the client, or not in this form. False: it is for it.

        whole: they are all of it, if nothing is held yet.
        """
        held = self._held
        if held is None:
            held = self._look_at(response, data, whole=whole)
            if held is None:
                return self.over  # it was broken off
            self._held = held
        else:
            held.add(data)
        self._count_held(held.size)
        if not whole and (held.is_full or self._lane.held.is_full):
            return self._give_up_holding(held)
        return True

    def _count_held(self, size: int) -> None:
        """Count the bytes of the response that is held. size: all of them now."""
        self._lane.held.change(size - self._counted)
        self._counted = size

    def _look_at(self, response: UpstreamResponse, data: bytes, *, whole: bool) -> Held | None:
        """Judge a response by its first bytes. Returns what has to be held of it; None if it may begin, or is over."""
        head, request = response.head, self._request
        self._count_retries_below(head.retried)
        verdict = self._judge()
        verdict.look_at_first(response, data, whole=whole)
        problem = verdict.problem
        if verdict.is_bad and problem is not None and not problem.reported:
            self._break_off(problem.reason)
            return None
        fate = self._response.fate(
            response, data, is_error=problem is not None and problem.reported and not problem.is_late,
            wants_stream=request.wants_stream, at_entry=request.parent is None,
        )  # fmt: skip
        if fate == "broken":
            self._listener.fail(unfit(self._path_of(response), head))
            return None
        if fate == "as_it_comes" and not self._is_retriable(head.status, head.unspent):
            return None
        return Held(response, fate, data)

    def _path_of(self, response: UpstreamResponse) -> str:
        return path_of(self.pool, response).decode("ascii", "replace")

    def _fate_of(self, held: Held) -> Fate:
        """What becomes of it now: a promise may have been made since it began to come."""
        return "as_error" if self._response.waiting and held.response.head.status >= 300 else held.fate

    def _give_up_holding(self, held: Held) -> bool:
        """The response is too long to be held. Returns whether the client does not get it as it is."""
        head = held.response.head
        if self._fate_of(held) == "as_error":  # what it says is at its beginning
            self.hang_up()
            self._refused(held)
            return True
        if self._response.waiting and held.fate == "as_events":
            error = too_long(self._path_of(held.response), head) if held.is_full else self._lane.held.refusal()
            self._listener.fail(error)
            return True
        self._held = None
        self._count_held(0)
        self._begin(held.response, held.body)
        return True

    def _break_off(self, reason: str) -> None:
        """What the engine sends is not a response: another one may be tried."""
        self.hang_up()
        self._failed("error", reason)
        self._fail(Cause.BROKEN, reason)

    def _count_retries_below(self, retried: int) -> None:
        if retried:
            self._request.retried += retried
            if self._request.parent is None:
                self._lane.retry_budget.note(retried)

    def _is_retriable(self, status: int, unspent: int | None) -> bool:
        """May another child be tried? After an engine's 503 or error event, or a node that gave attempts back."""
        if self.child.kind == NODE:
            return unspent is not None
        return status == 503 or (self._verdict is not None and self._verdict.is_bad)

    def _held_is_whole(self, held: Held) -> None:
        """The response that was held is complete."""
        verdict = self._judge()
        if held.fate == "as_events":
            verdict.end(held.response, held.body)
            problem = verdict.problem
            if problem is not None and not problem.reported and self.child.kind != NODE:
                self._break_off(problem.reason)
                return
        self._refused(held)

    def _refused(self, held: Held, broke: str = "") -> None:
        """The response that was held goes to the client, if no other child may be tried.

        broke: why it is not complete, if the child broke it off.
        """
        response, request = held.response, self._request
        head = response.head
        self._judge_end(response, b"")
        reason = broke or self.reason or f"answered {head.status}"
        if not self._is_retriable(head.status, head.unspent):  # it only has another form than the client waits for
            if not broke:
                self._note_outcome()
            self._response.pass_on_whole(held, self.pool)
            self._listener.attempt_done(self, response, self._lane.clock())
            return
        if self.outcome != "ok" and not broke:
            self._failed("error", reason)
        if request.parent is None:
            self._lane.retry_budget.note(max(0, self.lent - returned(self.lent, head.unspent) - 1))
        cause = Cause.MOVED if self._is_given_back(head) else Cause.REFUSED
        refusal = Refusal(held, self.pool, self.outcome == "error")
        self._listener.attempt_failed(self, Failure(cause, reason, self.lent, head.unspent, refusal))

    def _tear(self, error: CodingError) -> None:
        """The response has begun, and the rest of it cannot be read."""
        self.hang_up()
        self._failed("cut", str(error))
        self._listener.attempt_cut(ChildFailed(f"{self.child.name} {error}"))

    def _is_given_back(self, head: ResponseHead) -> bool:
        """Did a node not even try, since it heard that others could take the request?"""
        unspent = -1 if head.unspent is None else head.unspent
        # FastChat's paths have no status but 200.
        return self.others and unspent >= self.lent and head.status in (HTTPStatus.OK, HTTPStatus.SERVICE_UNAVAILABLE)

    # -- endings -------------------------------------------------------------------------------------------------

    def _fail(self, cause: Cause, reason: str) -> None:
        self._listener.attempt_failed(self, Failure(cause, reason, self.lent))

    def take_received(self) -> bool:
        """Has anything come from the child since the last call?"""
        received, self._received = self._received, False
        sender = self.sender
        if sender is not None and sender.received:
            sender.received = False
            return True
        return received

    def connection_lost(self, reason: str) -> None:
        """The connection leads nowhere any more, and the child is not to blame: the request is sent again."""
        self.hang_up()
        self.response_broken(reason, stale=True)

    def hang_up(self) -> None:
        """Drop the connection, so that the child stops."""
        sender, self.sender = self.sender, None
        if sender is not None:
            sender.abort()

    def end(self, outcome: str) -> None:
        """Give the lease back, and count the outcome."""
        self.over = True
        if self._counted:
            self._count_held(0)
        self.lease.release()
        if self._request.parent is not None:
            self._request.parent.open -= 1
        self.destination.metrics.done(outcome)

    def __repr__(self) -> str:
        state = "over" if self.over else "sent" if self.sender is not None else "connecting"
        return f"<Attempt {self.child.name} {state}>"


def unreachable_reason(error: OSError) -> str:
    """Why a connection to a child could not be made, as a sentence without its subject."""
    if isinstance(error, TimeoutError):
        return "cannot be reached: no connection in time"
    return f"cannot be reached: {error.strerror or describe(error)}"
