"""The program that tests run inside a namespace. It uses the standard library only, so it starts fast.

    agent.py listen PORT                 accept TCP connections at all addresses; prints one line when it listens
    agent.py dial HOST:PORT ...          connect to all at once; prints one line, {"HOST:PORT": result}
    agent.py ports                       prints one line: TCP ports that are listened on, open connections
    agent.py request URL [BODY]          GET or POST; prints a line each for the head, each body line, and the end
    agent.py burst COUNT URL BODY        POST all at once; prints one line, {"statuses": [...], "slowest": s}
    agent.py load SECONDS BODY URL ...   POST bursts of 3 to each URL in turn; prints {URL: [[status, s], ...]}
    agent.py poll SECONDS URL TEXT ...   GET until the response has all texts; prints one line, {"after": s} or null

Times are those of the system's monotonic clock, which all namespaces share.
"""

from __future__ import annotations

import contextlib
import errno
import http.client
import json
import random
import selectors
import socket
import sys
import threading
import time
from collections.abc import Callable
from urllib.parse import urlsplit

DIAL_S = 1.5  # enough to send a lost SYN again, after a second
POLL_S = 0.05
BURST = 3  # more than one connection to an engine, so a node opens new ones
TIMEOUT_S = 30.0  # longer than any test waits


def emit(**fields: object) -> None:
    """Print a line of JSON."""
    print(json.dumps(fields), flush=True)  # noqa: T201


def listen(port: str) -> None:
    """Accept connections until stdin ends."""
    with socket.create_server(("0.0.0.0", int(port))) as listener:
        emit(listening=int(port))
        waiting = selectors.DefaultSelector()
        waiting.register(listener, selectors.EVENT_READ)
        waiting.register(sys.stdin, selectors.EVENT_READ)  # it ends with the test
        while all(key.fileobj is listener for key, _ in waiting.select()):
            listener.accept()[0].close()


def dial(*targets: str) -> None:
    """Result per target: "open", "refused" (by the machine), "no route", or "silent" (a firewall drops packets)."""
    results = dict.fromkeys(targets, "silent")
    waiting = selectors.DefaultSelector()
    for target in targets:
        host, _, port = target.rpartition(":")
        sock = socket.socket()
        sock.setblocking(False)
        error = sock.connect_ex((host, int(port)))
        if error == errno.EINPROGRESS:
            waiting.register(sock, selectors.EVENT_WRITE, target)
        else:
            results[target] = name_of(error)
    end = time.monotonic() + DIAL_S
    while waiting.get_map() and (left := end - time.monotonic()) > 0:
        for key, _ in waiting.select(left):
            waiting.unregister(key.fileobj)
            assert isinstance(key.fileobj, socket.socket)
            results[key.data] = name_of(key.fileobj.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
            key.fileobj.close()
    emit(**results)


def name_of(error: int) -> str:
    """A result in words."""
    known = {
        0: "open",
        errno.ECONNREFUSED: "refused",
        errno.ENETUNREACH: "no route",
        errno.EHOSTUNREACH: "no such host",
    }
    return known.get(error) or errno.errorcode[error]


def ports() -> None:
    """Listening ports and open connections, from /proc/net/tcp."""
    listening, opened = [], []
    with open("/proc/net/tcp") as table:  # noqa: PTH123
        for line in table.readlines()[1:]:
            _, local, remote, state, *_ = line.split()
            if state == "0A":
                listening.append(int(local.partition(":")[2], 16))
            elif state == "01":
                opened.append([address(local), address(remote)])
    emit(listening=sorted(listening), opened=opened)


def address(entry: str) -> str:
    """HOST:PORT for an entry of /proc/net/tcp."""
    host, _, port = entry.partition(":")
    return f"{socket.inet_ntoa(int(host, 16).to_bytes(4, sys.byteorder))}:{int(port, 16)}"


def request(url: str, body: str | None = None) -> None:
    """Send a request and print the response as it comes."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=TIMEOUT_S)
    try:
        target = f"{parts.path}?{parts.query}" if parts.query else parts.path
        connection.request("POST" if body else "GET", target, body, {"content-type": "application/json"})
        response = connection.getresponse()
        emit(status=response.status, headers={name.lower(): value for name, value in response.getheaders()})
        while line := response.readline():
            if line.strip():
                emit(line=line.decode().rstrip(), at=time.monotonic())
    except (OSError, http.client.HTTPException) as error:
        emit(end=f"{type(error).__name__}: {error}", at=time.monotonic())
    else:
        emit(end="complete", at=time.monotonic())


def poll(seconds: str, url: str, *texts: str) -> None:
    """Wait until a response has all texts. Spaces in it are ignored."""
    parts = urlsplit(url)
    start = time.monotonic()
    while time.monotonic() - start < float(seconds):
        connection = http.client.HTTPConnection(parts.netloc, timeout=TIMEOUT_S)
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection.request("GET", parts.path)
            body = connection.getresponse().read().decode().replace(" ", "")
            if all(text in body for text in texts):
                emit(after=time.monotonic() - start)
                return
        connection.close()
        time.sleep(POLL_S)
    emit(after=None)


def burst(count: str, url: str, body: str) -> None:
    """Send requests at the same time, each on a connection of its own. A status of 0: no response."""
    answers = send_together(int(count), url, body)
    emit(statuses=sorted(status for status, _ in answers), slowest=max(seconds for _, seconds in answers))


def load(seconds: str, body: str, *urls: str) -> None:
    """Send bursts to each URL in turn, so that what slows the machine down slows all of them down."""
    found: dict[str, list[tuple[int, float]]] = {url: [] for url in urls}
    end = time.monotonic() + float(seconds)
    while time.monotonic() < end:
        for url in sorted(urls, key=lambda _: random.random()):  # the first of a round waits longer
            found[url] += send_together(BURST, url, body)
        time.sleep(POLL_S)
    emit(**found)


def send_together(count: int, url: str, body: str) -> list[tuple[int, float]]:
    """Send requests at the same time, each on a connection of its own. Returns (status or 0, seconds) of each."""
    answers: list[tuple[int, float]] = []

    def send() -> None:
        began, parts = time.monotonic(), urlsplit(url)
        connection = http.client.HTTPConnection(parts.netloc, timeout=TIMEOUT_S)
        status = 0
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection.request("POST", parts.path, body, {"content-type": "application/json"})
            response = connection.getresponse()
            response.read()
            status = response.status
        answers.append((status, time.monotonic() - began))

    threads = [threading.Thread(target=send) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


if __name__ == "__main__":
    commands: dict[str, Callable[..., None]] = {
        "listen": listen,
        "dial": dial,
        "ports": ports,
        "request": request,
        "burst": burst,
        "load": load,
        "poll": poll,
    }
    commands[sys.argv[1]](*sys.argv[2:])
