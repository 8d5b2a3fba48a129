"""The head of a request: what is refused, what it means, and what of it is forwarded. Pure functions of bytes.

Source: RFC 9110, section 7.6.1 (hop-by-hop fields); RFC 9112, sections 3.2 (request targets and Host) and 6.3 (the
length of a message).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote

import httptools

from hierarchy.balancing.lent_attempts import DEFAULT_LENT
from hierarchy.errors import BadRequest, HierarchyError, RequestError
from hierarchy.http.content_type import boundary_of
from hierarchy.http.dialect import OPENAI, PATHS, TRANSLATED, Dialect
from hierarchy.http.framing import FIELD_PREFIX
from hierarchy.http.requirement import Required, required
from hierarchy.labels import Requirement
from hierarchy.security.caller import ANYONE, Caller
from hierarchy.wire.status import Api

Fields = list[tuple[bytes, bytes]]  # names in lower case; values, order and repetitions as received

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
# Each node writes these itself: the body is forwarded whole, with one length, to another host.
_REWRITTEN: Final = HOP_BY_HOP | {b"content-length", b"expect", b"host"}
# Of requests from a parent:
AUTH: Final = b"x-hierarchy-auth"  # the secret of this child
SEQ: Final = b"x-hierarchy-seq"  # the number of the request, counted by the parent
MODEL: Final = b"x-hierarchy-model"  # after aliases, percent-encoded
HOPS: Final = b"x-hierarchy-hops"  # nodes that the request passed
ATTEMPTS: Final = b"x-hierarchy-attempts"  # lent to this child
OTHERS: Final = b"x-hierarchy-others"  # 1: another child, or a node above, could take the request; 0: none could
PREFIX: Final = b"x-hierarchy-prefix"  # what the prompt begins with, see `prefix.header`
DEADLINE: Final = b"x-hierarchy-deadline-ms"  # milliseconds left for the whole request
REQUIRE: Final = b"x-hierarchy-require"  # labels that the request requires; of clients, too, see `requirement`
# Of clients:
SESSION: Final = b"x-session-id"  # of a conversation, as the client knows it
# Of responses:
PATH: Final = b"x-hierarchy-path"  # names from the child down to the engine
UNSPENT: Final = b"x-hierarchy-unspent"  # attempts that come back with a failure, to a parent
RETRIED: Final = b"x-hierarchy-retried"  # attempts after the first one, to a parent

MAX_TARGET_CACHED: Final = 256  # bytes; the route of a longer target is not cached, so clients cannot fill the memory
_USED_HERE: Final = frozenset(
    {
        AUTH,
        SEQ,
        MODEL,
        HOPS,
        ATTEMPTS,
        OTHERS,
        PREFIX,
        DEADLINE,
        REQUIRE,
        b"authorization",
        b"content-encoding",
        b"content-length",
        b"content-type",
        b"expect",
        b"host",
        b"origin",
        b"sec-fetch-site",
        b"transfer-encoding",
        b"x-api-key",
        SESSION,
    }
)
#: readers differ in which of two they use
_ONCE: Final = frozenset({b"content-encoding", b"content-type", b"host", b"transfer-encoding"})
_HOST: Final = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9\-._~%!$&'()*+,;=]*)(?::[0-9]*)?").fullmatch
_LANE_PATH: Final = re.compile(rb"/v1/[A-Za-z0-9_\-./:@]+").fullmatch


class HeadError(HierarchyError):
    """The head of a child's response is malformed, or does not determine where the response ends."""


@dataclass(frozen=True, slots=True, eq=False)
class RequestHead:
    """The meaning of the head of a request on a lane path."""

    dialect: Dialect
    target: bytes  # path and query for the child
    fields: bytes  # those that are forwarded, ready to be written
    http10: bool
    keep_alive: bool
    expects_continue: bool  # the client waits for a 100 before it sends the body
    within_limits: bool  # the head is not larger than a client's may be; a parent's may
    # What a parent says; believed only if `auth` is the secret that this node gave it.
    auth: bytes
    model: str
    hops: int
    caller: Caller  # the client, unless the request came from a parent
    attempts: int = DEFAULT_LENT  # lent by a parent
    others: int = -1  # 1 if the parent says that others could take the request; -1: a parent of an older release
    boundary: bytes = b""  # of a multipart form
    translated: bool = False  # an engine of the other API family can serve it too
    refusal: RequestError | None = None  # why it is refused, unless a parent sends it
    session: bytes = b""  # that the client says this is part of
    require: Requirement | None = None  # of a client: by its key and its field
    required_above: Required | None = None  # as the field has it; None without one
    native: Api | None = None  # the family whose engines can serve the request unchanged; None for no family

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
        refusal: RequestError | None = None,
    ) -> RequestHead:
        """The meaning of a parsed head.

        route: from `lane_path`. found: from `check_request`. stripped: names of fields that are for this node alone.
        """
        boundary = boundary_of(found.get(b"content-type", b""))
        require, above, unmet = required(caller, found.get(REQUIRE))
        hops, attempts = decimal(found.get(HOPS, b"")), decimal(found.get(ATTEMPTS, b""))
        return cls(
            *route,
            request_fields(fields, stripped),
            http10,
            keep_alive and not http10,
            not http10 and found.get(b"expect", b"").lower() == b"100-continue",
            within_limits,
            found.get(AUTH, b""),
            unquote(found.get(MODEL, b"").decode("ascii", "replace")),
            hops if hops > 0 else 0,
            caller,
            max(1, attempts) if attempts >= 0 else DEFAULT_LENT,
            decimal(found.get(OTHERS, b""), 1),
            boundary,
            route[1].partition(b"?")[0] in TRANSLATED and not boundary,
            refusal or unmet,
            found.get(SESSION, b""),
            require,
            above,
            # On these paths even a FastChat worker's refusal has to be rewritten; see `dialect`.
            None if route[0].form == "object" else route[0].api,
        )


