"""Registration with a parent, and the reports to it.

    connecting ──accepted──▶ registered ──not known there, or a report failed──▶ connecting ──…──▶ deregistered

The node pushes everything: first a registration with its whole subtree, then reports with what changed. If a report
fails, the parent may have received it or not, so the next message is a whole registration again.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import math
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any, Protocol, cast

import httpx
import msgspec
import tenacity

from hierarchy.gossip import Board
from hierarchy.introspection.tree import children_text_steps
from hierarchy.runtime.slices import Slices
from hierarchy.runtime.steps import Steps
from hierarchy.security.credential_store import CredentialStore
from hierarchy.uplink.parent_client import ParentClient, ParentError, parse_accepted
from hierarchy.uplink.thinning import JITTER, TICK_S, differ, is_urgent, next_due, other_load
from hierarchy.wire import subtree
from hierarchy.wire.checks import MAX_WARNINGS
from hierarchy.wire.messages import (
    Accepted,
    Deregistration,
    HeartBeat,
    Identity,
    Registration,
    RequestedLink,
    WorkerStatus,
    is_prefix_key,
)
from hierarchy.wire.offer import Offer
from hierarchy.wire.record import Record
from hierarchy.wire.status import EMPTY, NodeStatus

MAX_WAIT_S = 3.0  # between two attempts to register
RENEW_S = 86400.0  # a registration renews the credential, which must not have to wait for the parent's restart
DEREGISTER_TIMEOUT_S = 2.0
CUT_S = 600.0  # after which the whole subtree is tried again, if it was too large for the parent
CUT = "what is below it is not shown here: it is too much for one message; raise `max_body_bytes` of the node above"
MAX_LOGGED_ERRORS = 16  # remembered, so that each is logged once
#: FastChat's original controller drops workers after 90 s and has no deregistration; its workers beat every 45 s.
FASTCHAT_INTERVAL_S = 15.0
log = logging.getLogger("hierarchy.uplink")


class Source(Protocol):
    """What an uplink reports."""

    def status_steps(self) -> Steps[NodeStatus]:
        """`status` in steps: perhaps thousands of models have come, and then `status` takes no time."""

    def status(self) -> NodeStatus:
        """The sum over the available children."""

    def path(self) -> list[str]:
        """Instances of this node and of all nodes below."""

    def children_steps(self) -> Steps[dict[str, Any]]:
        """The subtree for `/tree`."""

    def draining(self) -> bool:
        """Does this node refuse new requests?"""

    def incomplete(self) -> bool:
        """May there be models below this node that it does not know yet?"""

    def warnings(self) -> list[str]:
        """What is wrong with this node, for operators."""

    def labels(self) -> list[Offer]:
        """Which labels can be required of what is below this node."""


class Listener(Protocol):
    """Gets the changes of a registration: the reserve of reverse links."""

    def accepted(self, accepted: Accepted) -> None:
        """The parent accepted the registration on these terms."""

    def lost(self) -> None:
        """The registration is void until `accepted` is called again."""


@dataclass(frozen=True)
class _Reported:
    """What the parent knows from the last message that it acknowledged."""

    status: NodeStatus = EMPTY
    other_load: int = 0  #: part of the load that the parent did not send
    children: dict[str, Any] = field(default_factory=dict)  #: the subtree
    labels: list[Offer] = field(default_factory=list)  #: which can be required


class Uplink:
    """The relation of this node to one parent.

    Args:
        parent: its URL.
        interval_s: proposed seconds between two reports.
        clock, rng, sleep: injected; monotonic seconds.
        slices: in which what is below this node is collected and compared.
        link: who dials the connections for requests.
        credentials: what to show at a registration; None for nothing.
        board: the records that go to and come from the parent; None for none.
    """

    def __init__(
        self,
        parent: str,
        identity: Identity,
        source: Source,
        http: httpx.AsyncClient,
        interval_s: float,
        *,
        clock: Callable[[], float],
        rng: Random,
        slices: Slices,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        link: RequestedLink = "direct",
        credentials: CredentialStore | None = None,
        board: Board | None = None,
    ) -> None:
        self.parent = parent
        self.secret = secrets.token_hex(16).encode()  # the parent shows it with each request, to be believed
        self._listener: Listener | None = None  # hears whether this node is registered
        self.registered = False
        self.reported_draining = False  # in the last message that the parent acknowledged
        self.seen = 0  # the highest x-hierarchy-seq that the parent sent
        self.open = 0  # requests of this parent that have a lease on a child here; counted by the lane
        self._identity = identity
        self._source = source
        self._client = ParentClient(parent, http, self.secret)
        self._proposed_interval_s = interval_s
        self._interval_s = interval_s  # as agreed
        self._clock = clock
        self._rng = rng
        self._sleep = sleep
        self._slices = slices
        self._link: RequestedLink = link
        self._credentials = credentials
        self._board = board
        self._shared_names: tuple[str, ...] = ()  # whose records go to and come from the parent
        self._told = 0  # revision of the records that the parent has
        self._seq = 0  # of the last message
        self._seen_since_registration = 0  # the highest x-hierarchy-seq since the last registration was sent
        self._must_register = False
        self._draining_is_known = asyncio.Event()  # the parent has acknowledged that this node drains
        self._parent_is_fastchat = False  # FastChat's original controller
        self._parent_instance = ""
        #: with which fingerprints of prompts are taken above this node; None: not known yet, or none are
        self.prefix_key: str | None = None
        self._reported = _Reported()
        self._logged_errors: set[str] = set()  # since the last registration
        self._cut_until = -math.inf  # until then the parent gets nothing of what is below this node: it is too much
        self._logged_cut = False
        self._logged_busy = False
        self._wait_until = -math.inf  # the parent has no time for a report before

    def propose_interval(self, interval_s: float) -> None:
        """Propose this interval to the parent from the next registration on."""
        self._proposed_interval_s = interval_s
        self._interval_s = max(self._interval_s, interval_s)

    def believes(self, secret: bytes, seq: int) -> bool:
        """Whether a request with this secret comes from this parent. If so, its number is noted. Constant time."""
        if not hmac.compare_digest(secret, self.secret):
            return False
        if seq > self.seen:
            self.seen = seq
        if seq > self._seen_since_registration:
            self._seen_since_registration = seq
        return True

    def register_again(self) -> None:
        """Something else showed that the parent does not know this node."""
        self._must_register = True

    def listen(self, listener: Listener) -> None:
        """Call `listener` at each registration and each loss of it."""
        self._listener = listener

    async def run(self) -> None:
        """Register and report until cancelled. It may be run again after an error."""
        if self.registered:
            self._set_lost()
        while True:
            await self._connect()
            await self._report_until_lost()
            self._set_lost()

    async def wait_until_draining_is_known(self) -> None:
        """Return when the parent has acknowledged that this node drains; at once if it is not registered."""
        if self.registered:
            await self._draining_is_known.wait()

    async def deregister(self) -> None:
        """Tell the parent that this node leaves: one attempt, and none if it is not registered."""
        if not self.registered or self._parent_is_fastchat:
            return
        self._set_lost()
        message = Deregistration(self._identity.url, self._identity.instance, self._identity.name)
        try:
            await self._client.post("/deregister_worker", message, timeout_s=DEREGISTER_TIMEOUT_S)
        except ParentError as error:
            log.info("cannot deregister from %s: %s", self.parent, error)

    def _set_lost(self) -> None:
        self.registered = False
        if self._listener is not None:
            self._listener.lost()

    # -- connecting ------------------------------------------------------------------------------------------

    async def _connect(self) -> None:
        """Try to register until it succeeds."""
        attempts = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type(ParentError),
            wait=tenacity.wait_random_exponential(multiplier=0.2, max=MAX_WAIT_S),
            before_sleep=self._log_failure,
            sleep=self._sleep,
        )
        await attempts(self._register)

    def _log_failure(self, state: tenacity.RetryCallState) -> None:
        """Log each reason once, not every three seconds all night."""
        reason = str(state.outcome.exception()) if state.outcome else ""
        if reason in self._logged_errors:
            return
        log.log(self._severity, "cannot register with %s: %s; retrying", self.parent, reason)
        if len(self._logged_errors) >= MAX_LOGGED_ERRORS:  # the parent chooses the text, and may vary it
            self._logged_errors.clear()
        self._logged_errors.add(reason)

    @property
    def _severity(self) -> int:
        """Of a lost parent: nothing to warn of while this node ends, since its parents may have ended just before."""
        return logging.INFO if self._source.draining() else logging.WARNING

    async def _register(self) -> None:
        below = await self._below()
        text = await self._slices.run(children_text_steps(below))
        await self._slices.run(self._source.status_steps())
        current = self._current(below)
        message = self._registration(current, text)
        self._seen_since_registration = 0
        response = await self._post_registration(message)
        self._parent_is_fastchat = response is None
        accepted = Accepted(interval_s=FASTCHAT_INTERVAL_S) if response is None else parse_accepted(response)
        self._note_acknowledged(message, current)
        self._apply(accepted)
        self._log_registered(accepted)
        if self._listener is not None:
            self._listener.accepted(accepted)

    def _registration(self, current: _Reported, children: bytes) -> Registration:
        status = current.status
        return Registration(
            worker_name=self._identity.url,
            check_heart_beat=True,
            worker_status=WorkerStatus(status.model_names, status.speed, status.queue_length),
            secret=self.secret.decode(),
            process=self._credentials.process if self._credentials is not None else "",
            replica=self._identity.replica,
            reads_prefix=True,
            children=_as_json(children),
            labels=current.labels or None,
            link=self._link,
            **self._node_fields(status),
        )

    async def _post_registration(self, message: Registration) -> Any:
        shown = self._credentials.current() if self._credentials is not None else ""
        try:
            return await self._client.post("/register_worker", message, bearer=shown)
        except ParentError as error:
            if self._credentials is not None and error.status in (401, 403):
                self._credentials.mark_refused(shown)
            self._note_too_large(error)
            raise

    def _note_too_large(self, error: ParentError) -> bool:
        """The parent refuses so much: leave out what is below this node, which requests do not need.

        Returns whether that may help.
        """
        is_refused = error.status == 413 or (error.status == 422 and ": children: " in str(error))
        if not is_refused or self._is_cut:
            return False
        self._cut_until = self._clock() + CUT_S
        if not self._logged_cut:
            self._logged_cut = True
            log.warning(
                "%s refuses a message with all that is below this node (%s): it gets one without, so its /tree is "
                "incomplete; raise `max_body_bytes` there",
                self.parent,
                error,
            )
        return True

    @property
    def _is_cut(self) -> bool:
        return self._clock() < self._cut_until

    def _apply(self, accepted: Accepted) -> None:
        if accepted.instance != self._parent_instance:
            self._parent_instance = accepted.instance
            self.seen = self._seen_since_registration  # a new process; it may have sent requests before its response
        self._interval_s = accepted.interval_s
        if accepted.prefix_key is not None:
            self.prefix_key = accepted.prefix_key
        self._told, self._shared_names = 0, self._names_shared_with(accepted.node)
        if self._credentials is not None and accepted.credential:
            self._credentials.save(accepted.credential)
        self.registered = True
        self._must_register = False
        self._logged_errors.clear()

    def _log_registered(self, accepted: Accepted) -> None:
        who = "FastChat's controller" if self._parent_is_fastchat else f"{accepted.node} {accepted.version}".strip()
        link = f", link {accepted.link}" if self._link != "direct" else ""
        log.info("registered with %s (%s)%s", self.parent, who, link)
        if self._link == "reverse" and accepted.link != "reverse":
            log.warning(
                "%s does not accept reverse links, so it must be able to dial %s", self.parent, self._identity.url
            )

    # -- reporting -------------------------------------------------------------------------------------------

    async def _report_until_lost(self) -> None:
        """Return when this node has to register again."""
        due = self._next_due()
        renew_at = self._clock() + RENEW_S * self._rng.uniform(1 - JITTER, 1) if self._credentials else math.inf
        while True:
            await self._sleep(TICK_S)
            if self._must_register or self._clock() >= renew_at:
                return
            if self._clock() < self._wait_until:
                continue
            await self._slices.run(self._source.status_steps())
            status = self._source.status()
            if self._clock() < due and not self._is_urgent(status):
                continue
            if self._parent_is_fastchat and differ(status, self._reported.status):
                return  # FastChat's heartbeats carry only a queue's length
            if not await self._report():
                return
            due = self._next_due()

    def _next_due(self) -> float:
        return next_due(self._clock(), self._interval_s, self._rng)

    def _is_urgent(self, status: NodeStatus) -> bool:
        """Did something change that the parent does not know and must not learn late?"""
        reported = self._reported
        return (
            is_urgent(status, self._other_load(status), reported.status, reported.other_load)
            or self._source.draining() != self.reported_draining
            or bool(self._news()[0])
        )

    async def _report(self) -> bool:
        """Send one report. Returns whether the parent acknowledged it."""
        below = await self._below()
        changes = await self._slices.run(subtree.diff_steps(self._reported.children, below))
        text = await self._slices.run(children_text_steps(changes)) if changes else b""
        await self._slices.run(self._source.status_steps())
        current, (shared, told) = self._current(below), self._news()
        status = current.status
        message = HeartBeat(
            worker_name=self._identity.url,
            queue_length=status.queue_length,
            speed=status.speed,
            children=_as_json(text) if text else None,
            labels=current.labels if current.labels != self._reported.labels else None,
            shared=shared,
            **self._node_fields(status),
        )
        try:
            response = await self._client.post("/receive_heart_beat", message)
        except ParentError as error:
            if error.status == 429:  # this node stays registered; what changed is in the next report
                self._wait_until = self._clock() + max(1.0, error.retry_after_s)
                if not self._logged_busy:
                    self._logged_busy = True
                    log.warning("%s has no time for the reports of this node, which wait: %s", self.parent, error)
                return True
            if not self._note_too_large(error):
                log.log(self._severity, "lost %s: %s", self.parent, error)
            return False
        self._note_acknowledged(message, current)
        if isinstance(response, dict) and response.get("exist") is True:
            self._told = told
            self._receive(response.get("shared"))
            if is_prefix_key(key := response.get("prefix_key")):
                self.prefix_key = key
            return True
        log.info("%s does not know this node; registering again", self.parent)
        return False

    # -- records that instances share ------------------------------------------------------------------------

    def _names_shared_with(self, parent: str) -> tuple[str, ...]:
        """The other instances of the parent get its records from here; those of this node get ours from the parent."""
        own = (self._identity.name,) if self._identity.replica else ()
        return ((parent, *own) if parent != self._identity.name else own) if parent else ()

    def _news(self) -> tuple[list[Record], int]:
        """Records that the parent does not have, and the revision reached with them."""
        if self._board is None or self._told == self._board.revision:
            return [], self._told
        records, reached = self._board.news(self._told, self._shared_names)
        if not records:
            self._told = reached
        return records, reached

    def _receive(self, shared: object) -> None:
        if self._board is None or not shared:
            return
        try:
            records = msgspec.convert(shared, list[Record])
        except msgspec.ValidationError as error:
            if str(error) not in self._logged_errors:
                self._logged_errors.add(str(error))
                log.warning("the shared records of %s are not understood: %s", self.parent, error)
            return
        had_all = self._told == self._board.revision
        self._board.receive(records, self._shared_names, self.parent)
        if had_all:  # the parent does not need back what it sent
            self._told = self._board.revision

    # -- both ------------------------------------------------------------------------------------------------

    async def _below(self) -> dict[str, Any]:
        """What is below this node. Others have their turns meanwhile, so the message's other fields are read later."""
        return {} if self._is_cut else await self._slices.run(self._source.children_steps())

    def _current(self, below: dict[str, Any]) -> _Reported:
        """The status now. No request may come until its number is read for the message (`seen`)."""
        status = self._source.status()
        return _Reported(status, self._other_load(status), below, self._source.labels())

    def _other_load(self, status: NodeStatus) -> int:
        """Requests that the parent did not send. It knows its own; FastChat's controller does not."""
        return status.queue_length if self._parent_is_fastchat else other_load(status, self.open)

    def _node_fields(self, status: NodeStatus) -> dict[str, Any]:
        self._seq += 1
        return {
            "node": self._identity.name,
            "instance": self._identity.instance,
            "version": self._identity.version,
            "build": self._identity.build,
            "dispatch": self._identity.dispatch,
            "seq": self._seq,
            "seen": self.seen,
            "path": self._source.path(),
            "models": list(status.models),
            "interval_s": self._proposed_interval_s,
            "draining": self._source.draining(),
            "incomplete": self._source.incomplete(),
            "warnings": self._warnings(),
        }

    def _warnings(self) -> list[str]:
        own = self._source.warnings()
        return [*own[: MAX_WARNINGS - 1], CUT] if self._is_cut else own

    def _note_acknowledged(self, message: Registration | HeartBeat, reported: _Reported) -> None:
        self._reported = reported
        self._logged_busy = False
        self.reported_draining = message.draining
        if message.draining:
            self._draining_is_known.set()

    def __repr__(self) -> str:
        return f"<Uplink {self.parent} {'registered' if self.registered else 'connecting'} seen={self.seen}>"


def _as_json(text: bytes) -> dict[str, Any]:
    """JSON that is put into a message as it is."""
    return cast(dict[str, Any], msgspec.Raw(text))
