"""A black hole without privileges: a socket whose kernel drops every packet that arrives for it (Linux)."""

from __future__ import annotations

import ctypes
import socket
import struct
import sys

import pytest

linux = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's socket filters")

_SO_ATTACH_FILTER, _SO_DETACH_FILTER = 26, 27
_RETURN = 0x06  # BPF_RET | BPF_K: how many bytes of the packet are kept


def swallow(sock: socket.socket) -> None:
    """Drop what arrives from now on: nothing is acknowledged, and of a listening socket no SYN is answered."""
    program = ctypes.create_string_buffer(struct.pack("HBBI", _RETURN, 0, 0, 0))
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HL", 1, ctypes.addressof(program)))


def release(sock: socket.socket) -> None:
    """Let packets arrive again."""
    sock.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, struct.pack("i", 0))
