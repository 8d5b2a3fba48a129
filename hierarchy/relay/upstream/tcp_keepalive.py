"""Finding out that the other end of a busy connection is gone: its machine, or the path to it.

Where nothing is in flight, TCP's keep-alive probes find it. Where something is, no probe is sent, and the sign is bytes
that are not acknowledged. TCP_USER_TIMEOUT acts on them, but also ends a connection whose peer is alive and does not
read for that time, as a slow client does (Linux, tcp_timer.c, tcp_probe_timer). So only the end that sends requests
sets it, and the end that sends responses reads TCP_INFO.

Source: tcp(7); struct tcp_info in linux/tcp.h, whose beginning has not changed since Linux 2.6.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from typing import Any

PROBE_AFTER_S, PROBE_EVERY_S, PROBES = 5, 2, 3  # a dead peer is found after 11 s
DEAD_MS = 11_000
_TCP_INFO = struct.Struct("=8B13I")
_UNACKED, _LAST_ACK = 8 + 4, 8 + 12  # fields: segments in flight; milliseconds since an ACK came


def watch_peer(transport: asyncio.BaseTransport, *, sends_responses: bool) -> None:
    """Let the kernel find out when the peer is gone, as far as this system can."""
    sock = _tcp_socket(transport)
    if sock is None:
        return
    idle = getattr(socket, "TCP_KEEPIDLE", getattr(socket, "TCP_KEEPALIVE", None))  # Linux, macOS
    options: list[tuple[int, Any, int]] = [
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        (socket.IPPROTO_TCP, idle, PROBE_AFTER_S),
        (socket.IPPROTO_TCP, getattr(socket, "TCP_KEEPINTVL", None), PROBE_EVERY_S),
        (socket.IPPROTO_TCP, getattr(socket, "TCP_KEEPCNT", None), PROBES),
    ]
    if not sends_responses:
        options.append((socket.IPPROTO_TCP, getattr(socket, "TCP_USER_TIMEOUT", None), DEAD_MS))
    for level, option, value in options:
        if option is not None:
            with contextlib.suppress(OSError):  # a refinement: idle connections are pinged besides
                sock.setsockopt(level, option, value)


def unacknowledged_s(transport: asyncio.BaseTransport) -> float:
    """For how long nothing in flight has been acknowledged; 0 if nothing is in flight, or the system cannot tell."""
    sock = _tcp_socket(transport)
    option = getattr(socket, "TCP_INFO", None)
    if sock is None or option is None:
        return 0.0
    try:
        fields = _TCP_INFO.unpack(sock.getsockopt(socket.IPPROTO_TCP, option, _TCP_INFO.size))
    except (OSError, struct.error):
        return 0.0
    return fields[_LAST_ACK] / 1000 if fields[_UNACKED] else 0.0


def _tcp_socket(transport: asyncio.BaseTransport) -> Any:
    sock = transport.get_extra_info("socket")
    return sock if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6) else None
