"""The share of the descriptors that probes may have."""

from __future__ import annotations

import errno

import pytest

from hierarchy.engines.probe_sockets import ProbeSockets


def test_probes_leave_three_eighths_of_the_descriptors_to_all_else(caplog: pytest.LogCaptureFixture) -> None:
    sockets = ProbeSockets(80)
    for holder in range(40):
        sockets.take(holder)
    assert not sockets.are_scarce
    assert caplog.messages == []
    for holder in range(40, 50):
        sockets.take(holder)
        assert sockets.are_scarce
    with pytest.raises(OSError, match="descriptors") as refused:
        sockets.take(50)
    assert refused.value.errno == errno.EMFILE
    sockets.take(49)  # in place of the one that it has
    assert len(sockets) == 50
    sockets.release(3)
    sockets.release(3)
    sockets.take(50)
    assert len(sockets) == 50
    (line,) = caplog.messages
    assert "half of the 80 files" in line
