"""Which children may register, and what proves later that a message is from a registered child."""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
from collections.abc import Iterable
from urllib.parse import urlsplit

from hierarchy.config.address import is_loopback, literal_ip, place_of
from hierarchy.errors import InvalidToken, NotPermitted, Unavailable, UsageError
from hierarchy.security.dial_guard import DialGuard
from hierarchy.security.message_rate import MessageRate
from hierarchy.security.record_keeper import RecordKeeper, why
from hierarchy.security.tokens import Grant, Signer
from hierarchy.wire.checks import check_url
from hierarchy.wire.messages import HeartBeat, Registration

UNAUTHENTICATED_BODY_BYTES = 64 * 1024  # limit for a message without a valid token or secret
NEW_TOKEN = "make a new one: hierarchy token create"
log = logging.getLogger("hierarchy.security")


class RegistrationPolicy:
    """The rules of one parent for its children."""

    def __init__(
        self,
        signer: Signer | None,
        records: RecordKeeper | None,
        dial_guard: DialGuard,
        *,
        in_force: bool,
        cleartext: bool,
        tokenless: bool,
    ) -> None:
        """
        Args:
            signer, records: None if the parent has no key.
            in_force: nodes need a token or credential to register.
            cleartext: children may be dialled without TLS.
            tokenless: FastChat's own workers need no token if `dial_guard.allow` contains their address.
        """
        self.in_force = in_force
        #: used tokens and revocations; None if the parent has no key
        self.records = records
        self._signer = signer
        self._dial_guard = dial_guard
        self._cleartext = cleartext
        self._tokenless = tokenless
        self.rate = MessageRate()  # of the messages of each credential
        self._grants: dict[str, Grant] = {}  # of the registered children, by name
        self._file_problem = ""  # what is wrong with the file of the records, and was logged

    @property
    def keeps_state(self) -> bool:
        """Whether this parent needs a folder for used tokens and revocations."""
        return self.records is not None

    def body_limit(self, bearer: str, peer: str, limit: int) -> int:
        """How many bytes of a registration may be read: at most `limit`, fewer without a valid token.

        So a stranger cannot fill this node's memory. bearer: the token or credential; peer: the sender's IP address.
        """
        if not self.in_force or self.is_trusted_peer(peer):
            return limit
        try:
            if self._signer is not None and self._signer.check(bearer):
                return limit
        except InvalidToken:
            pass  # `check` reports it, with everything else that is wrong
        return min(limit, UNAUTHENTICATED_BODY_BYTES)

    def name_of(self, bearer: str) -> str:
        """The node of a valid token or credential; "" for none, and where none is needed."""
        try:
            return self._signer.check(bearer).node if self.in_force and self._signer is not None and bearer else ""
        except InvalidToken:
            return ""

    def check(self, message: Registration, bearer: str, peer: str) -> Grant | None:
        """Check whether a child may register.

        Args:
            bearer: the token or credential that it shows; "" for none.
            peer: the IP address from which the message came.

        Returns:
            What the token or credential allows; None where none is needed.

        Raises:
            InvalidField: its URL is malformed.
            InvalidToken: it shows no valid token or credential.
            NotPermitted: its token or the configuration does not allow its name, URL or models.
            Unavailable: it shows a join token, and this parent cannot know whether the token was used.
        """
        check_url("worker_name", message.worker_name)
        if not message.node or message.link == "direct":
            self._check_url(message.worker_name, peer)
        if not self.in_force:
            return None
        if not message.node:
            self._check_worker(message.worker_name, peer)
            return None
        grant = self._grant_of(message, bearer)
        _check_models(grant, _models(message))
        return grant

    async def redeem(self, message: Registration, grant: Grant) -> str:
        """Use up the join token of a child that has just been registered.

        Returns:
            The credential to send to the child; "" if it keeps its present one, as it must while records are missing.

        Raises:
            InvalidToken: another process used the token at this moment.
            Unavailable: the use of the token could not be recorded.
        """
        signer, records = self._signer_and_records()
        self._grants[grant.node] = grant  # from now on the child can be revoked
        try:
            if grant.kind == "join" and not await records.use(grant.identity, grant.expires, _process(message)):
                raise InvalidToken(f'the join token of "{grant.node}" was used already')
        except (OSError, UsageError) as error:
            raise Unavailable(f"this node cannot record that the token was used: {why(error)}") from None
        if records.store.is_revoked(grant.node, grant.since):  # meanwhile
            raise InvalidToken(f'the {grant.title} of "{grant.node}" was revoked; {NEW_TOKEN}')
        renews = records.may_renew and signer.needs_renewal(grant)
        self._grants[grant.node] = signer.renewed(grant) if renews else grant
        return signer.credential(grant) if renews else ""

    def may_dial(self, url: str, peer: str) -> bool:
        """Whether this node may dial a URL that a child at the address `peer` registered."""
        try:
            self._check_url(url, peer)
        except NotPermitted:
            return False
        return True

    def secret_matches(self, secret: bytes, shown: bytes) -> bool:
        """Whether `shown` is the secret of a child's registration. secret: b"" for FastChat's own workers."""
        return not self.in_force or (bool(secret) and hmac.compare_digest(secret, shown))

    def may_report(self, message: HeartBeat, secret: bytes, shown: bytes, peer: str) -> bool:
        """Whether the child that a report names sent it; for FastChat's own workers, whether its address is trusted.

        Args:
            secret: of the child's registration.
            shown: the secret that came with the report.
            peer: the IP address from which it came.

        Raises:
            NotPermitted: it reports models that the child may not serve.
        """
        if not self.in_force:
            return True
        if not message.node:
            return self.is_trusted_peer(peer)
        if not self.secret_matches(secret, shown):
            return False
        grant = self._grants.get(message.node)
        if grant is not None:
            _check_models(grant, [model.name for model in message.models or ()])
        return True

    def is_trusted_peer(self, peer: str) -> bool:
        """Whether FastChat's own programs at this address may use FastChat's endpoints without a token or key."""
        return self._tokenless and self._dial_guard.allow_contains(peer)

    def revoke(self, node: str) -> None:
        """Make void what was issued to `node` until now. Until it is saved, that ends with this process.

        Raises:
            NotPermitted: this parent has no key, so it issues nothing.
        """
        if self.records is None:
            raise NotPermitted("this node has no key, so there is nothing to revoke; set `security.key`")
        grant = self._grants.get(node)  # the clock of the instance that issued it may be ahead
        self.records.revoke(node, at_least=grant.since if grant is not None else 0.0)

    async def save_revocation(self, node: str) -> None:
        """Write it to the file. Raises `Unavailable` if that fails, or takes too long."""
        if self.records is None:
            return
        try:
            await self.records.save()
        except (OSError, UsageError) as error:
            raise Unavailable(
                f"{node} is revoked and disconnected, but that could not be saved ({why(error)}), so a restart of this "
                "node may forget it; correct that, and revoke it again"
            ) from None

    def revoked(self, present: Iterable[str]) -> list[str]:
        """The registered children whose credentials were revoked. present: the names of all registered children."""
        names = set(present)
        self._grants = {name: grant for name, grant in self._grants.items() if name in names}
        if self.records is None:
            return []
        store = self.records.store
        return [name for name, grant in self._grants.items() if store.is_revoked(name, grant.since)]

    def forget(self, present: Iterable[str]) -> None:
        """Call it now and then: forget expired tokens, and the credentials of all children but those in `present`."""
        names = set(present)
        self._grants = {name: grant for name, grant in self._grants.items() if name in names}
        self.rate.forget()
        if self.records is not None:
            self.records.forget()

    async def refresh(self) -> None:
        """Read the stored tokens and revocations again if another process changed them, and save what is not yet."""
        if self.records is None:
            return
        problem = ""
        try:
            await self.records.refresh()
        except UsageError as error:
            problem = str(error)
        except TimeoutError:  # the log has it already
            return
        if problem and problem != self._file_problem:
            log.error("%s; what was read before stays in force", problem)
        self._file_problem = problem

    def grants(self) -> Iterable[Grant]:
        """What each registered child may do."""
        return self._grants.values()

    def _signer_and_records(self) -> tuple[Signer, RecordKeeper]:
        """Both, for the registration of a node. Raises `NotPermitted` if this parent has no key."""
        if self._signer is None or self.records is None:
            raise NotPermitted("this node accepts no registrations of nodes: it has no key; set `security.key`")
        return self._signer, self.records

    def _grant_of(self, message: Registration, bearer: str) -> Grant:
        """What the token or credential of a node allows, if it is valid and the node's own."""
        signer, records = self._signer_and_records()
        if not bearer:
            raise InvalidToken("a join token is required here; make one with: hierarchy token create")
        grant = signer.check(bearer)
        if grant.node != message.node:
            raise NotPermitted(f'the {grant.title} is for node "{grant.node}", not for "{message.node}"')
        if records.store.is_revoked(grant.node, grant.since):
            raise InvalidToken(f'the {grant.title} of "{grant.node}" was revoked; {NEW_TOKEN}')
        _check_history(grant, message, records)
        return grant

    def _check_url(self, url: str, peer: str) -> None:
        """Check the URL as it is written; the addresses of a host name are checked when it is dialled."""
        host, is_cleartext = place_of(url)[0], urlsplit(url).scheme == "http"
        if literal_ip(host) and (refusal := self._dial_guard.refusal(host, local=is_loopback(peer))):
            raise NotPermitted(f"worker_name: {host} {refusal}")
        if host == "localhost" and not is_loopback(peer):
            raise NotPermitted("worker_name: localhost is loopback, but the child is on another machine")
        if self.in_force and is_cleartext and not self._cleartext and not is_loopback(host):
            raise NotPermitted(
                f"worker_name: {url[:100]} is not https; give the child `tls`, or set `security.cleartext` on this node"
            )

    def _check_worker(self, url: str, peer: str) -> None:
        """Check one of FastChat's own workers: both it and its URL must be in `security.allow`."""
        host = place_of(url)[0]
        if not self._tokenless:
            raise InvalidToken(
                "no token; to accept FastChat's own workers, set `security.tokenless_workers` and `security.allow`"
            )
        if not self._dial_guard.allow_contains(peer):
            raise NotPermitted(f"{peer} is not in `security.allow` of this node")
        if literal_ip(host) and not self._dial_guard.allow_contains(host):
            raise NotPermitted(f"worker_name: {host} is not in `security.allow` of this node")


