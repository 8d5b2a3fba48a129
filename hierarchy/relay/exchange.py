"""One request and its response on their way through this node.

    body complete ──▶ model known ──▶ attempt ──▶ first byte ──▶ end
                                      ▲     │ failed before its first byte
                                      └─────┴──▶ `retry.decide`

An exchange is a `Request`, at most one `Attempt` at a time, and a `Response`. It ends exactly once, in `_settle`.
Everything happens in synchronous callbacks, except that a new connection to a child has to be dialled.
"""

from __future__ import annotations

import logging
from http import HTTPStatus

from hierarchy.balancing.lent_attempts import RETRIABLE, unspent_field
from hierarchy.errors import BodyTooLarge, ChildFailed, DeadlinePassed, ModelNotFound, RequestError, Unavailable
from hierarchy.http import promise, render
from hierarchy.http.request_head import RequestHead
from hierarchy.http.response_head import UpstreamResponse
from hierarchy.registry.child import NODE, Child, Share
from hierarchy.registry.public_name import said_of
from hierarchy.relay import retry
from hierarchy.relay.attempt import Attempt, Listener
from hierarchy.relay.choosing import can_leave, claim, has_place
from hierarchy.relay.client import FOREVER, Client
from hierarchy.relay.connecting import unreachable_reason
from hierarchy.relay.lane import Lane
from hierarchy.relay.local_handlers import Handler, LongHandler
from hierarchy.relay.request import Request
from hierarchy.relay.response import Response, path_of
from hierarchy.relay.timeouts import Timeouts
from hierarchy.relay.upstream.connection import ConnectionPool
from hierarchy.relay.warnings import warn_of_error, warn_of_response
from hierarchy.runtime.slices import in_turns
from hierarchy.security.registration_policy import UNAUTHENTICATED_BODY_BYTES
from hierarchy.wire.large import LARGE_BYTES

log = logging.getLogger("hierarchy.lane")


