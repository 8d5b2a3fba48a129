"""The same requests through nginx and through a node, in front of the same engine: the same class of status, and
the same requests reach the engine. Intended differences are in `DIFFERENT`, with the reason.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.relay.downstream.test_strict import CHUNKED, FINE, MALFORMED
from tests.relay.raw import BODY, Client, chunk, post
from tests.relay.support import Tree
from tests.skips import missing
from tests.support import eventually, free_port

NGINX = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
pytestmark = pytest.mark.skipif(NGINX is None, reason=missing("nginx", "nginx-light"))

CONFIG = """
daemon off;
master_process off;
error_log {folder}/error.log;
pid {folder}/nginx.pid;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    client_max_body_size 32m;
    upstream engine {{ server {engine}; keepalive 8; }}
    server {{
        listen 127.0.0.1:{port};
        location / {{ return 404; }}
        location /v1/ {{
            proxy_pass http://engine;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
        }}
    }}
}}
"""

OTHERS = {
    "two requests": post() + post(b'{"model":"m","n":2}'),
    "a chunked one, then another": CHUNKED + chunk(BODY) + b"0\r\n\r\n" + post(),
    "a good one, then nonsense": post() + b"nonsense\r\n\r\n",
    "another path": post(path=b"/v2/x"),
    "another path, pipelined": post(path=b"/v2/x") + post(),
    "behind a close": post(BODY, b"connection: close") + post(),
    "head too large": post(BODY, b"x: " + b"y" * 40_000),
    "a query": post(path=b"/v1/x?a=%2e%2e/b"),
    "expect": post(BODY, b"expect: 100-continue"),
}
TABLE = {**MALFORMED, **FINE, **OTHERS}
#: sent behind each: it ends the connection, if it gets so far
LAST = b"GET /last HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"
SENT_ON = "nginx repairs it and sends it on; the lane refuses what two readers could read in two ways"
#: where nginx 1.22 is known to do otherwise, and why the lane does not
DIFFERENT = {
    "no colon": SENT_ON,
    "LF behind the request line": SENT_ON,
    "LF behind a field": SENT_ON,
    "LF behind the head": SENT_ON,
    "LF only": SENT_ON,
    "control character in a value": SENT_ON,
    "DEL in a value": SENT_ON,
    "bytes above ASCII in a name": SENT_ON,
    "chunk size with a blank": SENT_ON,
    "LF behind the chunk size": SENT_ON,
    "LF behind the chunk": SENT_ON,
    "LF in an extension": SENT_ON,
    "NUL in an extension": SENT_ON,
    "empty extension": SENT_ON,
    "LF in the trailers": SENT_ON,
    "LF behind the trailers": SENT_ON,
    "a length as trailer": SENT_ON,
    "a coding as trailer": SENT_ON,
    "HTTP/1.2": "nginx takes it for 1.1; llhttp knows no such version",
    "blank behind the version": SENT_ON,
    "bytes above ASCII in the target": SENT_ON,
    "fragment": "nginx sends it to the engine as part of the target, where it has no place (RFC 9112, section 3.2)",
    "no such method": "nginx passes any method; the lane serves POST, and knows those that are registered",
    "blanks around the length": "nginx takes no tab before a value, which is allowed (RFC 9110, section 5.5)",
    "HTTP/1.0 with keep-alive": "nginx keeps the connection; the lane closes it, as no client needs the old extension",
}


@dataclass
class Outcome:
    """What came of a request.

    responses: `ok`, `refused` or `broken` for each. engine: (target, body) of the requests that reached it.
    """

    responses: list[str]
    engine: list[tuple[bytes, bytes]]


def word(status: int) -> str:
    """Not every server has the same number for a request that it does not like: 501 and 505 are such too."""
    if 400 <= status < 500 or status in (501, 505):
        return "refused"
    return "ok" if status < 400 else "broken"


@pytest.fixture(scope="module")
def nginx(_single: Tree, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    assert NGINX is not None
    folder, port = tmp_path_factory.mktemp("nginx"), free_port()
    config = Path(folder, "nginx.conf")
    engine = _single.engine.url.removeprefix("http://")
    config.write_text(CONFIG.format(folder=folder, port=port, engine=engine))
    process = subprocess.Popen([NGINX, "-p", str(folder), "-c", str(config)], stderr=subprocess.DEVNULL)
    try:
        eventually(lambda: process.poll() is not None or _listens(port), "nginx to listen")
        assert process.poll() is None, Path(folder, "error.log").read_text()
        yield port
    finally:
        process.terminate()
        process.wait(10)


def _listens(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


def outcome(single: Tree, port: int, data: bytes) -> Outcome:
    single.engine.plan()
    responses = []
    with Client(port) as client:
        with contextlib.suppress(ConnectionError):
            client.send(data + LAST)
        with contextlib.suppress(AssertionError, ConnectionError):  # the end
            while True:
                responses.append(word(client.read_response().status))
    return Outcome(responses, [(found.head.split(b" ")[1], found.body) for found in single.engine.received])


@pytest.mark.parametrize("name", TABLE)
def test_the_lane_behaves_like_nginx(single: Tree, nginx: int, name: str) -> None:
    lane, other = (outcome(single, port, TABLE[name]) for port in (single.port, nginx))
    if name not in DIFFERENT:
        assert lane == other
    elif name in MALFORMED:
        assert lane == Outcome(["refused"], [])
    else:
        assert lane.responses[0] == "ok"
        assert len(lane.engine) == 1


def test_the_known_differences_are_in_the_table() -> None:
    assert DIFFERENT.keys() <= TABLE.keys()
