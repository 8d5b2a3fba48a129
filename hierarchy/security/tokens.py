"""The tree key, and what is signed with it: join tokens, used once, and the credentials that replace them.

    tree key ──HMAC──▶ the key of each parent ──HS256──▶ tokens and credentials of that parent's children

A parent needs only its own key, and cannot sign credentials for the rest of the tree with it. Tokens are JSON Web
Tokens (RFC 7519). Claims: sub (the child's name), aud (the parent's), exp, iat, jti, kind, models if restricted,
labels if bound, and in a credential since: when the join token was issued from which it comes, whatever renewed it
later.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import hashlib
import hmac
import secrets
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import msgspec

from hierarchy.errors import InvalidToken, UsageError
from hierarchy.labels import LabelSet, check
from hierarchy.security.signed import Unreadable, WrongKey, read_unverified, sign, verify

KEY_BYTES = 32
#: In the second half of this time, a registration gets a new credential. So only a node that was away for 45 days or
#: more may need a new token.
CREDENTIAL_S = 90 * 86400.0
MAX_TOKEN = 16 * 1024  # characters
NOT_A_TOKEN = "this is not a token; make one with: hierarchy token create"
Kind = Literal["join", "credential"]
_TITLES: dict[Kind, str] = {"join": "join token", "credential": "credential"}


class _Claims(msgspec.Struct):
    """The payload, whose types msgspec checks."""

    sub: str
    aud: str
    exp: float
    iat: float
    jti: str
    kind: Kind
    models: list[str] | None = None
    since: float | None = None
    labels: dict[str, str] | None = None


@dataclass(frozen=True)
class Grant:
    """What a token or credential allows."""

    kind: Kind
    node: str  # the child's name
    parent: str  # the parent's name
    identity: str  # random; the same in a token and in the credentials that replace it
    issued: float  # Unix seconds
    expires: float  # Unix seconds
    since: float  # Unix seconds; when the join token was issued that began it. A revocation voids what began before it
    old_key: bool  # signed with an accepted key, not with the one that signs now
    models: frozenset[str] | None  # the models the child may serve; None for any
    labels: LabelSet | None = None  # that all below the child has; None for none

    @property
    def title(self) -> str:
        """`join token` or `credential`, for messages."""
        return _TITLES[self.kind]


def lifetime(token: str) -> tuple[float, float] | None:
    """When a token or credential was issued and when it expires, in Unix seconds; its signature is not checked.

    Returns None if it is not readable: what a child stores may come from a parent of a later release.
    """
    try:
        claims = msgspec.convert(read_unverified(token), _Claims)
    except (Unreadable, msgspec.ValidationError):
        return None
    return claims.iat, claims.exp


def create_tree_key() -> str:
    """A key for a new tree."""
    return "tree:" + _encoded(secrets.token_bytes(KEY_BYTES))


def parent_key(text: str, parent: str) -> bytes:
    """The key with which `parent` signs. text: the tree key, or the parent's own from `derive_parent_key`.

    Raises:
        UsageError: it is not such a key, or it is the key of another node.
    """
    kind, _, rest = text.partition(":")
    if kind == "tree":
        return hmac.digest(_decoded(rest), b"parent:" + parent.encode(), hashlib.sha256)
    name, _, key = rest.partition(":")
    if kind == "node":
        if name != parent:
            raise UsageError(f'this is the key of node "{name}", and this node is "{parent}"; each needs its own')
        return _decoded(key)
    raise UsageError("this is not a tree key; make one with: hierarchy token key --out tree.key")


def derive_parent_key(tree_key: str, parent: str) -> str:
    """The key for `parent` alone, to be copied to its machine. Raises `UsageError`."""
    return f"node:{parent}:{_encoded(parent_key(tree_key, parent))}"


def _encoded(key: bytes) -> str:
    return base64.urlsafe_b64encode(key).decode().rstrip("=")


def _decoded(text: str) -> bytes:
    try:
        key = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != KEY_BYTES:
        raise UsageError("this key is damaged: its length is wrong; copy it again")
    return key


class Signer:
    """Signs and checks the tokens and credentials of one parent's children."""

    def __init__(
        self, parent: str, key: bytes, now: Callable[[], float] = time.time, accepted: Iterable[bytes] = ()
    ) -> None:
        """
        Args:
            parent: its name.
            key: from `parent_key`; it signs.
            now: Unix seconds.
            accepted: further keys whose signatures are valid, while the tree key is replaced.
        """
        self.parent = parent
        self._key = key
        self._accepted = tuple(accepted)
        self._now = now

    def join_token(
        self, node: str, ttl_s: float, models: Iterable[str] | None = None, labels: LabelSet | None = None
    ) -> str:
        """A token with which the node `node` can join once, within `ttl_s` seconds.

        models: None for any. labels: that all below it has; None for none.
        """
        return self._sign("join", node, secrets.token_urlsafe(16), ttl_s, models, labels=labels)

    def credential(self, grant: Grant) -> str:
        """A credential that replaces the token or older credential that a child showed."""
        return self._sign(
            "credential", grant.node, grant.identity, CREDENTIAL_S, grant.models, grant.since, grant.labels
        )

    def renewed(self, grant: Grant) -> Grant:
        """What the credential allows that replaces what a child showed."""
        return dataclasses.replace(grant, kind="credential", expires=self._now() + CREDENTIAL_S, old_key=False)

    def needs_renewal(self, grant: Grant) -> bool:
        """Whether the child should get a new credential."""
        return grant.kind == "join" or grant.old_key or grant.expires - self._now() < CREDENTIAL_S / 2

    def check(self, token: str) -> Grant:
        """What a token or credential allows.

        Raises:
            InvalidToken: it was not signed for this parent, or it has expired.
        """
        if len(token) > MAX_TOKEN or not token.isascii():
            raise InvalidToken(NOT_A_TOKEN)
        try:
            payload, key_number = verify(token, (self._key, *self._accepted), self.parent)
            claims = msgspec.convert(payload, _Claims)
            labels = None if claims.labels is None else check(claims.labels, several=True)
        except WrongKey:
            raise InvalidToken(
                f'the token was signed with another key, or for another parent than "{self.parent}"'
            ) from None
        except (Unreadable, ValueError):  # msgspec's errors, too
            raise InvalidToken(NOT_A_TOKEN) from None
        if not self._now() < claims.exp:
            raise InvalidToken(
                f'the {_TITLES[claims.kind]} of "{claims.sub}" has expired; make a new one: hierarchy token create'
            )
        models = None if claims.models is None else frozenset(claims.models)
        since = claims.iat if claims.since is None else claims.since  # earlier releases do not write it
        return Grant(
            claims.kind,
            claims.sub,
            claims.aud,
            claims.jti,
            claims.iat,
            claims.exp,
            since,
            key_number > 0,
            models,
            labels,
        )

    def _sign(
        self,
        kind: Kind,
        node: str,
        identity: str,
        ttl_s: float,
        models: Iterable[str] | None,
        since: float | None = None,
        labels: LabelSet | None = None,
    ) -> str:
        now = self._now()
        claims: dict[str, object] = {
            "sub": node, "aud": self.parent, "iat": now, "exp": now + ttl_s, "jti": identity, "kind": kind,
        }  # fmt: skip
        if since is not None:
            claims["since"] = since
        if models is not None:
            claims["models"] = sorted(models)
        if labels is not None:
            claims["labels"] = dict(labels)
        return sign(claims, self._key)
