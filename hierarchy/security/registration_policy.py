"""Who may be a child: what a registration must show, and what a child must show after it."""

from __future__ import annotations

import hashlib
import hmac
import logging
from collections.abc import Iterable
from urllib.parse import urlsplit

from hierarchy.config.address import is_loopback, literal_ip
from hierarchy.errors import InvalidToken, NotPermitted, Unavailable, UsageError
from hierarchy.security.dial_guard import DialGuard
from hierarchy.security.state import State
from hierarchy.security.tokens import Grant, Signer
from hierarchy.wire.checks import check_url
from hierarchy.wire.messages import HeartBeat, Registration

UNAUTHENTICATED_BODY_BYTES = 64 * 1024  # of a message that are read from somebody who has shown nothing
log = logging.getLogger("hierarchy.security")


class RegistrationPolicy:
    """The rules of one parent.

    signer, state: None without a key. in_force: nobody is taken without a token. cleartext: children may be dialled
    without TLS. tokenless: original workers in `guard.allow` are taken.
    """

    def __init__(
        self,
        signer: Signer | None,
        state: State | None,
        guard: DialGuard,
        *,
        in_force: bool,
        cleartext: bool,
        tokenless: bool,
    ) -> None:
        self.in_force = in_force
        self._signer = signer
        self._state = state
        self._guard = guard
        self._cleartext = cleartext
        self._tokenless = tokenless
        self._grants: dict[str, Grant] = {}  # of the children that are registered, by name

    @property
    def keeps_state(self) -> bool:
        """Is there something that this parent must not forget?"""
        return self._state is not None

    def body_limit(self, bearer: str, peer: str, most: int) -> int:
        """How many bytes of a registration are read; `most` from whoever may have one, so that nobody fills memory."""
        if not self.in_force or self.is_trusted_peer(peer):
            return most
        try:
            if self._signer is not None and self._signer.check(bearer):
                return most
        except InvalidToken:
            pass  # told by `check`, with the rest
        return min(most, UNAUTHENTICATED_BODY_BYTES)

    def check(self, message: Registration, bearer: str, peer: str) -> Grant | None:
        """May this child be registered? Returns what it showed; None where nothing had to be. peer: its IP address.

        Raises:
            InvalidField: its URL is none.
            InvalidToken: it showed nothing that holds.
            NotPermitted: it claims what it was not given.
        """
        check_url("worker_name", message.worker_name)
        if not message.node or message.link == "direct":
            self._check_place(message.worker_name, peer)
        if not self.in_force:
            return None
        if not message.node:
            self._check_worker(message.worker_name, peer)
            return None
        if self._signer is None or self._state is None:
            raise NotPermitted("this node takes no registrations of nodes: it has no key; set `security.key`")
        if not bearer:
            raise InvalidToken("a join token is needed here; make one with: hierarchy token create")
        grant = self._signer.check(bearer)
        if grant.node != message.node:
            raise NotPermitted(f'the {grant.title} is for node "{grant.node}", not for "{message.node}"')
        if self._state.is_revoked(grant.node, grant.issued):
            raise InvalidToken(
                f'the {grant.title} of "{grant.node}" was revoked; make a new one: hierarchy token create'
            )
        if grant.kind == "join" and self._state.used_by(grant.identity) not in (None, _user(message)):
            raise InvalidToken(
                f'the join token of "{grant.node}" was used already; make a new one: hierarchy token create'
            )
        _check_models(grant, _models(message))
        return grant

    def redeem(self, message: Registration, grant: Grant) -> str:
        """It was registered: its token is used up. Returns the credential to send, "" if it keeps the one it has.

        Raises:
            InvalidToken: another process used the token in this moment.
            Unavailable: that could not be written down.
        """
        assert self._signer is not None
        assert self._state is not None
        try:
            if grant.kind == "join" and not self._state.use(grant.identity, grant.expires, _user(message)):
                raise InvalidToken(f'the join token of "{grant.node}" was used already')
        except (OSError, UsageError) as error:
            log.error("%s: cannot be written: %s; nobody can join with a token", self._state.path, error)
            raise Unavailable("this node cannot remember that the token was used; see its log") from None
        self._grants[grant.node] = grant
        return self._signer.credential(grant) if self._signer.is_stale(grant) else ""

    def may_dial(self, url: str, peer: str) -> bool:
        """May a child be dialled at this URL, which it named from the address `peer`?"""
        try:
            self._check_place(url, peer)
        except NotPermitted:
            return False
        return True

    def secret_matches(self, secret: bytes, shown: bytes) -> bool:
        """Is this the secret that the child handed over when it registered? secret: b"" of an original worker."""
        return not self.in_force or (bool(secret) and hmac.compare_digest(secret, shown))

    def may_report(self, message: HeartBeat, secret: bytes, shown: bytes, peer: str) -> bool:
        """Does a report come from the child it names? An original worker's must come from where those are taken.

        Raises:
            NotPermitted: the child reports models that it may not serve.
        """
        if not self.in_force:
            return True
        if not message.node:
            return self._tokenless and self._guard.permits(peer)
        if not self.secret_matches(secret, shown):
            return False
        grant = self._grants.get(message.node)
        if grant is not None:
            _check_models(grant, [model.name for model in message.models or ()])
        return True

    def is_trusted_peer(self, peer: str) -> bool:
        """May an original worker, API server or controller at this address use FastChat's endpoints without a key?"""
        return self._tokenless and self._guard.permits(peer)

    def revoke(self, node: str) -> None:
        """All that was issued to `node` is void from now on.

        Raises:
            NotPermitted: this node issues nothing. Unavailable: it could not be written down.
        """
        if self._state is None:
            raise NotPermitted("this node has no key, so there is nothing to revoke; set `security.key`")
        try:
            self._state.revoke(node)
        except (OSError, UsageError) as error:
            log.error("%s: cannot be written: %s", self._state.path, error)
            raise Unavailable("the revocation could not be written down; see this node's log") from None

    def revoked(self, present: Iterable[str]) -> list[str]:
        """Of the children that are registered, those whose credentials have been revoked since."""
        here = set(present)
        self._grants = {name: grant for name, grant in self._grants.items() if name in here}
        state = self._state
        return [n for n, grant in self._grants.items() if state is not None and state.is_revoked(n, grant.issued)]

    def refresh(self) -> bool:
        """Look whether another process changed what is remembered; returns whether it did."""
        try:
            return self._state is not None and self._state.refresh()
        except UsageError as error:
            log.error("%s; what was read before stays in force", error)
            return False

    # -- inside ------------------------------------------------------------------------------------------------

    def _check_place(self, url: str, peer: str) -> None:
        """The URL, as far as it can be judged by its spelling; a name is judged when it is dialled."""
        parts = urlsplit(url)
        host = parts.hostname or ""
        if literal_ip(host) and (flaw := self._guard.flaw(host, local=is_loopback(peer))):
            raise NotPermitted(f"worker_name: {host} {flaw}")
        if host.lower() == "localhost" and not is_loopback(peer):
            raise NotPermitted("worker_name: localhost is loopback, and the child is on another machine")
        if self.in_force and parts.scheme == "http" and not self._cleartext and not is_loopback(host):
            raise NotPermitted(
                f"worker_name: {url[:100]} is not https; give the child `tls`, or set `security.cleartext` on this node"
            )

    def _check_worker(self, url: str, peer: str) -> None:
        host = urlsplit(url).hostname or ""
        if not self._tokenless:
            raise InvalidToken(
                "no token; to take in FastChat's own workers, set `security.tokenless_workers` and `allow`"
            )
        if not self._guard.permits(peer):
            raise NotPermitted(f"{peer} is not in `security.allow` of this node")
        if literal_ip(host) and not self._guard.permits(host):
            raise NotPermitted(f"worker_name: {host} is not in `security.allow` of this node")


def _user(message: Registration) -> str:
    """Tells one process from another: a child that did not hear our answer may use its token again, nobody else."""
    return hashlib.sha256(f"{message.instance}:{message.secret}".encode()).hexdigest()


def _models(message: Registration) -> list[str]:
    names = [model.name for model in message.models or ()]
    return names + (message.worker_status.model_names if message.worker_status else [])


def _check_models(grant: Grant, models: Iterable[str]) -> None:
    if grant.models is None:
        return
    outside = sorted(set(models) - grant.models)
    if outside:
        shown = ", ".join(outside[:10]) + (", ..." if len(outside) > 10 else "")
        raise NotPermitted(f'"{grant.node}" may not serve {shown}: its {grant.title} is bound to other models')