def _check_history(grant: Grant, message: Registration, records: RecordKeeper) -> None:
    """Check that a join token is unused, as far as the records tell. Raises `InvalidToken` or `Unavailable`."""
    if grant.kind == "credential":
        records.store.note_credential(grant.issued)
        return
    user = records.store.used_by(grant.identity)
    if user is None:
        records.check_join(grant.issued)
    elif user != _process(message):
        raise InvalidToken(f'the join token of "{grant.node}" was used already; {NEW_TOKEN}')


def _process(message: Registration) -> str:
    """Identifies the process that registers: only it may use its token again, if it did not get the response."""
    shown = message.process or message.secret  # of earlier releases: another one at each parent
    return hashlib.sha256(json.dumps([message.instance, shown]).encode()).hexdigest()  # no other pair is written so


def _models(message: Registration) -> list[str]:
    names = [model.name for model in message.models or ()]
    return names + (message.worker_status.model_names if message.worker_status else [])


def _check_models(grant: Grant, models: Iterable[str]) -> None:
    if grant.models is None:
        return
    outside = sorted(set(models) - grant.models)
    if outside:
        names = ", ".join(outside[:10]) + (", ..." if len(outside) > 10 else "")
        raise NotPermitted(f'"{grant.node}" may not serve {names}: its {grant.title} is for other models only')
