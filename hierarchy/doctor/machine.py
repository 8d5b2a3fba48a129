"""What the machine itself allows: open files, listening at the node's addresses, and a proxy in the environment."""

from __future__ import annotations

import resource
from collections.abc import Iterable, Mapping

from hierarchy.config.address import Address, join_address
from hierarchy.doctor.finding import Finding, fail, ok, warn
from hierarchy.runtime import listening
from hierarchy.uplink.dial import Proxy

FEW_FILES = 4096  # enough for some 2,000 streams, each of which needs two descriptors
RESERVED_FILES = 64  # for sockets that listen, logs and connections to parents
PROXY_VARIABLES = ("http_proxy", "https_proxy", "all_proxy")


def check_files(soft: int, hard: int) -> Finding:
    """The limit of open files, as `resource.getrlimit(RLIMIT_NOFILE)` returns it."""
    if soft == resource.RLIM_INFINITY:
        return ok("files", "no limit")
    what = f"{soft} open files: about {max(soft - RESERVED_FILES, 0) // 2} streams at once"
    if soft >= FEW_FILES:
        return ok("files", what)
    maximum = "" if hard == resource.RLIM_INFINITY else f" (at most {hard} for this user)"
    return warn("files", what, f"raise it: LimitNOFILE in the service's unit, or ulimit -n{maximum}")


def check_proxy(proxy: Proxy | None, environ: Mapping[str, str]) -> Finding:
    """Whether the node and commands such as curl use the same proxy. proxy: on the node's path to its parent."""
    if proxy is not None:
        return ok("proxy", f"this node dials its parent through {join_address((proxy.host, proxy.port))}")
    found = [name for name in environ if name.lower() in PROXY_VARIABLES and environ[name]]
    if not found:
        return ok("proxy", "none in the environment")
    what = f"{', '.join(sorted(found))} in the environment, but this node dials its parent directly"
    hint = "test with curl --noproxy '*', which also dials directly; or set `proxy` at this node"
    return warn("proxy", what, hint)


def check_listen(addresses: Iterable[Address], running: Mapping[Address, str]) -> list[Finding]:
    """Whether this machine can listen at these addresses.

    Args:
        running: where this node runs already, and how messages name it there.
    """
    return [_check_listen(address, running.get(address, "")) for address in addresses]


def _check_listen(address: Address, running: str) -> Finding:
    where = join_address(address)
    try:
        listening.check_listen(*address)
    except listening.CannotListen as error:
        if error.is_taken and running:
            return ok("listen", f"{where} is used by {running}, which is running already")
        what = f"{where} is used by another process" if error.is_taken else f"{where}: {error}"
        return fail("listen", what, error.hint)
    return ok("listen", f"{where} is free")