class Exchange(Listener):
    """A request on a lane path: collected, sent to a child (or answered by a local handler), answered.

    handler: answers the request at this node, if it is one for the node itself.
    """

    my_turn: bool = False  # no earlier request of this connection is still being answered
    attempts: int = 0  # that this node made
    held_until: float = 0.0  # see `waiting_room.Guest`
    _held_at: float = 0.0  # when it was held first
    _outcome: str = ""

    def __init__(self, client: Client, lane: Lane, head: RequestHead, now: float, handler: Handler | None) -> None:
        self.head = head
        self.request = Request(head, now, lane.held)
        self.response = Response(client, head)
        self._client = client
        self._lane = lane
        self._handler = handler
        self._attempt: Attempt | None = None

    @property
    def is_local(self) -> bool:
        """Is it answered by this node itself?"""
        return self._handler is not None

    @property
    def attempt(self) -> Attempt | None:
        """The attempt in progress."""
        return self._attempt

    # -- the request ---------------------------------------------------------------------------------------------

    def body_part(self, data: bytes) -> None:
        """More of the body.

        Raises:
            BodyTooLarge: it is over the limit.
        """
        request = self.request
        if not request.size and self._handler is None and self._reads_body():
            request.read_as_it_comes()
        request.add(data, self._lane.settings.max_body_bytes)
        if self._handler is not None:
            self._check_stranger(before=request.size - len(data))

    def _reads_body(self) -> bool:
        """Is the place of the model in the body needed? From a parent only if an engine has another name for it."""
        model = self.request.model
        return not model or any(model in child.renames for child in self._lane.registry)

    def _check_stranger(self, *, before: int) -> None:
        """Read only a little of what is for this node itself, unless a child sends it. before: the last piece."""
        limit = UNAUTHENTICATED_BODY_BYTES
        if before <= limit < self.request.size and self._lane.is_stranger(self.head.auth, self._client.peer):
            raise BodyTooLarge(f"the body is larger than {limit} bytes, and shows no secret of a child")

    def request_complete(self) -> None:
        """The last byte of the body has come."""
        self.request.end_body()
        if self.my_turn:
            self.go(self._lane.clock())

    def take_whole(self, body: bytes) -> None:
        """All of the body, which is within the limits; it is this request's turn, and it came just now."""
        self.my_turn = True
        try:
            self.request.set_body(body)
        except RequestError as error:  # the bodies of all requests hold too much
            self.fail(error)
        else:
            self.go(self.request.started_at)

    def go(self, now: float) -> None:
        """The request is complete and it is its turn."""
        if self._handler is not None:
            self._answer_locally(self._handler, now)
            return
        try:
            if not self.request.model:
                self.request.read_model(self._lane.dispatch, self._lane.fingerprints)
            self._try_child(now)
        except RequestError as error:
            if not self._hold(error):
                self.fail(error)

    # -- while no child serves the model -------------------------------------------------------------------------

    def _hold(self, error: RequestError) -> bool:
        """Wait for a child, if this is the entry node, and that is worthwhile. Returns False if it is not."""
        lane, request = self._lane, self.request
        if request.parent is not None or self.head.auth:  # the parent may have another child for it
            return False
        names = lane.dispatch.models(request.alias) if request.alias else (request.model,)
        if not lane.waiting_room.hold(self, names, request.size, error, request.require):
            return False
        total_s = Timeouts.of(lane.settings, request.model).total_s
        if total_s is not None:
            request.ends_at = request.started_at + total_s
        self._client.deadline = request.ends_at
        self._held_at = self._held_at or lane.clock()
        return True

    def try_again(self, now: float) -> None:
        """A child for it may be there now."""
        if self.request.alias:
            self.request.resolve_alias(self._lane.dispatch, self._lane.fingerprints)
        self.go(now)

    def _hold_unspent(self, attempt: Attempt, failure: retry.Failure) -> bool:
        """Hold a request that its only child did not get, or gave back untouched: the child may be restarting.

        A request that a node had when it died is held too, if an attempt is left. An engine may have died of it.
        """
        request, child = self.request, attempt.child
        was_sent, is_node = attempt.sent_at > 0.0, child.kind == NODE
        if failure.refusal is None:
            was_spent = (was_sent and not (is_node and request.left > 0)) or self._stays_unreachable(child)
        else:
            was_spent = not is_node or (failure.unspent or 0) < failure.lent
        if was_spent or not self._hold(Unavailable(said_of(child, failure.reason), patience_s=FOREVER)):
            return False
        request.forget_children()
        if request.has_retry_place:
            request.has_retry_place = False
            self._lane.retry_budget.give_back()
        return True

    def _stays_unreachable(self, child: Child) -> bool:
        """Was it never reached, or is it still not reached although it has reported meanwhile?"""
        reported = child.last_seen is not None and child.last_seen > self._held_at > 0.0
        return not child.received or reported

    def _answer_locally(self, handler: Handler, now: float) -> None:
        later = self._lane.long_handlers.get(self.head.target) if self.request.size > LARGE_BYTES else None
        if later is not None:
            self._lane.spawn(self._answer_later(later), "large report")
            return
        try:
            body = handler(self.request.body(), self.head.auth, self._client.peer)
        except RequestError as error:
            self.fail(error)
            return
        self._answer(body, now)

    async def _answer_later(self, handler: LongHandler) -> None:
        """The message is so large that other requests get their turns while it is read."""
        try:
            whole = await in_turns(self.request.joined_steps())
            body = await handler(whole, self.head.auth, self._client.peer)
        except RequestError as error:
            self.fail(error)
            return
        if not self.response.complete:  # else the client has left
            self._answer(body, self._lane.clock())

    def _answer(self, body: bytes, now: float) -> None:
        close = not self.response.keep_alive
        self._client.write(render.json_response(body, self._client.fields(), close=close))
        self._settle(now)

    # -- attempts ------------------------------------------------------------------------------------------------

    def _try_child(self, now: float, *, fresh: bool = False) -> None:
        """Send the request to the child that dispatch chooses. fresh: over a new connection.

        Raises:
            RequestError: there is no child to send it to.
        """
        lane, request = self._lane, self.request
        lease = claim(request, lane.dispatch, lane.fingerprints)
        destination = lane.destination(lease.share)
        if lease.pending or lease.matched:
            destination.metrics.matched_bytes += lease.matched
            destination.metrics.unmatched_bytes += lease.pending
        attempt = Attempt(self, lane, self._client, request, self.response, lease, destination)
        self._attempt = attempt
        self.attempts += 1
        attempt.start(now, fresh=fresh)

    def attempt_done(self, attempt: Attempt, response: UpstreamResponse, now: float) -> None:
        """The child's response is complete, and the client has all of it."""
        self._outcome = attempt.outcome
        if attempt.outcome != "ok" and self.request.parent is None:
            path = _path_for_log(attempt.pool, response)
            status, warnings = response.head.status, self._lane.warnings
            warn_of_response(warnings, self.request.model, status, path, attempt.outcome, attempt.reason)
        self._settle(now)

    def attempt_cut(self, error: RequestError) -> None:
        """The child's response broke after its first byte."""
        self._cut(error)

    def attempt_failed(self, attempt: Attempt, failure: retry.Failure) -> None:
        """The child failed before the first byte of its body."""
        lane, request, child = self._lane, self.request, attempt.child
        self._attempt = None
        self._client.deadline = request.ends_at
        attempt.end(retry.OUTCOMES[failure.cause])
        request.left = retry.left_after(failure, request.left)
        if failure.cause is retry.Cause.MOVED:
            request.leave(child)
        elif failure.cause is not retry.Cause.STALE:
            request.failed_at(child)
        if failure.cause is retry.Cause.BROKEN:
            lane.warnings.warn("%s %s; request for model %s", child.name, failure.reason, request.model)
        at_entry, is_dead = request.parent is None, child.is_dead(lane.clock())
        free = retry.is_free(failure, at_entry=at_entry, child_is_dead=is_dead)
        has_room = free or request.has_retry_place or lane.has_retry_room()
        self._follow(retry.decide(failure, request.left, free=free, budget_has_room=has_room), attempt, failure)

    def _follow(self, decision: retry.Decision, attempt: Attempt, failure: retry.Failure) -> None:
        if isinstance(decision, retry.Again):
            if decision.counted:
                self._lane.count_retry(self.request)
            self._retry(attempt, failure, fresh=decision.fresh)
        elif isinstance(decision, retry.Probe):
            self._lane.spawn(self._probe(attempt, failure), "probe")
        elif failure.error is not None:
            self.fail(failure.error)
        elif self._hold_unspent(attempt, failure):
            pass
        elif self._is_unmet(failure):
            assert self.request.require is not None
            reason = said_of(attempt.child, failure.reason)
            self.fail(self._lane.dispatch.unmet(self.request.model, self.request.require, reason))
        elif isinstance(decision, retry.PassOn):
            self._pass_on(decision.refusal, failure.reason)
        else:
            self.fail(ChildFailed(said_of(attempt.child, failure.reason)))

    def _is_unmet(self, failure: retry.Failure) -> bool:
        """Is the client told that its labels are the reason why nothing else serves the request?"""
        if self.request.require is None or self.request.parent is not None:
            return False
        return failure.refusal is None or failure.refusal.held.response.head.status in RETRIABLE

    def _retry(self, attempt: Attempt, failure: retry.Failure, *, fresh: bool = False) -> None:
        try:
            self._try_child(self._lane.clock(), fresh=fresh)
        except RequestError:  # no other child: the client gets the error of the last one
            self._follow(retry.give_up(failure), attempt, failure)
        else:
            if failure.cause is not retry.Cause.MOVED:
                self.request.retried += 1
                self._lane.metrics.retries += 1

    async def _probe(self, attempt: Attempt, failure: retry.Failure) -> None:
        """The budget is used up. But if the child is dead, another attempt is no retry: find out by dialling it."""
        try:
            attempt.pool.put(await attempt.pool.dial())
        except OSError as error:
            share, reason = attempt.lease.share, unreachable_reason(error)
            self._lane.registry.failed(share, "unreachable", reason, elsewhere=self.request.others)
            if not self.response.complete:
                self._retry(attempt, retry.Failure(retry.Cause.BROKEN, failure.reason))
            return
        self.fail(ChildFailed(said_of(attempt.child, failure.reason)))

    def _pass_on(self, refusal: retry.Refusal, reason: str) -> None:
        request = self.request
        for_parent = request.lines_for_parent(gives_back=True) if request.parent is not None else b""
        self.response.pass_on_whole(refusal.held, refusal.pool, for_parent)
        self._outcome = "error" if refusal.is_error else "ok"
        if refusal.is_error and request.parent is None:
            source = refusal.held.response
            path = _path_for_log(refusal.pool, source)
            warn_of_response(self._lane.warnings, request.model, source.head.status, path, "error", reason)
        self._settle(self._lane.clock())

    # -- leaving a child -----------------------------------------------------------------------------------------

    def waits_for(self, child: Child) -> Share | None:
        """The share of this child from which the first byte is due; None if none is due from there."""
        attempt = self._attempt
        if self.response.started or attempt is None or attempt.child is not child:
            return None
        return attempt.lease.share

    def give_up_on(self, child: Child, reason: str) -> bool:
        """A child is known to be dead. If this request waits for a first byte from it, it goes to another one.

        Where no other child, here or above, could take it, it stays: one that only looks dead may wake up. Returns
        whether it left.
        """
        attempt, request = self._attempt, self.request
        if attempt is None or self.waits_for(child) is None or not can_leave(request, child, self._lane.dispatch):
            return False
        if request.others and not has_place(request, child, self._lane.dispatch):
            self._give_back(attempt, f"is taken for dead: {reason}")
        else:
            attempt.hang_up()
            self.attempt_failed(attempt, retry.Failure(retry.Cause.DEAD, f"is taken for dead: {reason}", attempt.lent))
        return True

    def leave(self, child: Child, reason: str) -> bool:
        """A child is suspect, and others have room: leave it, if it has not sent a byte. Returns whether it left."""
        attempt = self._attempt
        if attempt is None or self.waits_for(child) is None:
            return False
        if has_place(self.request, child, self._lane.dispatch):
            attempt.hang_up()
            self.attempt_failed(attempt, retry.Failure(retry.Cause.MOVED, reason, attempt.lent))
        elif self.request.others:
            self._give_back(attempt, reason)
        else:
            return False
        return True

    def _give_back(self, attempt: Attempt, reason: str) -> None:
        """Return the request to the parent, with all that it lent."""
        attempt.hang_up()
        self.request.left += attempt.lent
        self._outcome = "moved"
        self.fail(Unavailable(said_of(attempt.child, reason)))

    # -- time and backpressure -----------------------------------------------------------------------------------

    def check_clock(self, now: float) -> None:
        """The client's deadline has passed: has nothing really come since it was set?"""
        client, request, attempt = self._client, self.request, self._attempt
        if now >= request.ends_at:
            self._time_out(attempt, "was not done in the time for the whole request")
        elif attempt is not None and attempt.waking_since > 0.0:
            self._check_waking(attempt, now)
        elif attempt is None or attempt.sender is None:  # no child has the request: dialling has its own time limit
            client.deadline = request.ends_at
        else:
            self._check_attempt(attempt, now)

    def _check_attempt(self, attempt: Attempt, now: float) -> None:
        client, timeouts = self._client, attempt.destination.timeouts
        started, ends_at = self.response.started, self.request.ends_at
        if attempt.take_received() or (client.blocked and client.has_read()):
            if not started and self.request.parent is None:  # what comes is held
                self._keep_waiting(now + timeouts.first_byte_s, now)
                return
            limit_s = timeouts.idle_s if started else timeouts.first_byte_s
            client.deadline = min(now + limit_s, ends_at)
        elif client.blocked:
            client.abort()
        elif started:
            self._time_out(attempt, f"sent nothing for {timeouts.idle_s:g} s")
        elif self.request.parent is None and now < attempt.sent_at + timeouts.first_byte_s:
            self._keep_waiting(attempt.sent_at + timeouts.first_byte_s, now)
        else:
            self._time_out(attempt, f"sent no response within {timeouts.first_byte_s:g} s")

    def _check_waking(self, attempt: Attempt, now: float) -> None:
        """The child is being woken up, or started, for this request."""
        limit_s = attempt.destination.timeouts.first_byte_s
        until = attempt.waking_since + limit_s
        if now >= until:
            self._time_out(attempt, f"was not awake within {limit_s:g} s")
        elif self.request.parent is None:
            self._keep_waiting(until, now)
        else:
            self._client.deadline = min(until, self.request.ends_at)

    def _keep_waiting(self, until: float, now: float) -> None:
        """Nothing for it yet: a client that reads a stream gets a comment, so that its connection is not idle."""
        deadline = until
        if self.response.waiting or self.request.asks_for_stream():
            self.response.comment()
            deadline = min(until, now + promise.COMMENT_EVERY_S)
        self._client.deadline = min(deadline, self.request.ends_at)

    def _time_out(self, attempt: Attempt | None, reason: str) -> None:
        """A time limit has passed; the child is to blame if it sent nothing at all."""
        error = DeadlinePassed(said_of(attempt.child, reason) if attempt is not None else f"the request {reason}")
        if self.response.started:
            self._cut(error)
            return
        if attempt is not None and attempt.child.kind != NODE and attempt.sender is not None:
            share, elsewhere = attempt.lease.share, self.request.others
            self._lane.registry.failed(share, "timeout", reason, elsewhere=elsewhere)
        self._outcome = "timeout"
        self.fail(error)

    def pause(self) -> None:
        """The client reads too slowly: stop reading from the child."""
        if self._attempt is not None and self._attempt.sender is not None:
            self._attempt.slowed = True
            self._attempt.sender.pause()

    def resume(self) -> None:
        """The client has read what was written."""
        if self._attempt is not None and self._attempt.sender is not None:
            self._attempt.sender.resume()

    # -- endings -------------------------------------------------------------------------------------------------

    def fail(self, error: RequestError) -> None:
        """Answer with an error of this node, or end a response that has started with one."""
        request, response = self.request, self.response
        if response.complete:
            return
        if response.started:
            self._cut(error)
            return
        if isinstance(error, ModelNotFound) and error.lists_models:
            error = self._lane.dispatch.not_found(request.alias or request.model, self._usable())
        self._hang_up()
        if not request.complete:
            response.keep_alive = False
        self._lane.metrics.refuse(error.code)
        if error.status >= HTTPStatus.INTERNAL_SERVER_ERROR and request.parent is None:
            warn_of_error(self._lane.warnings, request.model, error)
        # To a parent whose secret is not known, too: it does not know yet that this node was restarted.
        gives_back = self.head.auth and error.status in RETRIABLE
        response.refuse(error, unspent_field(max(0, request.left)) if gives_back else None)
        self._outcome = self._outcome or "refused"
        self._settle(self._lane.clock())

    def _usable(self) -> frozenset[str] | None:
        """The models that the client may know of; None for all. Only the entry node knows the client's key."""
        if self.request.require is not None:  # a name tells nothing of who may serve it
            return frozenset()
        return self.head.caller.models if self.request.parent is None else frozenset()

    def drop_child(self, child: Child, error: RequestError) -> None:
        """End the request if this child has it."""
        if self._attempt is not None and self._attempt.child is child:
            self.fail(error)

    def client_gone(self) -> None:
        """The client has left, so the request below ends too, at all levels."""
        if self.response.complete:
            return
        self._hang_up()
        self._outcome = "cancelled"
        self._settle(self._lane.clock(), gone=True)

    def _cut(self, error: RequestError) -> None:
        """End a response that has started and will not be completed."""
        self._lane.warnings.warn("response for model %s cut: %s", self.request.model, error)
        self._hang_up()
        self._outcome = "cut"
        self.response.cut(error, render.outcome_trailer("cut") if self.request.reports_outcome else b"")
        self._settle(self._lane.clock())

    def _hang_up(self) -> None:
        if self._attempt is not None:
            self._attempt.hang_up()

    def _settle(self, now: float, *, gone: bool = False) -> None:
        """The one place where an exchange ends."""
        lane, request, response = self._lane, self.request, self.response
        response.complete = True
        if self.held_until:
            lane.waiting_room.leave(self)
        attempt, self._attempt = self._attempt, None
        if request.has_retry_place:
            request.has_retry_place = False
            lane.retry_budget.give_back()
        if attempt is not None:
            attempt.end(self._outcome)
            attempt.destination.metrics.total.observe(now - request.started_at)
        request.forget_body()
        if request.parent is None and self._handler is None:
            lane.metrics.answered(self._outcome, response.status)
        if lane.access_log is not None:
            lane.access_log(self, self._outcome)
        if not gone:
            self._client.response_done(now, request_complete=request.complete, keep_alive=response.keep_alive)

    def __repr__(self) -> str:
        started, waits = self.response.started, self._attempt is not None
        state = self._outcome or ("streaming" if started else "waiting" if waits else "receiving")
        return f"<Exchange {self.head.target!r} model={self.request.model!r} {state} attempts={self.attempts}>"


def _path_for_log(pool: ConnectionPool, source: UpstreamResponse) -> str:
    """As x-hierarchy-path has it, but with the child's own name."""
    child, path = pool.child, path_of(pool, source).decode("ascii", "replace")
    return path if child.group else child.name + path.removeprefix(child.label)
