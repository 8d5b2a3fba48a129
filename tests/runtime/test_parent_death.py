from __future__ import annotations

import os
import threading

from hierarchy.runtime.parent_death import call_on_parent_death
from tests.support import DEADLINE_S


def test_it_calls_when_the_other_end_closes_and_not_when_it_writes() -> None:
    reading, writing = os.pipe()
    gone = threading.Event()
    call_on_parent_death(gone.set, reading)
    os.write(writing, b"still here")
    assert not gone.wait(0.05)
    os.close(writing)
    assert gone.wait(DEADLINE_S)
    os.close(reading)


def test_it_calls_when_there_is_nothing_to_read_from() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    os.close(writing)
    gone = threading.Event()
    call_on_parent_death(gone.set, reading)
    assert gone.wait(DEADLINE_S)
