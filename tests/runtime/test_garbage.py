"""Full searches for reference cycles are short, and what becomes garbage is found in the end."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from itertools import count

import pytest

from hierarchy.runtime import garbage
from hierarchy.runtime.garbage import Garbage


class Ring:
    """Garbage that only a search finds."""

    def __init__(self) -> None:
        self.me = self


@pytest.fixture
def policy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Garbage]:
    """One for which each full search is a long one."""
    ticks = count()
    policy = Garbage(lambda: float(next(ticks)))
    try:
        yield policy
    finally:
        policy.stop()
        gc.unfreeze()


def test_what_lived_at_the_start_and_at_a_long_search_is_set_aside(policy: Garbage) -> None:
    policy.start()
    before = gc.get_freeze_count()
    assert before > 10_000  # this process
    kept = [Ring() for _ in range(1000)]
    assert gc.get_freeze_count() == before
    gc.collect()
    assert gc.get_freeze_count() >= before + len(kept)
    assert len(gc.get_objects()) < 1000


def test_garbage_that_was_set_aside_is_found_when_it_may_be_as_much_as_what_lives(
    policy: Garbage, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy.start()
    alive = gc.get_freeze_count()
    monkeypatch.setattr(policy, "_most", alive + 5000)
    first = Ring()
    seen = weakref.ref(first)
    gc.collect()
    del first
    gc.collect()
    assert seen() is not None  # it was set aside
    rounds = 0
    while seen() is not None and rounds < 20:
        rings = [Ring() for _ in range(1000)]
        gc.collect()
        del rings
        rounds += 1
    assert seen() is None
    assert rounds > 3  # not at each search


def test_young_garbage_is_found_as_before(policy: Garbage) -> None:
    policy.start()
    gone = [weakref.ref(Ring()) for _ in range(3 * garbage.YOUNG)]
    assert sum(ref() is None for ref in gone) > garbage.YOUNG


def test_it_ends_with_the_settings_of_before(policy: Garbage) -> None:
    before = gc.get_threshold(), len(gc.callbacks)
    policy.start()
    assert gc.get_threshold()[0] == garbage.YOUNG
    policy.stop()
    policy.stop()
    assert (gc.get_threshold(), len(gc.callbacks)) == before
    assert gc.get_freeze_count() == 0