def decimal(value: bytes, max_digits: int = 18) -> int:
    """A field's value as a number: decimal digits and nothing else, which fit into 64 bits; -1 for anything else."""
    return int(value) if value.isdigit() and len(value) <= max_digits else -1


def number_at(data: bytes, begin: int, max_digits: int) -> tuple[int, int]:
    """The decimal number of at most `max_digits` digits at `begin`, and where it ends; (-1, begin) if there is none."""
    at, number, end = begin, 0, min(begin + max_digits, len(data))
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
    """The fields that are forwarded to a child, ready to be written: without hop-by-hop and x-hierarchy-* fields.

    stripped: names of other fields that are for this node alone.
    """
    drop = named_by_connection(fields) | _REWRITTEN | stripped
    return b"".join(
        [b"%b: %b\r\n" % field for field in fields if field[0] not in drop and not field[0].startswith(FIELD_PREFIX)]
    )


def request_opening(target: bytes, authority: bytes, fields: bytes, own: Sequence[tuple[bytes, bytes]] = ()) -> bytes:
    """The beginning of the head of a POST to a child, up to its first number, which differs for each request.

    fields: from `request_fields`. own: the x-hierarchy-* fields; the number is the value of the last one, and the
    length has to follow. Without any, the number is the length.
    """
    lines = b"".join([b"%b: %b\r\n" % field for field in own]).removesuffix(b"\r\n")
    return b"POST %b HTTP/1.1\r\nhost: %b\r\n%b%b" % (target, authority, fields, lines or b"content-length: ")


def check_request(target: bytes, version: str, fields: Fields) -> dict[bytes, bytes]:
    """Check what the parser accepts but no client should send. Returns the fields that the node itself uses, by name.

    Raises:
        BadRequest: a version, target, Host or Transfer-Encoding that two readers could understand differently.
    """
    found: dict[bytes, bytes] = {}
    for name, value in fields:
        if name in _USED_HERE:
            if name in found and name in _ONCE:
                raise BadRequest(f"the field {name.decode()} occurs twice in the request's head")
            if name == REQUIRE and name in found:
                value = found[name] + b"," + value  # each of them narrows
            found[name] = value
    if version != "1.1" and version != "1.0":
        raise BadRequest(f"HTTP/{version} is not supported; use HTTP/1.1")
    host = found.get(b"host")
    if host is None:
        if version == "1.1":
            raise BadRequest("the request has no Host field, which HTTP/1.1 requires")
    elif not _HOST(host.rstrip(b" \t")):
        raise BadRequest(f"the Host field {host[:80]!r} is not the name of a host")
    coding = found.get(b"transfer-encoding")
    if coding is not None and (version != "1.1" or coding.rstrip(b" \t").lower() != b"chunked"):
        raise BadRequest(
            f"transfer-encoding {coding[:40]!r} in HTTP/{version} is not supported; only chunked is, in HTTP/1.1"
        )
    if b"#" in target:
        raise BadRequest(f"the request target {target[:80]!r} has a fragment; leave out the part from '#' on")
    return found


def lane_path(target: bytes) -> tuple[Dialect, bytes] | None:
    """The dialect of a request target, and the target for the child; None if it is not a lane path."""
    return _lane_path(target) if len(target) <= MAX_TARGET_CACHED else _lane_path.__wrapped__(target)


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
    """A target without its scheme and authority, if it has any (absolute-form); None if it is not a URL."""
    if target.startswith(b"/") or target == b"*":
        return target
    try:
        url: Any = httptools.parse_url(target)  # its stub does not say that any part may be missing
    except httptools.HttpParserInvalidURLError:
        return None
    return (url.path or b"/") + (b"?" + url.query if url.query else b"")


def without_upgrade(method: bytes, target: bytes, version: str, fields: Fields) -> bytes:
    """The head of a request, without its request to switch protocols."""
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
    """Where the head at the start of `data` ends (behind its empty line); -1 if it is not complete."""
    end = data.find(b"\r\n\r\n")
    return end + 4 if end >= 0 else -1
