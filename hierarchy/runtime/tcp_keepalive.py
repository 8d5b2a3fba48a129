"""What the kernel knows of the other end of a connection: whether its machine, and the path to it, are there.

Where nothing is in flight, TCP's keep-alive probes find out. Where something is, no probe is sent, and the sign is
bytes that are not acknowledged. TCP_USER_TIMEOUT acts on them, but also ends a connection whose peer is alive and does
not read for that time, as a slow client or a busy engine does (Linux, tcp_timer.c, tcp_probe_timer). So only the end
that sends requests to a node sets it; else TCP_INFO is read.

A process that hangs is not found like this: its kernel acknowledges for it.

Source: tcp(7); struct tcp_info in linux/tcp.h, whose beginning has not changed since Linux 2.6.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from typing import Any, Final, NamedTuple, Protocol

PROBE_AFTER_S, PROBE_EVERY_S, PROBES = 5, 2, 3  # a dead peer is found after 11 s
DEAD_MS = 11_000
#: a peer that acknowledges nothing for this time, while the kernel sends again, cannot be reached: four tries at least
#: on a path whose round trips take up to 0.2 s
UNREACHABLE_S: Final = 3.0
RETRIES: Final = 2  # that the kernel must have sent in vain
_TCP_INFO = struct.Struct("=8B13I")
_RETRANSMITS = 2  # field: retransmissions in a row that nothing answered
_UNACKED, _LAST_ACK = 8 + 4, 8 + 12  # fields: segments in flight; milliseconds since an ACK came


class Transport(Protocol):
    """What has a socket: asyncio's transports, and httpcore's streams."""

    def get_extra_info(self, name: str) -> Any:
        """The socket, for `socket`; None if there is none."""


class TcpState(NamedTuple):
    """What is in flight on a connection, and what the kernel heard of it."""

    in_flight: int  # segments that are not acknowledged
    retries: int  # retransmissions in a row that nothing answered
    last_ack_s: float  # since anything was acknowledged, by a keep-alive probe's answer too

    def unreachable_s(self, sent_s: float) -> float:
        """For how long the peer has acknowledged nothing of what was sent `sent_s` seconds ago; 0 if it has."""
        return min(sent_s, self.last_ack_s) if self.in_flight and self.retries >= RETRIES else 0.0


def watch_peer(transport: Transport, *, sends_responses: bool) -> None:
    """Let the kernel find out when the peer is gone, as far as this system can.

    sends_responses: it does, or sends requests to an engine; so the peer may take its time to read.
    """
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


def tcp_state(transport: Transport) -> TcpState | None:
    """What the kernel knows; None if this is not TCP, or the system cannot tell."""
    sock = _tcp_socket(transport)
    option = getattr(socket, "TCP_INFO", None)
    if sock is None or option is None:
        return None
    try:
        fields = _TCP_INFO.unpack(sock.getsockopt(socket.IPPROTO_TCP, option, _TCP_INFO.size))
    except (OSError, struct.error):
        return None
    return TcpState(fields[_UNACKED], fields[_RETRANSMITS], fields[_LAST_ACK] / 1000)


def unacknowledged_s(transport: Transport) -> float:
    """For how long nothing in flight has been acknowledged; 0 if nothing is in flight, or the system cannot tell."""
    state = tcp_state(transport)
    return state.last_ack_s if state is not None and state.in_flight else 0.0


def _tcp_socket(transport: Transport) -> Any:
    sock = transport.get_extra_info("socket")
    return sock if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6) else None
