"""Registering with a parent, and reporting to it.

    connecting ──registered──▶ reporting ──forgotten, or a report was lost──▶ connecting ──…──▶ stopped

Everything is pushed: a whole registration first, then reports of what changed. After a report of which it is not known
whether it arrived, the next message is a whole registration again, so that no difference can stay unnoticed.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import math
import secrets
from collections.abc import Awaitable, Callable, Mapping
from random import Random
from typing import Any, Protocol

import httpx
import msgspec
import tenacity

from hierarchy.errors import HierarchyError
from hierarchy.security.credential_store import CredentialStore
from hierarchy.wire import subtree
from hierarchy.wire.messages import (
    Accepted,
    Deregistration,
    HeartBeat,
    Identity,
    Registration,
    RequestedLink,
    WorkerStatus,
)
from hierarchy.wire.status import EMPTY, NodeStatus

TICK_S = 0.1  # how often load is looked at: so reports go out ten times a second at most
MOVED = 0.1  # a change of load by more than this part is reported at once
JITTER = 0.2
MAX_WAIT_S = 3.0  # between two attempts to register
RENEW_S = 86400.0  # a credential is exchanged when its node registers, which must not wait for a parent's restart
FAREWELL_S = 2.0
MAX_COMPLAINTS = 16  # remembered, so as not to be told again
# An original FastChat controller expires workers after 90 s and knows no farewell; its workers beat every 45 s.
PLAIN_INTERVAL_S = 15.0
log = logging.getLogger("hierarchy.uplink")


class Source(Protocol):
    """What an uplink tells of."""

    def status(self) -> NodeStatus:
        """The sum over the children that may be chosen."""

    def path(self) -> list[str]:
        """Instances of all nodes below, this one included."""

    def children(self) -> dict[str, Any]:
        """The subtree for `/tree`."""

    def draining(self) -> bool:
        """Does this node take nothing new?"""


class Listener(Protocol):
    """Who has to know how we stand with the parent: the reserve of links."""

    def accepted(self, accepted: Accepted) -> None:
        """We are registered, on these terms."""

    def lost(self) -> None:
        """We are not, until `accepted` is called again."""


class _RefusedError(HierarchyError):
    """The parent answered, but did not take us. status: of its answer."""

    def __init__(self, message: str, status: int = 200) -> None:
        super().__init__(message)
        self.status = status


class Uplink:
    """This node's tie to one parent.

    secret: what the parent must send with each request, to be believed. seen: the highest request number it sent.
    open: how many of its requests have a lease on a child of ours, kept by the lane. link: who shall dial the
    connections for requests. clock, sleep, rng: injected.
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
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        link: RequestedLink = "direct",
        credentials: CredentialStore | None = None,
    ) -> None:
        self.parent = parent
        self.listener: Listener | None = None
        self.registered = False
        self.told_draining = False
        self._heard = asyncio.Event()  # the parent knows that this node drains
        self.seen = 0
        self.open = 0
        self._seen_lately = 0  # since the last registration was sent
        self._identity = identity
        self._source = source
        self._http = http
        self._wanted_interval_s = self._interval_s = interval_s
        self._clock = clock
        self._rng = rng
        self._sleep = sleep
        self.secret = secrets.token_hex(16).encode()
        self._link: RequestedLink = link
        self._forgotten = False
        self._credentials = credentials
        self._seq = 0
        self._plain = False  # the parent is an original FastChat controller
        self._parent_instance = ""
        self._sent: NodeStatus = EMPTY
        self._sent_others = 0  # the load that we had told of then and that this parent did not send
        self._known: Mapping[str, Any] = {}  # the subtree as the parent has it
        self._complaints: set[str] = set()  # since it was registered last

    def pace(self, interval_s: float) -> None:
        """Propose this interval to the parent, from the next registration on."""
        self._wanted_interval_s = interval_s
        self._interval_s = max(self._interval_s, interval_s)

    def believes(self, secret: bytes, seq: int) -> bool:
        """Is this the secret that we gave to this parent? If so, note the request's number."""
        if not hmac.compare_digest(secret, self.secret):
            return False
        if seq > self.seen:
            self.seen = seq
        if seq > self._seen_lately:
            self._seen_lately = seq
        return True

    def register_again(self) -> None:
        """The parent turned out not to know us as what we are."""
        self._forgotten = True

    async def run(self) -> None:
        """Register and report until cancelled."""
        while True:
            await self._register_for_ever()
            await self._report_while_known()
            self._lost()

    def _lost(self) -> None:
        self.registered = False
        if self.listener is not None:
            self.listener.lost()

    async def until_told(self) -> None:
        """Until the parent, if there is one that we are registered with, knows that this node drains."""
        if self.registered:
            await self._heard.wait()

    def _note_told(self, message: Registration | HeartBeat) -> None:
        self.told_draining = message.draining
        if message.draining:
            self._heard.set()

    async def farewell(self) -> None:
        """Tell the parent that we go, once, as far as it can be told."""
        if not self.registered or self._plain:
            return
        self._lost()
        message = Deregistration(self._identity.url, self._identity.instance, self._identity.name)
        try:
            await self._post("/deregister_worker", message, timeout_s=FAREWELL_S)
        except (httpx.HTTPError, _RefusedError) as error:
            log.info("%s did not hear our farewell: %s", self.parent, _words(error))

    # -- registering -----------------------------------------------------------------------------------------

    async def _register_for_ever(self) -> None:
        attempts = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type((httpx.HTTPError, _RefusedError)),
            wait=tenacity.wait_random_exponential(multiplier=0.2, max=MAX_WAIT_S),
            before_sleep=self._complain,
            sleep=self._sleep,
        )
        await attempts(self._register)

    async def _register(self) -> None:
        status, children = self._source.status(), self._source.children()
        others = self._others(status)
        self._seen_lately = 0
        message = Registration(
            worker_name=self._identity.url,
            check_heart_beat=True,
            worker_status=WorkerStatus(status.model_names, status.speed, status.queue_length),
            secret=self.secret.decode(),
            replica=self._identity.replica,
            children=children,
            link=self._link,
            **self._fields(status),
        )
        shown = self._credentials.current() if self._credentials is not None else ""
        try:
            answer = await self._post("/register_worker", message, bearer=shown)
        except _RefusedError as error:
            if self._credentials is not None and error.status in (401, 403):
                self._credentials.mark_refused(shown)
            raise
        self._plain = answer is None
        accepted = Accepted(interval_s=PLAIN_INTERVAL_S) if answer is None else self._understand(answer)
        if accepted.instance != self._parent_instance:
            self._parent_instance = accepted.instance
            self.seen = self._seen_lately  # it counts anew, and may have begun before its answer reached us
        self._interval_s = accepted.interval_s
        if self._credentials is not None and accepted.credential:
            self._credentials.save(accepted.credential)
        self._sent, self._sent_others, self._known = status, others, children
        self._note_told(message)
        self.registered = True
        self._complaints.clear()
        self._forgotten = False
        who = "an original FastChat controller" if self._plain else f"{accepted.node} {accepted.version}".strip()
        log.info(
            "registered with %s (%s)%s", self.parent, who, f", link {accepted.link}" if self._link != "direct" else ""
        )
        if self._link == "reverse" and accepted.link != "reverse":
            log.warning(
                "%s does not take links that we dial: it must be able to dial %s", self.parent, self._identity.url
            )
        if self.listener is not None:
            self.listener.accepted(accepted)

    def _understand(self, answer: Any) -> Accepted:
        try:
            accepted = msgspec.convert(answer, Accepted)
        except msgspec.ValidationError as error:
            raise _RefusedError(f"its answer is not understood: {error}") from None
        if not accepted.instance:  # any JSON object would pass for an answer else
            raise _RefusedError("its answer names no instance; is there a controller at that address?")
        if not (math.isfinite(accepted.links_per_s) and 0 <= accepted.wanted < 2**31):
            raise _RefusedError(f"it wants {accepted.wanted} links, {accepted.links_per_s} a second")
        if not (math.isfinite(accepted.interval_s) and 0 < accepted.interval_s <= 3600):
            raise _RefusedError(f"it asks for reports every {accepted.interval_s} s")
        return accepted

    def _complain(self, state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        words = _words(error)
        if self.parent.startswith("http:") and isinstance(error, httpx.ReadError | httpx.RemoteProtocolError):
            words += "; is it https:// there?"
        if words not in self._complaints:  # each once, not every five seconds all night
            log.warning("cannot register with %s: %s; trying on", self.parent, words)
            if len(self._complaints) >= MAX_COMPLAINTS:  # the words are the parent's
                self._complaints.clear()
            self._complaints.add(words)

    # -- reporting -------------------------------------------------------------------------------------------

    async def _report_while_known(self) -> None:
        """Returns when the parent has to be registered with again."""
        due = self._next_due()
        renew_at = self._clock() + RENEW_S * self._rng.uniform(1 - JITTER, 1) if self._credentials else math.inf
        while True:
            await self._sleep(TICK_S)
            if self._forgotten or self._clock() >= renew_at:
                return
            status = self._source.status()
            if self._clock() < due and not self._moved(status):
                continue
            if self._plain and _capacity(status) != _capacity(self._sent):
                return  # its beats carry only a queue's length
            try:
                known = await self._report(status)
            except (httpx.HTTPError, _RefusedError) as error:
                log.warning("lost %s: %s", self.parent, _words(error))
                return
            if not known:
                log.info("%s does not know us; registering again", self.parent)
                return
            due = self._next_due()

    def _next_due(self) -> float:
        return self._clock() + self._interval_s * self._rng.uniform(1 - JITTER, 1 + JITTER)

    def _moved(self, status: NodeStatus) -> bool:
        """Is there news that cannot wait? Of its own requests the parent knows, so they are none."""
        sent = self._sent
        if abs(self._others(status) - self._sent_others) > MOVED * max(sent.queue_length, 1):
            return True
        if self._source.draining() != self.told_draining:
            return True
        return _capacity(status) != _capacity(sent)

    def _others(self, status: NodeStatus) -> int:
        return status.queue_length if self._plain else max(0, status.queue_length - self.open)

    async def _report(self, status: NodeStatus) -> bool:
        children, others = self._source.children(), self._others(status)
        message = HeartBeat(
            worker_name=self._identity.url,
            queue_length=status.queue_length,
            speed=status.speed,
            children=subtree.diff(self._known, children) or None,
            **self._fields(status),
        )
        answer = await self._post("/receive_heart_beat", message)
        self._sent, self._sent_others, self._known = status, others, children
        self._note_told(message)
        return isinstance(answer, dict) and answer.get("exist") is True

    # -- both ------------------------------------------------------------------------------------------------

    def _fields(self, status: NodeStatus) -> dict[str, Any]:
        self._seq += 1
        return {
            "node": self._identity.name,
            "instance": self._identity.instance,
            "version": self._identity.version,
            "dispatch": self._identity.dispatch,
            "seq": self._seq,
            "seen": self.seen,
            "path": self._source.path(),
            "models": list(status.models),
            "interval_s": self._wanted_interval_s,
            "draining": self._source.draining(),
        }

    async def _post(self, path: str, message: msgspec.Struct, *, timeout_s: float = 5.0, bearer: str = "") -> Any:
        content = msgspec.json.encode(message)
        headers = {"content-type": "application/json"}
        if bearer:
            headers["authorization"] = f"Bearer {bearer}"
        # Each message proves whose it is. The number means nothing here, but stands where a parent remembers heads by
        # all but their numbers (`relay.seen`), so that a beat's head is parsed once.
        headers |= {"x-hierarchy-auth": self.secret.decode(), "x-hierarchy-seq": "0"}
        headers["content-length"] = str(len(content))
        response = await self._http.post(self.parent + path, content=content, headers=headers, timeout=timeout_s)
        try:
            answer = response.json()
        except ValueError:
            if response.status_code == 200:  # not to be taken for an original controller, which answers `null`
                raise _RefusedError("its answer is not JSON; is there a controller at that address?") from None
            answer = None
        if response.status_code != 200:
            words = f"it answered {response.status_code}: {_reason(answer)}".rstrip(": ")
            raise _RefusedError(words, response.status_code)
        return answer

    def __repr__(self) -> str:
        return f"<Uplink {self.parent} {'registered' if self.registered else 'connecting'} seen={self.seen}>"


def _capacity(status: NodeStatus) -> list[tuple[str, str, float]]:
    return [(model.name, model.api, model.speed) for model in status.models]


def _reason(answer: Any) -> str:
    error = answer.get("error") if isinstance(answer, dict) else None
    message = error.get("message") if isinstance(error, dict) else None
    return message if isinstance(message, str) else ""


def _words(error: BaseException | None) -> str:
    return str(error) or type(error).__name__
