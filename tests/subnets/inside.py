"""What the tests do from inside a namespace; a program of its own, of the standard library alone, that starts at once.

    inside.py listen PORT                 accept TCP connections at all addresses; one line when it does
    inside.py dial HOST:PORT ...          connect to all at once; one line, {"HOST:PORT": how it went}
    inside.py ports                       one line: TCP ports on which somebody listens, open connections
    inside.py ask URL [BODY]              GET or POST; a line for the answer's head, each line of its body, its end
    inside.py poll SECONDS URL TEXT ...   GET until the answer holds all the texts; one line, {"after": s} or null

Times are of the system's monotonic clock, which all namespaces share.
"""

from __future__ import annotations

import contextlib
import errno
import http.client
import json
import selectors
import socket
import sys
import time
from collections.abc import Callable
from urllib.parse import urlsplit

DIAL_S = 1.5  # one SYN that was lost is sent again after a second
POLL_S = 0.05
SILENCE_S = 30.0  # longer than the tests wait for anything


def say(**what: object) -> None:
    print(json.dumps(what), flush=True)  # noqa: T201


def listen(port: str) -> None:
    with socket.create_server(("0.0.0.0", int(port))) as listener:
        say(listening=int(port))
        waiting = selectors.DefaultSelector()
        waiting.register(listener, selectors.EVENT_READ)
        waiting.register(sys.stdin, selectors.EVENT_READ)  # its end says that the test is gone
        while all(key.fileobj is listener for key, _ in waiting.select()):
            listener.accept()[0].close()


def dial(*targets: str) -> None:
    """ "open" or "refused" by the machine itself; "no route"; or "silent", which is a firewall that drops."""
    verdicts = dict.fromkeys(targets, "silent")
    waiting = selectors.DefaultSelector()
    for target in targets:
        host, _, port = target.rpartition(":")
        sock = socket.socket()
        sock.setblocking(False)
        error = sock.connect_ex((host, int(port)))
        if error == errno.EINPROGRESS:
            waiting.register(sock, selectors.EVENT_WRITE, target)
        else:
            verdicts[target] = verdict(error)
    end = time.monotonic() + DIAL_S
    while waiting.get_map() and (left := end - time.monotonic()) > 0:
        for key, _ in waiting.select(left):
            waiting.unregister(key.fileobj)
            assert isinstance(key.fileobj, socket.socket)
            verdicts[key.data] = verdict(key.fileobj.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
            key.fileobj.close()
    say(**verdicts)


def verdict(error: int) -> str:
    known = {
        0: "open",
        errno.ECONNREFUSED: "refused",
        errno.ENETUNREACH: "no route",
        errno.EHOSTUNREACH: "no such host",
    }
    return known.get(error) or errno.errorcode[error]


def ports() -> None:
    listening, opened = [], []
    with open("/proc/net/tcp") as table:  # noqa: PTH123
        for line in table.readlines()[1:]:
            _, local, remote, state, *_ = line.split()
            if state == "0A":
                listening.append(int(local.partition(":")[2], 16))
            elif state == "01":
                opened.append([address(local), address(remote)])
    say(listening=sorted(listening), opened=opened)


def address(written: str) -> str:
    host, _, port = written.partition(":")
    return f"{socket.inet_ntoa(int(host, 16).to_bytes(4, sys.byteorder))}:{int(port, 16)}"


def ask(url: str, body: str | None = None) -> None:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=SILENCE_S)
    try:
        target = f"{parts.path}?{parts.query}" if parts.query else parts.path
        connection.request("POST" if body else "GET", target, body, {"content-type": "application/json"})
        answer = connection.getresponse()
        say(status=answer.status, headers={name.lower(): value for name, value in answer.getheaders()})
        while line := answer.readline():
            if line.strip():
                say(line=line.decode().rstrip(), at=time.monotonic())
    except (OSError, http.client.HTTPException) as error:
        say(end=f"{type(error).__name__}: {error}", at=time.monotonic())
    else:
        say(end="complete", at=time.monotonic())


def poll(seconds: str, url: str, *texts: str) -> None:
    """Spaces in the answer do not count."""
    parts = urlsplit(url)
    begun = time.monotonic()
    while time.monotonic() - begun < float(seconds):
        connection = http.client.HTTPConnection(parts.netloc, timeout=SILENCE_S)
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection.request("GET", parts.path)
            body = connection.getresponse().read().decode().replace(" ", "")
            if all(text in body for text in texts):
                say(after=time.monotonic() - begun)
                return
        connection.close()
        time.sleep(POLL_S)
    say(after=None)


if __name__ == "__main__":
    commands: dict[str, Callable[..., None]] = {
        "listen": listen,
        "dial": dial,
        "ports": ports,
        "ask": ask,
        "poll": poll,
    }
    commands[sys.argv[1]](*sys.argv[2:])
