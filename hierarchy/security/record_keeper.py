"""The records of one instance of a parent: shared with the other instances, and what it says while some are missing."""

from __future__ import annotations

import contextlib
import logging
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from hierarchy.errors import InvalidToken, Unavailable, UsageError
from hierarchy.gossip import Board, Record
from hierarchy.runtime.blocking import AT_ONCE, Place
from hierarchy.runtime.expiry import date_of
from hierarchy.security.exchange_page import MAX_RECORDS_BYTES, Page, PageSigner
from hierarchy.security.token_store import TokenStore

USED, REVOKED = "used-token", "revocation"  # topics of shared records
#: In which the children of a parent that restarted come back. A parent without any record first looks whether one of
#: them shows a credential, before it accepts a join token that was made earlier and may be used already.
YOUNG_S = 4.0
CONFIRM = "hierarchy state confirm"
T = TypeVar("T")
log = logging.getLogger("hierarchy.security")


class _Use(msgspec.Struct):
    """The value of a shared record about a token."""

    process: str  # a hash that identifies it
    expires: float  # Unix seconds


class _Revocation(msgspec.Struct):
    """The value of a shared record about a child."""

    at: float  # Unix seconds


@dataclass
class Peer:
    """How far the exchange with another instance is."""

    process: str = ""  # its random id
    seen: int = 0  # revision of its last record that came
    sent: int = 0  # revision of the last record of this instance that it has
    nonce: str = ""  # of the request in flight


