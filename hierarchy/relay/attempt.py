"""One try to get a response from one child: a lease, a connection, the request in a form the child understands.

The commonest case, an idle connection to a child that takes the request as it came, is synchronous. A new connection
has to be dialled, and an engine of the other API family may have to be asked for its chat template first.

The child's bytes go straight to the client's `Response`. The exchange hears of the end, or of the failure.
"""

from __future__ import annotations

import re
from typing import Any, Final

from hierarchy.balancing.lent_attempts import returned
from hierarchy.errors import BadRequest, ChildFailed, RequestError, Unavailable
from hierarchy.http.content_coding import CodingError
from hierarchy.http.response_check import looks_good
from hierarchy.http.response_head import UpstreamResponse
from hierarchy.registry.child import NODE, Lease
from hierarchy.registry.ejection import Failure as Failing
from hierarchy.registry.public_name import said_of
from hierarchy.registry.rates import Rates
from hierarchy.relay.client import Client
from hierarchy.relay.connecting import Connected, connect
from hierarchy.relay.held import Held
from hierarchy.relay.holding import Begin, BreakOff, Holding, PassOn, Step, Unfit, is_given_back, is_retriable
from hierarchy.relay.lane import Lane
from hierarchy.relay.lending import attempts_for, others_could, time_left
from hierarchy.relay.request import Request
from hierarchy.relay.response import Response
from hierarchy.relay.retry import Cause, Failure, Refusal
from hierarchy.relay.upstream.connection import RequestSender, ResponseHandler
from hierarchy.relay.upstream.destination import Destination
from hierarchy.relay.verdict import Verdict

