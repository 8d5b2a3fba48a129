"""One request: what is kept of its body."""

from __future__ import annotations

import pytest

from hierarchy.relay.held_bytes import HeldBytes
from hierarchy.relay.request import COPIED_AT_ONCE, Request
from tests.relay.test_fingerprints import head

LIMIT = 32 * 1024 * 1024


@pytest.mark.parametrize("sizes", [[], [1], [200_000] * 30 + [7], [COPIED_AT_ONCE] * 3, [10] * 100_000])
def test_a_body_is_joined_in_steps(sizes: list[int]) -> None:
    request = Request(head(), 0.0, HeldBytes())
    pieces = [bytes([number % 251]) * size for number, size in enumerate(sizes)]
    for piece in pieces:
        request.add(piece, LIMIT)
    request.end_body()
    steps, count = request.joined_steps(), 0
    while True:
        try:
            next(steps)
        except StopIteration as end:
            assert end.value == b"".join(pieces)
            break
        count += 1
    assert sum(sizes) // (COPIED_AT_ONCE + 200_000) <= count <= sum(sizes) // COPIED_AT_ONCE
    assert request.parts == []
