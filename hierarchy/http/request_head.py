"""Heads of requests: what is refused, what goes down. Pure functions of bytes.

Source: RFC 9110, section 7.6.1 (hop-by-hop fields), RFC 9112, sections 3.2 (request targets and Host) and 6.3 (how
long a message is).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote

import httptools

from hierarchy.balancing.lent_attempts import UNSAID
from hierarchy.errors import BadRequest, HierarchyError
from hierarchy.http.dialect import OPENAI, PATHS, TRANSLATED, Dialect
from hierarchy.http.multipart import boundary_of
from hierarchy.security.keys import ANYONE, Caller
from hierarchy.wire.status import Api

Fields = list[tuple[bytes, bytes]]  # names in lower case, as they came otherwise

HOP_BY_HOP: Final = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
# Each hop writes these itself: the body goes down collected, with one length, to another host.
_REWRITTEN: Final = HOP_BY_HOP | {b"content-length", b"expect", b"host"}
OURS: Final = b"x-hierarchy-"
PATH, AUTH, SEQ, MODEL, HOPS = (OURS + name for name in (b"path", b"auth", b"seq", b"model", b"hops"))
ATTEMPTS, DEADLINE = OURS + b"attempts", OURS + b"deadline-ms"
UNSPENT, RETRIED = OURS + b"unspent", OURS + b"retried"  # of answers to a parent
#: routes of longer targets are not remembered, so that nobody can fill the memory with them
MAX_TARGET_KEPT: Final = 256

_LOOKED_AT: Final = frozenset(
    {
        AUTH,
        SEQ,
        MODEL,
        HOPS,
        ATTEMPTS,
        DEADLINE,
        b"authorization",
        b"content-length",
        b"content-type",
        b"expect",
        b"host",
        b"transfer-encoding",
        b"x-api-key",
    }
)
_HOST: Final = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9\-._~%!$&'()*+,;=]*)(?::[0-9]*)?").fullmatch
_LANE_PATH: Final = re.compile(rb"/v1/[A-Za-z0-9_\-./:@]+").fullmatch


class HeadError(HierarchyError):
    """A child's answer begins with something that is no HTTP head, or one whose length cannot be told."""


@dataclass(frozen=True, slots=True, eq=False)
class RequestHead:
    """The meaning of the head of a request that the lane serves."""

    dialect: Dialect
    target: bytes  # for the child
    fields: bytes  # that are forwarded, ready to be written
    http10: bool
    keep_alive: bool
    expects: bool  # the client waits for a 100 before it sends the body
    within_limits: bool  # of size, as they are for everyone but a parent
    # What a parent says; believed only if `auth` is the secret that this node gave it.
    auth: bytes
    model: str
    hops: int
    caller: Caller  # the client, unless the request came from a parent
    attempts: int = UNSAID  # lent by a parent
    boundary: bytes = b""  # of a multipart form
    translated: bool = False  # an engine of the other API family can serve it too
    native: Api | None = None  # the family whose engines can serve the request unchanged

    @classmethod
    def from_fields(
        cls,
        route: tuple[Dialect, bytes],
        fields: Fields,
        found: dict[bytes, bytes],
        *,
        http10: bool,
        keep_alive: bool,
        within_limits: bool,
        caller: Caller = ANYONE,
        stripped: frozenset[bytes] = frozenset(),
    ) -> RequestHead:
        """The meaning of a parsed head.

        route: from `lane_path`. found: from `check_request`. stripped: names of fields that are not forwarded.
        """
        boundary = boundary_of(found.get(b"content-type", b""))
        attempts = decimal(found.get(ATTEMPTS, b""))
        return cls(
            *route,
            request_fields(fields, stripped),
            http10,
            keep_alive and not http10,
            not http10 and found.get(b"expect", b"").lower() == b"100-continue",
            within_limits,
            found.get(AUTH, b""),
            unquote(found.get(MODEL, b"").decode("ascii", "replace")),
            max(0, decimal(found.get(HOPS, b""))),
            caller,
            max(1, attempts) if attempts >= 0 else UNSAID,
            boundary,
            route[1].partition(b"?")[0] in TRANSLATED and not boundary,
            # A worker's refusal of these has to be translated even for FastChat's clients; see `dialect`.
            None if route[0].form == "object" else route[0].api,
        )


def decimal(value: bytes, max_digits: int = 18) -> int:
    """A field's value as a number: decimal digits and nothing else, which fit into 64 bits; -1 for anything else."""
    return int(value) if value.isdigit() and len(value) <= max_digits else -1


def number_at(data: bytes, begin: int, most: int) -> tuple[int, int]:
    """The decimal number of at most `most` digits at `begin`, and where it ends; (-1, begin) if there is none."""
    at, number, end = begin, 0, min(begin + most, len(data))
    while at < end:
        digit = data[at] - 48
        if digit < 0 or digit > 9:
            break
        number = 10 * number + digit
        at += 1
    return (number, at) if at > begin else (-1, begin)