_response_id: Final[Any] = re.compile(rb'"id"\s*:\s*"(resp[^"\\]{1,200})"').search


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
    waking_since: float = 0.0  # when it began to wait until the child is awake; 0: it does not
    sent_at: float = 0.0  # when the request was sent to the child
    lent: int = 0  # attempts that were lent to the child with it
    others: bool = False  # the child, a node, was told that others could take the request
    outcome: str = ""  # of a complete response: `ok`, `error`, or `cut` if the child says so
    reason: str = ""  # of an outcome that is not `ok`, as a sentence without its subject, the child
    _forwards: bool = False  # the connection passes the body on without this object
    _is_whole: bool = False  # the whole body came in one read
    slowed: bool = False  # its client read too slowly for a while
    _began_at: float = 0.0  # when its stream began, where speeds are measured
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
        self._holding: Holding | None = None  # of a response that the client shall not see yet, or not in this form
        self._verdict: Verdict | None = None  # on a response that did not come whole, or not as most do
        parent = request.parent
        if parent is not None:
            parent.open += 1

    @property
    def holds(self) -> bool:
        """Has something come that the client does not get yet?"""
        return self._holding is not None and self._holding.held is not None

    # -- sending -------------------------------------------------------------------------------------------------

    def start(self, now: float, *, fresh: bool) -> None:
        """Send the request, at once if there is an idle connection. fresh: over a new connection."""
        if self.lease.share.load_s and self.child.asleep:
            self._lane.spawn(self._wake(now, fresh=fresh), "wake")
            return
        if self.destination.share.key[1] != self._request.head.native and not self.pool.numbered:
            self._lane.spawn(self._connect(translated=True, fresh=fresh), "translation")
            return
        if self.child.renames and not self._rename():
            return
        upstream = None if fresh else self.pool.take(now)
        if upstream is not None:
            self._send(upstream, now)
        else:
            self._lane.spawn(self._connect(translated=False, fresh=True), "connection")

    async def _wake(self, now: float, *, fresh: bool) -> None:
        """The child sleeps: wait until it is awake, and send the request then."""
        request, total_s = self._request, self.destination.timeouts.total_s
        if total_s is not None and request.parent is None:
            request.ends_at = request.started_at + total_s
        self.waking_since = now
        self._set_deadline(now + self.destination.timeouts.look_s)
        reason = await self._lane.wake(self.child)
        self.waking_since = 0.0
        if self.over:  # the client left meanwhile, or it took too long
            return
        if reason:
            error = Unavailable(f"model {request.model!r} is not loaded, and {said_of(self.child, reason)}")
            self._listener.attempt_failed(self, Failure(Cause.DEAD, reason, error=error))
        else:
            self.start(self._lane.clock(), fresh=fresh)

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
            key, require, below = self.destination.share.key, request.require, None
            if require is None:
                shares = lane.registry.available(key)
            else:
                shares, below = lane.registry.allowed(key, require), self.child.labels.below(require)
            lent, self.others = attempts_for(request, shares, lane), others_could(request, self.child, shares)
            opening = pool.opening(request.head, request.model, hops + 1, lent, self.others, below)
            number = str(self.lease.ordinal).encode()
            if self.child.reads_prefix:
                number += request.prefix_line(lane.fingerprints)
            number += time_left(request, now)
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

    def _set_deadline(self, deadline: float) -> None:
        ends_at = self._request.ends_at
        self._client.deadline = deadline if deadline < ends_at else ends_at

    # -- connecting ----------------------------------------------------------------------------------------------

    async def _connect(self, *, translated: bool, fresh: bool) -> None:
        """Send it over a new connection, or in the form of the engine's own API family."""
        request, lane = self._request, self._lane
        found = await connect(self.destination, request, lane, self._is_over, translated=translated, fresh=fresh)
        if self.over:  # the client left meanwhile
            if isinstance(found, Connected):
                self.pool.put(found.upstream)
        elif isinstance(found, Connected) and self._has_lost_labels():
            self.pool.put(found.upstream)
            self._fail(Cause.BROKEN, "does not have the required labels any more")
        elif isinstance(found, Connected):
            self._send(found.sender(self._client.fields()), lane.clock())
        elif found.error is not None:
            self._listener.fail(found.error)
        else:
            self._failed(found.failure, found.reason)
            self._fail(Cause.BROKEN, found.reason)

    def _has_lost_labels(self) -> bool:
        """Is the child known by other labels than when it was chosen? It may have registered again meanwhile."""
        require, share = self._request.require, self.lease.share
        return require is not None and not self.child.labels.can(share.key[0], require)

    def _is_over(self) -> bool:
        return self.over

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
        elif self._is_questionable(response):
            self._follow(self._hold(response, data, whole=self._is_done(response)), response)
        else:
            self._begin(response, data)

    def response_ended(self, response: UpstreamResponse) -> None:
        """The response is complete: it is passed on, or it was held."""
        if self.over:
            return
        if not self._response.started:  # it has no body, or one that is held
            if not self.holds and self._is_questionable(response):
                step = self._hold(response, b"", whole=True)
                if not isinstance(step, Begin):
                    self._follow(step, response)
            if self.over:
                return
            holding = self._holding
            if holding is not None and holding.held is not None:
                self.sender = None
                self._follow(holding.ended(holding.held), response)
                return
            self._response.begin(response, self.pool, b"", self._lines_for_parent(response))
        if self._response.is_torn:
            self._tear(CodingError("ended its response inside its compressed content"))
            return
        if not self.outcome:
            self._judge_end(response, b"")
        now, rates = self._lane.clock(), self.lease.share.rates
        if rates is not None and self._forwards and self._began_at and self.sender is not None and not self.slowed:
            rates.note_end(self.sender.reads, now - self._began_at)
        self.sender = None
        self._note_outcome()
        self._response.end(self._trailer())
        self._listener.attempt_done(self, response, now)

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
        if self._request.head.dialect.error_shape == "responses":
            self._note_id(body)
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
        holding = self._holding
        held = holding.held if holding is not None else None
        if started:
            self._listener.attempt_cut(ChildFailed(said_of(self.child, reason)))
        elif holding is not None and held is not None and holding.is_worth_more(held):
            self._refused(held, reason)
        else:
            self._fail(Cause.STALE if stale else Cause.BROKEN, reason)

    def _begin(self, response: UpstreamResponse, data: bytes) -> None:
        """The first bytes of the body go to the client, and the head before them."""
        now = self._lane.clock()
        self._first_byte(response, now)
        if self._request.head.dialect.error_shape == "responses":
            self._note_id(data)
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
        share = self.lease.share
        if share.rates is not None and response.head.is_event_stream and not self._is_whole:
            self._measure_reading(share.rates, now)
        self.lease.first_byte()
        self.destination.metrics.ttft.observe(now - self.sent_at)
        if (share.failures is not None or self.child.failures is not None) and not response.head.is_failure:
            self._lane.registry.first_byte(share)
        if share.load_s and not response.head.is_failure:
            self._lane.registry.loaded(share)

    def _measure_reading(self, rates: Rates, now: float) -> None:
        """How long the child took to read the prompt, unless it had to wait for a slot or the model first."""
        share = self.lease.share
        self._began_at = now
        if share.load_s or (share.slots and share.open > share.slots):
            rates.skip(now)
        else:
            rates.note_first(self.lease.pending, self.sent_at, now)

    def _note_id(self, data: bytes) -> None:
        """The response has an id, by which a later request may continue it: this child alone can do that."""
        prefixes = self._lane.dispatch.prefixes
        if prefixes is not None:
            found = _response_id(data, 0, 1024)
            if found is not None:
                prefixes.answered(self.child, self._lane.fingerprints.of_response(found[1]))

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
        return request.lines_for_parent(gives_back=is_retriable(self.pool, head, self._verdict))

    # -- responses that the client shall not see, if another child can do better ---------------------------------

    def _is_questionable(self, response: UpstreamResponse) -> bool:
        """Does it have to be looked at before it may begin?"""
        head = response.head
        return self._response.waiting or not head.is_ordinary or head.form != 0 or self._request.api == "fastchat"

    def _hold(self, response: UpstreamResponse, data: bytes, *, whole: bool) -> Step:
        """Look at the next bytes of a response that is not for the client, or not in this form."""
        holding = self._holding
        if holding is None:
            self._count_retries_below(response.head.retried)
            holding = self._holding = Holding(self._request, self._response, self.pool, self._judge(), self._lane.held)
        return holding.take(response, data, whole=whole)

    def _follow(self, step: Step, response: UpstreamResponse) -> None:
        if isinstance(step, Begin):
            self._begin(response, step.data)
        elif isinstance(step, BreakOff):
            self._break_off(step.reason)
        elif isinstance(step, Unfit):
            self._listener.fail(step.error)
        elif isinstance(step, PassOn):
            if step.hang_up:
                self.hang_up()
            self._refused(step.held)

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

    def _refused(self, held: Held, broke: str = "") -> None:
        """The response that was held goes to the client, if no other child may be tried.

        broke: why it is not complete, if the child broke it off.
        """
        response, request = held.response, self._request
        head = response.head
        self._judge_end(response, b"")
        reason = broke or self.reason or f"answered {head.status}"
        if not is_retriable(self.pool, head, self._verdict):  # it only has another form than the client waits for
            if not broke:
                self._note_outcome()
            self._response.pass_on_whole(held, self.pool)
            self._listener.attempt_done(self, response, self._lane.clock())
            return
        if self.outcome != "ok" and not broke:
            self._failed("error", reason)
        if request.parent is None:
            self._lane.retry_budget.note(max(0, self.lent - returned(self.lent, head.unspent) - 1))
        cause = Cause.MOVED if is_given_back(head, self.lent, others=self.others) else Cause.REFUSED
        refusal = Refusal(held, self.pool, self.outcome == "error")
        self._listener.attempt_failed(self, Failure(cause, reason, self.lent, head.unspent, refusal))

    def _tear(self, error: CodingError) -> None:
        """The response has begun, and the rest of it cannot be read."""
        self.hang_up()
        self._failed("cut", str(error))
        self._listener.attempt_cut(ChildFailed(said_of(self.child, str(error))))

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
        if self._holding is not None:
            self._holding.release()
        self.lease.release()
        if self._request.parent is not None:
            self._request.parent.open -= 1
        self.destination.metrics.done(outcome)

    def __repr__(self) -> str:
        state = "over" if self.over else "sent" if self.sender is not None else "connecting"
        return f"<Attempt {self.child.name} {state}>"
