"""What a web page may not do. A browser sends a page's requests from inside the network in which its user is.

    page of another origin ──POST──▶ refused by its Origin, where no API key shows that the request is meant
    page behind a name that was made to point here (DNS rebinding) ──▶ refused by its Host, at a node without keys
    page that registers a worker, reports or deregisters ──▶ refused at every node, since no child is a page

Browsers let no page choose these fields. Programs that are no browsers send neither Origin nor Sec-Fetch-Site.

Source: the Fetch standard, "`Origin` header"; W3C, Fetch Metadata Request Headers; RFC 6761 and RFC 6762 (special-use
names); RFC 8375 (home.arpa).
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

from hierarchy.config.address import host_of, literal_ip
from hierarchy.config.models import NodeConfig
from hierarchy.errors import ForeignOrigin, UnknownHost

HOST, ORIGIN, SITE = b"host", b"origin", b"sec-fetch-site"
_SAFE: Final = (b"GET", b"HEAD", b"OPTIONS")  # they change nothing, and no page of another origin can read the answer
_OF_NO_PAGE: Final = (b"", b"none")  # values of Sec-Fetch-Site: no browser; the user, by the address bar
_PORTS: Final = {"http": ":80", "https": ":443"}
#: nobody on the Internet can make a name below these point at an address of their choice; nor a name without a dot
_PRIVATE: Final = (".localhost", ".local", ".internal", ".home.arpa", ".test")


class Browsers:
    """The rules for pages at one node. It has no state.

    Attributes:
        names: hosts at which this node is reached, beside IP addresses and names that only a local network has.
    """

    def __init__(self, config: NodeConfig) -> None:
        addresses = (*config.listen, *config.admin)
        own = [host for host, _ in addresses if literal_ip(host) is None]
        own += [host_of(url) for url in (config.advertise, *config.urls) if url]
        self.names = frozenset(name.lower() for name in (*own, socket.gethostname()))
        self._allowed = tuple(name.lower() for name in config.settings.security.allowed_hosts)

    def check_client(self, method: bytes, fields: Mapping[bytes, bytes]) -> None:
        """Check a request to a path that is open to everyone who reaches this node.

        Raises:
            ForeignOrigin: it comes from a page of another origin.
            UnknownHost: it is for a host that this node does not know as its own.
        """
        host = fields.get(HOST, b"").decode("latin-1").strip().lower()
        if method not in _SAFE:
            self._check_origin(fields, host)
        if host and not self.is_own(host):
            raise UnknownHost(
                f"this node has no API keys and is not known as {host[:80]!r}; add the name to "
                "`security.allowed_hosts`, or set `security.api_keys`"
            )

    def check_child(self, fields: Mapping[bytes, bytes]) -> None:
        """Check what children send to the node itself. Raises `ForeignOrigin` if a page sent it."""
        origin = fields.get(ORIGIN, b"")
        if origin or fields.get(SITE, b"").strip() not in _OF_NO_PAGE:
            raise ForeignOrigin(f"a web page{_at(origin)} may not register, report or deregister")

    def is_own(self, host: str) -> bool:
        """Whether a Host field, in lower case, names this node."""
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
        name = name.rstrip(":").strip("[]").rstrip(".")
        if "." not in name or literal_ip(name) is not None or name in self.names or name.endswith(_PRIVATE):
            return True
        return any(name == own or (own.startswith("*.") and name.endswith(own[1:])) for own in self._allowed)

    def _check_origin(self, fields: Mapping[bytes, bytes], host: str) -> None:
        site, origin = fields.get(SITE, b"").strip(), fields.get(ORIGIN, b"")
        if site == b"same-origin":  # says the browser; a proxy in between may have changed Host
            return
        if site == b"cross-site" or (origin and not is_same(origin.decode("latin-1"), host)):
            raise ForeignOrigin(
                f"a web page of another origin{_at(origin)} may not use a node without API keys; set "
                "`security.api_keys`, or serve the page from this node's own address"
            )


def is_same(origin: str, host: str) -> bool:
    """Whether an Origin has the host and port of a Host field. A scheme is not compared: TLS may end at a proxy."""
    try:
        parts = urlsplit(origin.strip().lower())
    except ValueError:
        return False
    port = _PORTS.get(parts.scheme)
    return port is not None and parts.netloc.removesuffix(port) == host.removesuffix(port)


def _at(origin: bytes) -> str:
    return f" ({origin[:80].decode('latin-1')})" if origin else ""