class RecordKeeper:
    """Used tokens and revocations of one instance, which all instances share."""

    def __init__(
        self,
        store: TokenStore,
        signer: PageSigner,
        now: Callable[[], float] = time.time,
        *,
        has_peers: bool = False,
        place: Place = AT_ONCE,
    ) -> None:
        """
        Args:
            place: where the store's file is read and written.
            now: Unix seconds.
            has_peers: the configuration names other instances, which are asked first at the start.
        """
        self.store = store
        self._place = place
        self._signer = signer
        self._now = now
        self._waits_for_peers = has_peers
        self._board = Board(signer.parent)  # until `share`
        self._changed = False  # another instance or process may have revoked a child
        self._said_incomplete = False
        self._reported: set[str] = set()  # tokens that two processes used

    # -- shared records ----------------------------------------------------------------------------------------------

    def share(self, board: Board) -> None:
        """Share the records with the other instances through `board`."""
        self._board = board
        for record in board.subscribe(USED, self._use_came) + board.subscribe(REVOKED, self._revocation_came):
            (self._use_came if record.topic == USED else self._revocation_came)(record, False)
        self.publish_all()

    def publish_all(self) -> None:
        """Share what is in the store, as far as it is not shared yet."""
        for token, (expires, process) in self.store.used().items():
            self._publish_use(token, expires, process)
        for node, at in self.store.revoked().items():
            self._publish_revocation(node, at)

    async def use(self, token: str, expires: float, process: str) -> bool:
        """Record that a process used a token. Returns False if another process was first.

        Raises:
            OSError: the record could not be written, or not in time.
            UsageError: the file is damaged.
        """
        is_first = await self._place.run(lambda: self.store.use(token, expires, process))
        if is_first:
            self._publish_use(token, expires, process)
        return is_first

    def revoke(self, node: str, *, at_least: float = 0.0) -> None:
        """Make void what was issued to `node` until now, and until `at_least` (Unix seconds), at all instances."""
        self._publish_revocation(node, self.store.mark_revoked(node, at_least=at_least))

    async def save(self) -> None:
        """Write what is not in the file yet. Raises as `use`."""
        await self._place.run(self.store.save)

    async def try_to_write(self) -> None:
        """Note in the log if the store's folder has no room."""
        with contextlib.suppress(TimeoutError):  # the log has it already
            await self._place.run(self.store.try_to_write)

    async def refresh(self) -> bool:
        """Read the store again if another process changed it, and write what is not saved yet.

        Returns whether it was read. Raises as `use`.
        """
        changed = await self._place.run(self.store.refresh)
        if changed:
            self._changed = True
            self.publish_all()
        return changed

    def changed(self) -> bool:
        """Whether another instance or process may have revoked a child since the last call."""
        changed, self._changed = self._changed, False
        return changed

    def _publish_use(self, token: str, expires: float, process: str) -> None:
        if self._board.find(USED, token) is None:
            until_ms = int(min(max(expires, 0.0), 2**42) * 1000)
            self._board.publish(USED, token, {"process": process, "expires": expires}, until_ms=until_ms)

    def _publish_revocation(self, node: str, at: float) -> None:
        known = _decoded(self._board.find(REVOKED, node), _Revocation)
        if known is None or known.at < at:
            self._board.publish(REVOKED, node, {"at": at})

    def _use_came(self, record: Record, from_other: bool) -> None:
        use = _decoded(record, _Use)
        if use is None:
            return
        known = self.store.used_by(record.key)
        if from_other and known not in (None, use.process) and record.key not in self._reported:
            self._reported.add(record.key)
            log.error(
                "one join token was used by two processes at two instances of this node, at nearly the same time: "
                "one of them may have stolen it; see which node joined, and revoke it: hierarchy token revoke"
            )
        self.store.learn_use(record.key, use.expires, use.process)

    def _revocation_came(self, record: Record, from_other: bool) -> None:
        revocation = _decoded(record, _Revocation)
        if revocation is not None and self.store.learn_revocation(record.key, revocation.at):
            self._changed = True
            if from_other:
                log.warning("%s was revoked at another instance of this node", record.key)

    def forget(self) -> None:
        """Call it now and then: forget the tokens that have expired."""
        self.store.forget_expired()
        self._reported &= self.store.used().keys()

    # -- the exchange with other instances ---------------------------------------------------------------------------

    @property
    def revision(self) -> int:
        """Of the last shared record."""
        return self._board.revision

    def request(self, peer: Peer) -> tuple[str, int]:
        """The page to send to another instance: what it does not have, and how much of its records came.

        Returns it with the revision of the last record in it.
        """
        shared, revision = self._board.news(peer.sent, (self._board.node,), MAX_RECORDS_BYTES)
        peer.nonce = secrets.token_urlsafe(16)
        page = self._signer.sign(shared, revision, nonce=peer.nonce, seen=peer.seen, seen_of=peer.process)
        return page, revision

    def respond(self, text: str) -> str:
        """The response to such a page of another instance.

        Raises:
            InvalidToken: the page is not valid, or not made now.
        """
        page = self._signer.read(text)
        if not page.nonce:
            raise InvalidToken("this is not the request of another instance")
        self._receive(page)
        seen = page.seen if page.seen_of == self._signer.process else 0
        shared, revision = self._board.news(seen, (self._board.node,), MAX_RECORDS_BYTES)
        has_all = revision == self._board.revision and not self.store.is_incomplete
        began = self.store.began if has_all else None
        return self._signer.sign(shared, revision, answers=page.nonce, began=began)

    def received(self, peer: Peer, sent: int, text: str) -> bool:
        """Take the response of another instance. Returns whether there is more to exchange at once.

        Args:
            sent: revision of the last record in the request.

        Raises:
            InvalidToken: it is not the response to the last request.
        """
        page = self._signer.read(text)
        if page.answers != peer.nonce:
            raise InvalidToken("this is not the response to the last request")
        is_new = peer.process not in ("", page.iss)
        had_all = sent == self._board.revision
        self._receive(page)
        peer.process, peer.seen = page.iss, page.revision
        # A new process gets all again: it may have lost what it had been sent. No process needs back what it sent.
        peer.sent = 0 if is_new else self._board.revision if had_all else sent
        if page.began is not None:
            self.store.has_all_since(page.began)
        return page.began is None and bool(page.shared)

    def _receive(self, page: Page) -> None:
        self._board.receive(page.shared, (self._board.node,), f"instance {page.iss}")

    def peers_were_asked(self) -> None:
        """Every other instance has sent its records, or does not respond."""
        self._waits_for_peers = False

    # -- missing records ---------------------------------------------------------------------------------------------

    @property
    def may_renew(self) -> bool:
        """Whether credentials may be issued: whoever shows one may have been revoked, if records are missing."""
        return not self.store.is_incomplete

    def check_join(self, issued: float) -> None:
        """Raise `Unavailable` if a join token of `issued` (Unix seconds) may have been used without a record here."""
        if self.store.is_incomplete:
            raise Unavailable("this node has lost its records of used tokens, so it accepts no join token; see its log")
        young = self.store.age_s < YOUNG_S
        if issued < self.store.began and (young or self._waits_for_peers):
            raise Unavailable(
                "this node starts without any record of used tokens, and first waits for its children and other "
                "instances; it accepts the join token in a few seconds"
            )

    def problem(self) -> str:
        """What is wrong with the records, for operators; "" if nothing is."""
        if not self.store.is_incomplete or self._waits_for_peers:
            return ""
        return (
            f"{self.store.path} began on {date_of(self.store.began)}, but a child shows a credential of "
            f"{date_of(self.store.oldest_credential)}: records of used tokens and revocations are lost, so no "
            f"credential is renewed and no join token accepted; restore a backup, or revoke again what was revoked and "
            f"run: {CONFIRM}"
        )

    def report_problem(self) -> None:
        """Log once that records are missing, and once that they no longer are."""
        problem = self.problem()
        if problem and not self._said_incomplete:
            log.error("records are missing: %s", problem)
        elif self._said_incomplete and not problem:
            log.warning("%s: no record is missing any more; join tokens are accepted again", self.store.path)
        self._said_incomplete = bool(problem)

    async def confirm(self) -> bool:
        """Take the records as complete, as an operator says. Returns whether some seemed to be missing.

        Raises:
            Unavailable: that could not be saved.
        """
        was_incomplete = self.store.is_incomplete
        try:
            await self._place.run(self.store.confirm)
        except (OSError, UsageError) as error:
            raise Unavailable(f"this could not be recorded: {why(error)}") from None
        log.warning("an operator confirmed %s: its records are taken as complete", self.store.path)
        return was_incomplete


def why(error: OSError | UsageError) -> str:
    """What an operator reads of an error of the file."""
    return f"{error.filename or 'the state folder'}: {error.strerror}" if isinstance(error, OSError) else str(error)


def _decoded(record: Record | None, kind: type[T]) -> T | None:
    """The value of a record; None if there is none, or it is not understood: one of a later release."""
    try:
        return None if record is None else msgspec.convert(record.value, kind)
    except msgspec.ValidationError:
        return None
