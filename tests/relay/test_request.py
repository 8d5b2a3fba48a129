"""One request: what is kept of its body."""

from __future__ import annotations

import pytest

from hierarchy.relay.held_bytes import HeldBytes
from hierarchy.relay.request import COPIED_AT_ONCE, Request
from hierarchy.runtime.steps import Steps, at_once
from tests.relay.test_fingerprints import head

LIMIT = 32 * 1024 * 1024


class Counted:
    """Steps that are counted."""

    def __init__(self, steps: Steps[bytearray]) -> None:
        self.count = 0
        self._steps = steps

    def steps(self) -> Steps[bytearray]:
        while True:
            try:
                next(self._steps)
            except StopIteration as end:
                whole: bytearray = end.value
                return whole
            self.count += 1
            yield


@pytest.mark.parametrize("sizes", [[], [1], [200_000] * 30 + [7], [COPIED_AT_ONCE] * 3, [10] * 100_000])
def test_a_body_is_joined_in_steps(sizes: list[int]) -> None:
    request = Request(head(), 0.0, HeldBytes())
    pieces = [bytes([number % 251]) * size for number, size in enumerate(sizes)]
    for piece in pieces:
        request.add(piece, LIMIT)
    request.end_body()
    counted = Counted(request.joined_steps())
    assert at_once(counted.steps()) == b"".join(pieces)
    count = counted.count
    assert sum(sizes) // (COPIED_AT_ONCE + 200_000) <= count <= sum(sizes) // COPIED_AT_ONCE
    assert request.parts == []
