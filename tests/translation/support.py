"""Shared by the tests of translation: cutting bytes into reads, running a translator, and decoding its output."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from hypothesis import strategies as st

from hierarchy.translation import ResponseTranslator

#: sizes of reads
cuts = st.lists(st.integers(1, 40), min_size=1, max_size=20)


def pieces(data: bytes, sizes: Iterable[int]) -> list[bytes]:
    """`data` cut into reads of these sizes, and one with the rest."""
    found, at = [], 0
    for size in sizes:
        found.append(data[at : at + size])
        at += size
    return [piece for piece in [*found, data[at:]] if piece]


def translate(translator: ResponseTranslator, reads: Iterable[bytes], status: int = 200) -> bytes:
    """The client's body for an engine's response that arrives in these reads."""
    translator.begin(status)
    body = b""
    for data in reads:
        body += translator.feed(data)
        if translator.done:
            break
    return body + translator.end()


def frame(text: str, error_code: int = 0, **fields: Any) -> bytes:
    """A frame of FastChat's stream."""
    return json.dumps({"text": text, "error_code": error_code, **fields}).encode() + b"\0"


def events(body: bytes) -> list[Any]:
    """The decoded data of server-sent events; `[DONE]` as a text."""
    found = [part.split(b"data: ", 1)[1] for part in body.split(b"\n\n") if b"data: " in part]
    return [one.decode() if one == b"[DONE]" else json.loads(one) for one in found]


def frames(body: bytes) -> list[Any]:
    """The decoded frames of FastChat's stream."""
    return [json.loads(one) for one in body.split(b"\0") if one]
