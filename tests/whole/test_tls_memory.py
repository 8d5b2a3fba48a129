"""Memory of a TLS connection. uvloop has a read buffer of 256 KiB for each; only the part that was used is resident."""

from __future__ import annotations

import re
import socket
import ssl
import subprocess
import sys
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from tests.certificates import Authority
from tests.support import eventually, free_port

CONNECTIONS = 150
LIMIT_KIB = 96  # about 50 are usual; with the complete buffer it would be over 300
REQUEST = b'POST /v1/completions HTTP/1.1\r\nhost: n\r\ncontent-length: 13\r\n\r\n{"model":"m"}'


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="resident memory is read from /proc")
def test_a_tls_connection_uses_only_a_part_of_its_read_buffer(authority: Authority) -> None:
    files, port = authority.issue("n"), free_port()
    argv = [sys.executable, "-m", "hierarchy", "serve", "--host", "127.0.0.1", "--port", str(port)]
    argv += ["--tls-cert", files["cert"], "--tls-key", files["key"], "--exit-with-parent"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as node, ExitStack() as stack:
        stack.callback(node.terminate)
        context = ssl.create_default_context(cafile=files["ca"])

        def connect() -> None:
            connection = context.wrap_socket(socket.create_connection(("127.0.0.1", port)), server_hostname="localhost")
            stack.enter_context(closing(connection))
            connection.sendall(REQUEST)
            assert connection.recv(4096).startswith(b"HTTP/1.1 404 ")

        eventually(lambda: listens(port), "the node to listen")
        for _ in range(20):
            connect()
        before = resident_kib(node.pid)
        for _ in range(CONNECTIONS):
            connect()
        assert (resident_kib(node.pid) - before) / CONNECTIONS < LIMIT_KIB


def listens(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


def resident_kib(pid: int) -> int:
    found = re.search(r"^Pss:\s+(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1])
