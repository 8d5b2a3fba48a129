"""What becomes of a request whose child failed before the first body byte, and of its client meanwhile.

Only what goes wrong comes here; a request that succeeds at the first try does not. Who may be asked again, and how
often, is counted by `attempts` and, at the entry node, by `budget`.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final, Protocol

from hierarchy.balancing.lent_attempts import MAX_ATTEMPTS, lend, returned
from hierarchy.errors import ChildFailed, RequestError
from hierarchy.http import render
from hierarchy.http.framing import Dechunker
from hierarchy.http.request_head import RETRIED, UNSPENT, RequestHead
from hierarchy.http.response_head import UpstreamResponse
from hierarchy.registry.child import NODE, Child, Lease
from hierarchy.relay.timeouts import Limits
from hierarchy.relay.upstream.connection import Upstream
from hierarchy.relay.upstream.pool import Pool
from hierarchy.relay.upstream.translating import Interpreter
from hierarchy.wire.status import Api

if TYPE_CHECKING:
    from hierarchy.relay.downstream.connection import FastPath
    from hierarchy.relay.lane import Lane

MAX_HELD: Final = 64 * 1024  # of a refusal that is kept back; a longer one goes to the client as it is
log = logging.getLogger("hierarchy.lane")


class Parent(Protocol):
    """Whom a request came from. open: how many of its requests have a lease here."""

    open: int


class Retrying:
    """The half of an `Exchange` that most exchanges never need."""

    left = MAX_ATTEMPTS  # attempts that may still be spent or lent
    response_complete = False
    api: Api
    head: RequestHead
    _parent: Parent | None = None  # whom it came from, if that is one that we registered with
    _lent = 0  # to the child at work
    _retried = 0  # attempts after a failed one, here and below
    _counted = False  # it has a place in the retry budget
    _held: list[bytes] | None = None  # a refusal that is kept back, while another child may do better
    _waiting = False  # the client was told to wait: a head is out, and errors can only be events
    _started = False
    _model = ""
    _sent_at = 0.0
    _lease: Lease | None = None
    _upstream: Upstream | Interpreter | None = None
    _answer: UpstreamResponse | None = None
    _pool: Pool | None = None
    _tried: tuple[Child, ...] = ()
    _limits: Limits | None = None
    _protocol: FastPath
    _lane: Lane

    # -- of Exchange -----------------------------------------------------------------------------------------

    def _attempt(self, now: float, *, fresh: bool = False) -> None:
        raise NotImplementedError

    def fail(self, error: RequestError) -> None:
        raise NotImplementedError

    def _begin_answer(self, data: bytes) -> None:
        raise NotImplementedError

    def _finish_answer(self) -> None:
        raise NotImplementedError

    def _drop_upstream(self) -> None:
        raise NotImplementedError

    def _settle(self, now: float, *, gone: bool = False) -> None:
        raise NotImplementedError

    def _body(self) -> bytes:
        raise NotImplementedError

    def _release(self, lease: Lease) -> None:
        lease.release()
        if self._parent is not None:
            self._parent.open -= 1

    # -- attempts --------------------------------------------------------------------------------------------

    def _lend(self) -> int:
        """How many attempts go down with the request to a node."""
        left = self.left
        if left <= 1:
            return 1
        lane = self._lane
        if self._parent is not None:
            assert self._lease is not None
            assert self._lease.share is not None
            others = len(lane.registry.available(self._lease.share.key)) - len(self._tried)
            return lend(left, entry=False, rivals=others > 1)
        lent = lend(left, entry=True, rivals=True)
        if lent > 1 and lane.budget.troubled and not self._counted:
            if not lane.may_retry():
                return 1
            self._counted = True
        return lent

    def _try_another(
        self, why: str, *, stale: bool = False, dead: bool = False, unspent: int | None = None, refused: bool = False
    ) -> None:
        """The child failed before the first body byte.

        stale: only a connection did, so it is asked again. dead: the child is known to be, so that nothing was spent.
        unspent: what came back of what was lent. refused: it answered that it cannot, and that answer is `_held`.
        """
        lease, self._lease = self._lease, None
        assert lease is not None
        assert lease.share is not None
        share, lane = lease.share, self._lane
        child = share.child
        self._release(lease)
        lane.tally(share).done("stale" if stale else "error" if refused else "failed")
        lent, self._lent = self._lent, 0
        self.left += lent - 1 if stale else lent if dead else returned(lent, unspent)
        held = None
        if refused and self._held is not None and self._answer is not None:
            held = self._answer, b"".join(self._held)
        self._answer = self._upstream = self._held = None
        if stale:
            self.left = max(self.left, 1)  # it is asked once more whatever was lent: most likely it never saw it
        else:
            self._tried += (child,)
            log.log(
                logging.DEBUG if refused else logging.WARNING,
                "%s %s; request for model %s",
                child.name,
                why,
                self._model,
            )
        error = ChildFailed(f"{child.name} {why}")
        if self.left < 1:
            self._give_in(error, held)
        elif stale or dead or self._may_retry(child):
            self._again(error, held, fresh=stale)
        elif refused:
            self._give_in(error, held)
        else:
            assert self._pool is not None
            lane.spawn(self._again_if_dead(self._pool, error))

    def _may_retry(self, child: Child) -> bool:
        """Does the budget allow it? Below the entry node the attempts that were lent are the budget."""
        lane = self._lane
        if self._parent is not None or child.is_dead(lane.clock()):
            return True
        if not self._counted:
            self._counted = lane.may_retry()
        if self._counted:
            lane.budget.note(1)
        return self._counted

    async def _again_if_dead(self, pool: Pool, error: RequestError) -> None:
        """The budget is used up. But if the child is gone, this is no retry: look whether it can still be dialled."""
        try:
            pool.put(await pool.dial())
        except OSError:
            self._lane.registry.failed(pool.child, "unreachable", str(error))
            if not self.response_complete:
                self._again(error, None)
            return
        if not self.response_complete:
            self.fail(error)

    def _again(self, error: RequestError, held: tuple[UpstreamResponse, bytes] | None, *, fresh: bool = False) -> None:
        try:
            self._attempt(self._lane.clock(), fresh=fresh)
        except RequestError:  # nobody else: then what went wrong with the last one is the answer
            self._give_in(error, held)
        else:
            self._retried += 1
            self._lane.metrics.retries += 1

    def _give_in(self, error: RequestError, held: tuple[UpstreamResponse, bytes] | None) -> None:
        """Nobody else is asked: the client gets the child's own refusal, if there is one."""
        if held is None:
            self.fail(error)
            return
        self._answer, body = held
        if self._waiting:
            if self._answer.head.kind == "chunked":
                body = Dechunker().feed(body)
            self._protocol.transport.write(render.waiting_refusal(body, self.head.dialect, http10=self.head.http10))
            self._settle(self._lane.clock())
            return
        self._begin_answer(body)
        self._finish_answer()

    def give_up_on(self, child: Child, why: str) -> None:
        """A child is known to be dead. If this request waits for a first byte from it, it goes elsewhere."""
        lease = self._lease
        if self._started or lease is None or lease.share is None or lease.share.child is not child:
            return
        if (
            self._parent is None or child.kind == NODE
        ):  # below, an engine's requests go back up; a silent node may be starved
            try:
                self._lane.dispatch.choose(
                    (self._model, self.api), (*self._tried, child), translated=self.head.translated
                )
            except RequestError:
                return  # nobody else could take it, and a child that only looks dead may wake up
        self._drop_upstream()
        self._try_another(f"is taken for dead: {why}", dead=True)

    # -- refusals --------------------------------------------------------------------------------------------

    def _keeps_back(self, data: bytes) -> bool:
        """The first bytes of an answer that is not plain sailing: is it one that the client shall not see, if another
        child can do better, or not see in this form?
        """
        answer = self._answer
        assert answer is not None
        assert self._pool is not None
        head, held = answer.head, self._held
        if held is None:
            if head.retried:
                self._retried += head.retried
                if self._parent is None:
                    self._lane.budget.note(head.retried)
            if not (self._retriable(head.status, head.unspent) or (self._waiting and not self._fits(answer))):
                return False
            self._held = [data]
        elif sum(map(len, held)) < MAX_HELD:
            held.append(data)
        elif self._waiting:
            self.fail(ChildFailed(f"{self._pool.child.name} answered {head.status} at length"))
        else:  # then it is no refusal
            self._held = None
            self._begin_answer(b"".join([*held, data]))
        return True

    def _retriable(self, status: int, unspent: int | None) -> bool:
        assert self._pool is not None
        return unspent is not None if self._pool.child.kind == NODE else status == 503

    def _fits(self, answer: UpstreamResponse) -> bool:
        """Can it go behind a head that has been sent already?"""
        head = answer.head
        return head.status == 200 and head.is_plain and (self.head.dialect.form == "frames" or head.is_event_stream)

    def _held_ended(self) -> None:
        """The answer that was kept back is complete."""
        answer = self._answer
        assert answer is not None
        assert self._pool is not None
        head, child, lane = answer.head, self._pool.child, self._lane
        why = f"answered {head.status}"
        if child.kind != NODE and head.is_failure:
            lane.registry.failed(child, "error", why)
        if not self._retriable(head.status, head.unspent):
            assert self._held is not None
            self._give_in(ChildFailed(why), (answer, b"".join(self._held)))
            return
        if self._parent is None:
            lane.budget.note(max(0, self._lent - returned(self._lent, head.unspent) - 1))
        self._try_another(why, unspent=head.unspent, refused=True)

    def _told_to_parent(self) -> bytes:
        """Lines beside an answer that say what became of the attempts that were lent."""
        answer = self._answer
        assert answer is not None
        lines = b""
        if self._retried:
            lines = b"%b: %d\r\n" % (RETRIED, self._retried)
        if self._retriable(answer.head.status, answer.head.unspent):
            lines += b"%b: %d\r\n" % (UNSPENT, self.left)
        return lines

    # -- waiting ---------------------------------------------------------------------------------------------

    def _keep_waiting(self, now: float) -> None:
        """No first byte yet, and it is time to look: a client that reads a stream is told that we are still here."""
        assert self._limits is not None
        dialect = self.head.dialect
        ends_at = self._sent_at + self._limits.first_byte_s
        if self._parent is not None or not (self._waiting or render.wants_stream(self._body(), dialect)):
            self._protocol.deadline = ends_at
            return
        http10 = self.head.http10
        words = render.waiting_comment(dialect, http10=http10)
        if not self._waiting:
            self._waiting = True
            fields = self._protocol.server_state.default_headers
            words = render.waiting_head(dialect, fields, http10=http10, close=not self.head.keep_alive) + words
        self._protocol.transport.write(words)
        self._protocol.deadline = min(ends_at, now + render.COMMENT_EVERY_S)
