"""The bytes with which a child offers a connection to its parent, and those of the parent's response. Pure.

    child    GET /link, Upgrade: hierarchy-link/1; the child's name, instance and secret
    parent   101, and how many requests wait for a link; from now on the parent sends requests
    parent   POST /link now and then, as a ping

Source: RFC 9110, section 7.8 (Upgrade).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from hierarchy.errors import BadRequest
from hierarchy.http.request_head import AUTH, Fields, named_by_connection

LINK_PATH: Final = b"/link"
LINK_PROTOCOL: Final = b"hierarchy-link/1"
NODE: Final = b"x-hierarchy-node"  # the name of the child
INSTANCE: Final = b"x-hierarchy-instance"  # of the child
WANTED: Final = b"x-hierarchy-wanted"  # in the 101: requests that wait for a link


def ping_request(prefix: bytes, host: bytes) -> bytes:
    """A request that a node answers at once. prefix: of its URL's path, without a slash at its end."""
    return b"POST %b%b HTTP/1.1\r\nhost: %b\r\ncontent-length: 0\r\n\r\n" % (prefix, LINK_PATH, host)


PING: Final = ping_request(b"", b"link")  # on a reverse link


@dataclass(frozen=True, slots=True)
class LinkRequest:
    """A child that offers a connection."""

    node: str  # its name
    instance: bytes
    secret: bytes  # that it gave this parent when it registered


def link_request(authority: bytes, node: bytes, instance: bytes, secret: bytes) -> bytes:
    """The head that a child sends on a new connection. authority: the parent's host and port."""
    return (
        b"GET %b HTTP/1.1\r\nhost: %b\r\nconnection: Upgrade\r\nupgrade: %b\r\n"
        b"%b: %b\r\n%b: %b\r\n%b: %b\r\n\r\n"
    ) % (LINK_PATH, authority, LINK_PROTOCOL, NODE, node, INSTANCE, instance, AUTH, secret)  # fmt: skip


def link_accepted(wanted: int) -> bytes:
    """The parent's 101. wanted: requests that still wait for a link."""
    head = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: %b\r\n%b: %d\r\n\r\n"
    return head % (LINK_PROTOCOL, WANTED, wanted)


def asks_for_link(target: bytes, fields: Fields) -> bool:
    """Whether a request with an Upgrade field offers a connection."""
    return target == LINK_PATH and any(
        name == b"upgrade" and value.strip().lower().startswith(b"hierarchy-link/") for name, value in fields
    )


def read_link_request(method: bytes, fields: Fields) -> LinkRequest:
    """The child that offers a connection.

    Raises:
        BadRequest: it is not a valid request for a link, or one of a later version.
    """
    found = dict(fields)
    if method != b"GET" or b"upgrade" not in named_by_connection(fields):
        raise BadRequest("a link is requested with GET /link and `Connection: Upgrade`")
    if b"transfer-encoding" in found or found.get(b"content-length", b"0") != b"0":
        raise BadRequest("a request for a link has no body")
    if found.get(b"upgrade", b"").strip().lower() != LINK_PROTOCOL:
        raise BadRequest(f"only {LINK_PROTOCOL.decode()} is supported here")
    return LinkRequest(found.get(NODE, b"").decode("latin-1"), found.get(INSTANCE, b""), found.get(AUTH, b""))
