"""Whether a child is at the URL that it registers, and who has to make way there.

A node that registers is asked at its URL who it is: `GET /health` with the secret of its registration. Where tokens are
in force, a node that does not show there that it is itself may name its own address only, so that it cannot point this
node at others. Of two that claim one URL, the one that is there has it: so no other child can keep the URL of a site
that was restarted.
"""

from __future__ import annotations

import logging

import httpx
import msgspec

from hierarchy.config.address import canonical_host, is_loopback, literal_ip, place_of
from hierarchy.errors import ChildFailed
from hierarchy.registry import Registry
from hierarchy.registry.admission import ANSWERS, NO_CLAIM, OWNS, UNPROVEN, Claim, child_name, rivals
from hierarchy.registry.child import Child
from hierarchy.runtime import awake
from hierarchy.runtime.fetch import fetch
from hierarchy.security.dial_guard import DialGuard, GuardedTransport
from hierarchy.security.registration_policy import RegistrationPolicy
from hierarchy.wire.checks import check_node_name, check_secret
from hierarchy.wire.messages import Registration

DIAL_BACK_S = 2.0  # in which a child must be reached at its own URL, and in which its host must be resolved
MAX_HEALTH_BYTES = 64 * 1024  # of what is there
log = logging.getLogger("hierarchy.security")


class UrlClaims:
    """The URLs of one node's children."""

    def __init__(self, registry: Registry, policy: RegistrationPolicy, guard: DialGuard) -> None:
        self._registry = registry
        self._policy = policy
        self._guard = guard
        self._transport: httpx.AsyncBaseTransport | None = None

    def start(self, transport: httpx.AsyncBaseTransport) -> None:
        """Nothing is dialled before. transport: without a proxy; the addresses are checked here."""
        self._transport = transport

    def client(self, *, local: bool) -> httpx.AsyncClient | None:
        """For requests to the URL that a child registered; None before `start`. local: on this machine."""
        if self._transport is None:
            return None
        transport = GuardedTransport(self._transport, self._guard, local=local)
        return httpx.AsyncClient(transport=transport, trust_env=False, follow_redirects=False, timeout=None)

    async def examine(self, message: Registration, peer: str) -> tuple[Claim, list[Child]]:
        """Find out what must be known of a child's URL before it is registered.

        peer: the IP address from which the child registers.

        Returns:
            The claim, and the children at that URL that are not there any more.

        Raises:
            InvalidField: its name or secret is not allowed; nothing was dialled.
            ChildFailed: it names an address that is not its own, and is not there.
        """
        if not message.node:
            return NO_CLAIM, []
        check_node_name("node", message.node)
        check_secret("secret", message.secret)
        if message.link == "reverse":
            return Claim(reverse=True), []
        local = is_loopback(peer)
        found = Claim(addresses=await self._addresses(message.worker_name, local=local))
        claim = msgspec.structs.replace(found, proof=await self._proof(message, found, peer, local=local))
        if message.link == "auto" and claim.proof == UNPROVEN:
            return Claim(reverse=True), []
        if self._policy.in_force and claim.proof == UNPROVEN:
            self._check_own(message, claim, peer)
        if claim.proof != OWNS:
            return claim, []
        place = place_of(message.worker_name)
        present = [rival for rival in self._rivals(message, claim) if rival.place == place and not rival.declared]
        return claim, [rival for rival in present if not await self._is_there(rival)]

    async def _proof(self, message: Registration, found: Claim, peer: str, *, local: bool) -> int:
        """What the child shows at its URL. A process that was found there is not asked each time."""
        if message.link == "auto":
            if not self._policy.may_dial(message.worker_name, peer):
                return UNPROVEN
        elif known := self._known_proof(message):
            return known
        elif not self._policy.in_force and not self._rivals(message, found):
            return UNPROVEN
        if not found.addresses:
            return UNPROVEN
        return await self._ask(message.worker_name, message.instance, message.secret, local=local)

    def _known_proof(self, message: Registration) -> int:
        named = self._registry.children.get(message.node)
        for child in self._registry.directory.instances(message.node) + ([] if named is None else [named]):
            if child.is_node and child.instance == message.instance:
                is_same = child.secret == message.secret.encode() and child.url == message.worker_name.rstrip("/")
                return child.proof if is_same and self._registry.now() < child.fresh_until else UNPROVEN
        return UNPROVEN

    async def _ask(self, url: str, instance: str, secret: str, *, local: bool) -> int:
        http = self.client(local=local)
        if http is None:
            return UNPROVEN
        shown = {"x-hierarchy-auth": secret}
        try:
            answer = await fetch(
                http,
                "GET",
                f"{url.rstrip('/')}/health",
                headers=shown,
                timeout_s=DIAL_BACK_S,
                max_bytes=MAX_HEALTH_BYTES,
            )
        except (httpx.HTTPError, httpx.InvalidURL, UnicodeError):
            return UNPROVEN
        page = answer.json_or_none()
        if not (answer.is_ok and isinstance(page, dict) and instance and page.get("instance") == instance):
            return UNPROVEN
        return OWNS if secret and page.get("parent") is True else ANSWERS

    async def _addresses(self, url: str, *, local: bool) -> frozenset[str]:
        """The addresses of its host; none if they cannot be found out in time, or may not be dialled."""
        host, port, _ = place_of(url)
        try:
            async with awake.timeout(DIAL_BACK_S):
                found = await self._guard.addresses(host, port, local=local)
        except (OSError, UnicodeError, TimeoutError):
            return frozenset()
        return frozenset(map(canonical_host, found))

    def _check_own(self, message: Registration, claim: Claim, peer: str) -> None:
        """Raise `ChildFailed` if the URL leads to another machine than the child's, as far as that is known."""
        if is_loopback(peer) or self._guard.allow or literal_ip(peer) is None:
            return
        if claim.addresses and canonical_host(peer) not in claim.addresses:
            raise ChildFailed(
                f"this node does not find {message.node!r} at {message.worker_name}, and that is not the address "
                f"{peer} from which it registers: make it reachable there, let it dial with `link: auto`, or list its "
                "address in `security.allow` here"
            )

    def _rivals(self, message: Registration, claim: Claim) -> list[Child]:
        """The other live children there."""
        registry = self._registry
        now, name = registry.now(), child_name(message, registry.children, registry.directory)
        found = rivals(registry.directory, name, message, claim)
        return [one for one in found if one.left_at is None and now < one.fresh_until]

    async def _is_there(self, rival: Child) -> bool:
        found = await self._ask(rival.url, rival.instance, rival.secret.decode("latin-1"), local=rival.local)
        return found == OWNS
