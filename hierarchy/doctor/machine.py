"""What the machine itself allows: file descriptors, its addresses, a proxy in the environment."""

from __future__ import annotations

import errno
import resource
import socket
from collections.abc import Iterable, Mapping

from hierarchy.config.address import Address, is_wildcard, join_address
from hierarchy.doctor.finding import Finding, fail, ok, warn
from hierarchy.uplink.dial import Proxy

FEW_FILES = 4096  # descriptors; a stream needs two, so fewer allow less than 2,000 streams
PROXIES = ("http_proxy", "https_proxy", "all_proxy")


def check_files(soft: int, hard: int) -> Finding:
    """The limit of open files, as `resource.getrlimit(RLIMIT_NOFILE)` tells it."""
    if soft == resource.RLIM_INFINITY:
        return ok("files", "no limit")
    what = f"{soft} open files: some {max(soft - 64, 0) // 2} streams at once"
    if soft >= FEW_FILES:
        return ok("files", what)
    most = "" if hard == resource.RLIM_INFINITY else f" (this user may go up to {hard})"
    return warn("files", what, f"raise it: LimitNOFILE in the service's unit, or ulimit -n{most}")


def check_proxy(proxy: Proxy | None, environ: Mapping[str, str]) -> Finding:
    """proxy: the one by which this node goes to its parent. Where it goes by none, a command such as curl may."""
    if proxy is not None:
        return ok("proxy", f"this node goes to its parent through {join_address((proxy.host, proxy.port))}")
    found = [name for name in environ if name.lower() in PROXIES and environ[name]]
    if not found:
        return ok("proxy", "none in the environment")
    what = f"{', '.join(sorted(found))} in the environment; this node dials its parent directly all the same"
    mend = "test with curl --noproxy '*', which does as the node does; or name the proxy: `proxy`"
    return warn("proxy", what, mend)


def check_listen(addresses: Iterable[Address], running: str) -> list[Finding]:
    """Can this machine listen there? running: the node's name if it was found to run already, else empty."""
    return [_check_listen(address, running) for address in addresses]


def _check_listen(address: Address, running: str) -> Finding:
    host, port = address
    where = join_address(address)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        words = (error.strerror if isinstance(error, OSError) else "") or str(error)
        return fail("listen", f"{where}: {words}", "check the host name in `listen`")
    problem: OSError | None = None
    for family, _, _, _, place in found:
        with socket.socket(family, socket.SOCK_STREAM) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind(place)
            except OSError as error:
                problem = error
            else:
                return ok("listen", f"{where} is free")
    assert problem is not None, "a name that resolves has an address"
    if problem.errno == errno.EADDRINUSE:
        if running:
            return ok("listen", f"{where} is taken by {running}, which runs already")
        return fail("listen", f"{where} is taken by another process", "stop that one, or choose another port")
    if problem.errno == errno.EADDRNOTAVAIL:
        kind = "interface" if is_wildcard(host) else "address"
        return fail("listen", f"{where}: this machine has no such {kind}", "is this the machine that the node is for?")
    return fail("listen", f"{where}: {problem.strerror}", "check `listen`")
