"""A second opinion on what a byte stream of requests means: slow, strict, and written without the lane's parser.

It follows RFC 9112, and llhttp in what that lets pass beyond it (`LENIENT`): none of it changes where a message ends.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field

LENIENT = "CR and LF before a request line; more than one blank in it; RTSP/1.0 and ICE/1.0, which count as HTTP/1.0"

_LINE = re.compile(rb"([A-Z-]+) +([!-~]+) +(?:HTTP|RTSP|ICE)/(1\.[01])")
_FIELD = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*([\t -~\x80-\xff]*)")
_HOST = re.compile(rb"[A-Za-z0-9\-._~%!$&'()*+,;=:\[\]]*")
_CHUNK = re.compile(rb"([0-9A-Fa-f]+)(?:;[\t -~\x80-\xff]+)?")
_PATH = re.compile(rb"/v1(?:/[A-Za-z0-9_\-:@][A-Za-z0-9_\-.:@]*|/\.[A-Za-z0-9_\-.:@]{2,}|/\.[A-Za-z0-9_\-:@])+/?")


class MalformedError(Exception):
    """Nothing from here on can be trusted."""


@dataclass
class Reading:
    """What a stream means. requests: (target, body) of those that a lane sends on, in order.

    malformed: it ends in something that must be refused. whole: every byte belongs to a request that is complete.
    """

    requests: list[tuple[bytes, bytes]] = field(default_factory=list)
    malformed: bool = False
    whole: bool = False


def read(data: bytes, model: str) -> Reading:
    """Read a stream of requests; `model` is the one that is served."""
    reading = Reading()
    at = 0
    while True:
        while at < len(data) and data[at] in b"\r\n":
            at += 1
        if at == len(data):
            reading.whole = True
            return reading
        end = data.find(b"\r\n\r\n", at)
        if end < 0 or b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".startswith(data[at:]):  # HTTP/2's preface, as far as it goes
            return reading
        try:
            method, target, version, fields = _head(data[at:end])
            body, at = _body(data, end + 4, version, fields)
        except MalformedError:
            reading.malformed = True
            return reading
        if body is None:
            return reading
        if method == b"POST" and _sent_on(target, body, model):
            reading.requests.append((_origin(target), body))
        options = b",".join(value for name, value in fields if name in (b"connection", b"proxy-connection")).lower()
        if version == b"1.0" or b"close" in [option.strip() for option in options.split(b",")]:
            return reading  # what follows is not a request


def _head(head: bytes) -> tuple[bytes, bytes, bytes, list[tuple[bytes, bytes]]]:
    first, *lines = head.split(b"\r\n")
    line = _LINE.fullmatch(first)
    if line is None or line[1] == b"CONNECT" or b"#" in line[2]:
        raise MalformedError
    fields = []
    for text in lines:
        found = _FIELD.fullmatch(text)
        if found is None:
            raise MalformedError
        fields.append((found[1].lower(), found[2].rstrip(b" \t")))
    hosts = [value for name, value in fields if name == b"host"]
    if len(hosts) > 1 or (not hosts and line[3] == b"1.1") or not all(map(_HOST.fullmatch, hosts)):
        raise MalformedError
    return line[1], line[2], line[3], fields


def _body(data: bytes, at: int, version: bytes, fields: list[tuple[bytes, bytes]]) -> tuple[bytes | None, int]:
    """The body and where it ends; None if it is not all there."""
    lengths = [value for name, value in fields if name == b"content-length"]
    codings = [value for name, value in fields if name == b"transfer-encoding"]
    if codings:
        if lengths or version == b"1.0" or [coding.lower() for coding in codings] != [b"chunked"]:
            raise MalformedError
        return _chunks(data, at)
    if not lengths:
        return b"", at
    if len(lengths) > 1 or not re.fullmatch(rb"[0-9]+", lengths[0]):
        raise MalformedError
    if len(lengths[0]) > 18:
        raise MalformedError
    end = at + int(lengths[0])
    return (data[at:end], end) if end <= len(data) else (None, at)


def _chunks(data: bytes, at: int) -> tuple[bytes | None, int]:
    body = b""
    while True:
        end = data.find(b"\r\n", at)
        if end < 0:
            return None, at
        found = _CHUNK.fullmatch(data[at:end])
        if found is None:
            raise MalformedError
        size, at = int(found[1], 16), end + 2
        if not size:
            break
        if at + size + 2 > len(data):
            return None, at
        if data[at + size : at + size + 2] != b"\r\n":
            raise MalformedError
        body += data[at : at + size]
        at += size + 2
    while True:
        end = data.find(b"\r\n", at)
        if end < 0:
            return None, at
        field = data[at:end]
        at = end + 2
        if not field:
            return body, at
        if _FIELD.fullmatch(field) is None:
            raise MalformedError


def _origin(target: bytes) -> bytes:
    """A target without scheme and authority."""
    found = re.fullmatch(rb"[A-Za-z]+://[^/?]+(/.*)?", target)
    return (found[1] or b"/") if found else target


def _sent_on(target: bytes, body: bytes, model: str) -> bool:
    path = _origin(target).partition(b"?")[0]
    if not _PATH.fullmatch(path):
        return False
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict) and found.get("model") == model
