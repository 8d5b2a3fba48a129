"""Noticing that the parent process died."""

from __future__ import annotations

import os
import threading

from hierarchy.runtime.parent_death import call_on_parent_death
from tests.support import DEADLINE_S


def test_the_callback_runs_when_the_other_end_closes_and_not_when_it_writes() -> None:
    reading, writing = os.pipe()
    dead = threading.Event()
    call_on_parent_death(dead.set, reading)
    os.write(writing, b"still here")
    assert not dead.wait(0.05)
    os.close(writing)
    assert dead.wait(DEADLINE_S)
    os.close(reading)


def test_the_callback_runs_if_the_pipe_is_closed_already() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    os.close(writing)
    dead = threading.Event()
    call_on_parent_death(dead.set, reading)
    assert dead.wait(DEADLINE_S)
