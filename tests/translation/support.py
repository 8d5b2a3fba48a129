"""What the tests of translation have in common: splits of bytes, and a reply played from its beginning to its end."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from hypothesis import strategies as st

from hierarchy.translation import Reply

cuts = st.lists(st.integers(1, 40), min_size=1, max_size=20)


def pieces(data: bytes, sizes: Iterable[int]) -> list[bytes]:
    """`data` cut into reads; the rest comes in one."""
    found, at = [], 0
    for size in sizes:
        found.append(data[at : at + size])
        at += size
    return [piece for piece in [*found, data[at:]] if piece]


def play(reply: Reply, reads: Iterable[bytes], status: int = 200) -> bytes:
    """What the client gets of an answer that comes in these reads."""
    reply.begin(status)
    said = b""
    for data in reads:
        said += reply.feed(data)
        if reply.done:
            break
    return said + reply.end()


def frame(text: str, error_code: int = 0, **fields: Any) -> bytes:
    return json.dumps({"text": text, "error_code": error_code, **fields}).encode() + b"\0"


def events(said: bytes) -> list[Any]:
    """The data of server-sent events; `[DONE]` as it is."""
    found = [part.split(b"data: ", 1)[1] for part in said.split(b"\n\n") if b"data: " in part]
    return [one.decode() if one == b"[DONE]" else json.loads(one) for one in found]


def frames(said: bytes) -> list[Any]:
    return [json.loads(one) for one in said.split(b"\0") if one]
