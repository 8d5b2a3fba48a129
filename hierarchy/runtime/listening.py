"""Sockets that listen at a host and port, and why they cannot."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable
from typing import Any

LACKING = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)  # this machine has no such address, or not this IP version


class CannotListen(Exception):
    """This machine cannot listen at an address. `str(error)` is the reason.

    Attributes:
        number: the kernel's error number; 0 if the host has no address.
        hint: how to fix it.
    """

    def __init__(self, reason: str, hint: str, number: int = 0) -> None:
        super().__init__(reason)
        self.hint = hint
        self.number = number

    @property
    def is_taken(self) -> bool:
        """Whether a process, which may be this node itself, listens there already."""
        return self.number == errno.EADDRINUSE


def listen(host: str, port: int, backlog: int) -> list[socket.socket]:
    """Listen at all addresses of a host (localhost has one per IP version), except those that this machine lacks.

    Args:
        port: 0 for one that the system chooses, the same at all addresses.

    Raises:
        CannotListen: at one of the other addresses it cannot.
    """
    sockets = _bound(host, port)
    try:
        for sock in sockets:
            sock.listen(backlog)
            sock.setblocking(False)
    except OSError as error:
        _close(sockets)
        raise _reason(host, port, error) from None
    return sockets


def check_listen(host: str, port: int) -> None:
    """Raise `CannotListen` if `listen` would. No connection is accepted meanwhile."""
    _close(_bound(host, port))


def is_own_address(ip: str) -> bool:
    """Whether an IP address is one of this machine's."""
    try:
        check_listen(ip, 0)
    except CannotListen:
        return False
    return True


def _bound(host: str, port: int) -> list[socket.socket]:
    sockets: list[socket.socket] = []
    lacking: OSError | None = None
    try:
        for family, address in _candidates(host, port):
            if port == 0 and sockets:
                address = (address[0], sockets[0].getsockname()[1], *address[2:])
            try:
                sockets.append(_bind(family, address))
            except OSError as error:
                if error.errno not in LACKING:
                    raise _reason(host, port, error) from None
                lacking = error
    except BaseException:
        _close(sockets)
        raise
    if not sockets:
        raise _reason(host, port, lacking)
    return sockets


def _candidates(host: str, port: int) -> list[tuple[int, Any]]:
    """(address family, address for `bind`) of each address of a host."""
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        reason = (error.strerror if isinstance(error, OSError) else "") or str(error)
        raise CannotListen(reason, "check the host name") from None
    return list(dict.fromkeys((family, address) for family, _, _, _, address in found))


def _bind(family: int, address: Any) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
    except BaseException:
        sock.close()
        raise
    return sock


def _reason(host: str, port: int, error: OSError | None) -> CannotListen:
    number = error.errno or 0 if error is not None else 0
    match number:
        case errno.EADDRINUSE:
            reason, hint = f"port {port} is used by another process", "stop that process, or choose another port"
        case errno.EACCES:
            reason, hint = "ports below 1024 need root", "choose a higher one"
        case errno.EADDRNOTAVAIL:
            reason, hint = "this machine has no such address", "is this the machine for this node?"
        case _:
            reason = error.strerror or str(error) if error is not None else "the name has no address"
            hint = f"check the address {host}"
    return CannotListen(reason, hint, number)


def _close(sockets: Iterable[socket.socket]) -> None:
    for sock in sockets:
        sock.close()
