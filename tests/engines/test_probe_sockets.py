"""The share of the descriptors that probes may have."""

from __future__ import annotations

import errno

import pytest

from hierarchy.engines.probe_sockets import ProbeSockets


def test_probes_leave_a_quarter_of_the_descriptors_to_all_else(caplog: pytest.LogCaptureFixture) -> None:
    sockets = ProbeSockets(100)
    for holder in range(50):
        sockets.take(holder)
    assert not sockets.are_scarce
    assert caplog.messages == []
    for holder in range(50, 75):
        sockets.take(holder)
        assert sockets.are_scarce
    with pytest.raises(OSError, match="descriptors") as refused:
        sockets.take(75)
    assert refused.value.errno == errno.EMFILE
    sockets.take(74)  # in place of the one that it has
    assert len(sockets) == 75
    sockets.release(3)
    sockets.release(3)
    sockets.take(75)
    assert len(sockets) == 75
    (line,) = caplog.messages
    assert "half of the 100 files" in line