def named_by_connection(fields: Fields) -> set[bytes]:
    """The names that the Connection field lists, in lower case."""
    values = [value for name, value in fields if name == b"connection"]
    return {token.strip().lower() for value in values for token in value.split(b",")} if values else set()


def request_fields(fields: Fields, stripped: frozenset[bytes] = frozenset()) -> bytes:
    """The client's fields that go on to a child, ready to be written: hop-by-hop ones and all of ours taken out.

    stripped: names of others that are for this node alone.
    """
    drop = named_by_connection(fields) | _REWRITTEN | stripped
    return b"".join(
        [b"%b: %b\r\n" % field for field in fields if field[0] not in drop and not field[0].startswith(OURS)]
    )


def request_opening(target: bytes, authority: bytes, fields: bytes, ours: Sequence[tuple[bytes, bytes]] = ()) -> bytes:
    """The head of a POST to a child, up to where the value of its last field follows.

    fields: from `request_fields`. ours: the x-hierarchy-* fields; the last one's value is what follows, and the length
    behind it. Without any, the length follows.
    """
    lines = b"".join([b"%b: %b\r\n" % field for field in ours]).removesuffix(b"\r\n")
    return b"POST %b HTTP/1.1\r\nhost: %b\r\n%b%b" % (target, authority, fields, lines or b"content-length: ")


def check_request(target: bytes, version: str, fields: Fields) -> dict[bytes, bytes]:
    """What the parser lets pass and nobody should send. Returns those fields that the lane itself looks at, by name.

    Raises:
        BadRequest: a version, target, Host or Transfer-Encoding that two readers could understand in two ways.
    """
    found: dict[bytes, bytes] = {}
    for name, value in fields:
        if name in _LOOKED_AT:
            if name in found and name in (b"host", b"transfer-encoding"):
                raise BadRequest(f"the field {name.decode()} stands twice in the request's head")
            found[name] = value
    if version != "1.1" and version != "1.0":
        raise BadRequest(f"HTTP/{version} is not spoken here; use HTTP/1.1")
    host = found.get(b"host")
    if host is None:
        if version == "1.1":
            raise BadRequest("the request has no Host field, which HTTP/1.1 asks for")
    elif not _HOST(host.rstrip(b" \t")):
        raise BadRequest(f"the Host field {host[:80]!r} names no host")
    coding = found.get(b"transfer-encoding")
    if coding is not None and (version != "1.1" or coding.rstrip(b" \t").lower() != b"chunked"):
        raise BadRequest(
            f"transfer-encoding {coding[:40]!r} in HTTP/{version} is not understood; only chunked is, in 1.1"
        )
    if b"#" in target:
        raise BadRequest(f"the request target {target[:80]!r} has a fragment, which is the client's own")
    return found


def lane_path(target: bytes) -> tuple[Dialect, bytes] | None:
    """Is this request target one that the lane serves? Returns its dialect and the target for the child."""
    return _lane_path(target) if len(target) <= MAX_TARGET_KEPT else _lane_path.__wrapped__(target)


@functools.lru_cache(maxsize=1024)
def _lane_path(target: bytes) -> tuple[Dialect, bytes] | None:
    target = origin_form(target) or b""
    path = target.partition(b"?")[0]
    if path in PATHS:
        return PATHS[path], target
    if _LANE_PATH(path) and b"//" not in path and not {b".", b".."} & set(path.split(b"/")):
        return OPENAI, target
    return None


def origin_form(target: bytes) -> bytes | None:
    """A target without its scheme and authority, if it has any (absolute-form); None if it is no URL."""
    if target.startswith(b"/") or target == b"*":
        return target
    try:
        url: Any = httptools.parse_url(target)  # its stub does not say that any part may be missing
    except httptools.HttpParserInvalidURLError:
        return None
    return (url.path or b"/") + (b"?" + url.query if url.query else b"")


def without_upgrade(method: bytes, target: bytes, version: str, fields: Fields) -> bytes:
    """The head of a request as if it had not asked for another protocol."""
    drop = {b"upgrade", b"http2-settings"}
    lines = [b"%b %b HTTP/%b\r\n" % (method, target, version.encode())]
    for name, value in fields:
        if name == b"connection":
            tokens = [token.strip() for token in value.split(b",")]
            value = b", ".join(token for token in tokens if token.lower() not in drop)
        if name not in drop:
            lines.append(b"%b: %b\r\n" % (name, value))
    return b"".join(lines) + b"\r\n"


def head_end(data: bytes) -> int:
    """Where the head at the start of `data` ends (after its empty line); -1 if not yet."""
    end = data.find(b"\r\n\r\n")
    return end + 4 if end >= 0 else -1
