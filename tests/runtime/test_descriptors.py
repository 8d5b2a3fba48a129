"""The limit of file descriptors: raised at the start, and kept in part."""

from __future__ import annotations

import resource

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hierarchy.runtime.descriptors import HIGHEST, LEAST_RESERVED, MOST_RESERVED, Descriptors, raise_limit

INFINITE = resource.RLIM_INFINITY


class System:
    """The kernel's limit. most: the highest soft limit that it takes; macOS has one below the hard limit."""

    def __init__(self, soft: int, hard: int, most: int = 1 << 40) -> None:
        self.limits = soft, hard
        self.most = most

    def get(self, _: int) -> tuple[int, int]:
        return self.limits

    def set(self, _: int, limits: tuple[int, int]) -> None:
        if limits[0] > self.most:
            raise ValueError
        self.limits = limits


@pytest.mark.parametrize(
    ("system", "reached"),
    [
        (System(1024, 4096), 4096),
        (System(1024, 1 << 30), HIGHEST),
        (System(1024, INFINITE), HIGHEST),
        (System(256, INFINITE, most=10_240), 10_240),
        (System(256, INFINITE, most=100), 256),
        (System(4096, 4096), 4096),
        (System(1 << 21, 1 << 22), 1 << 21),
        (System(INFINITE, INFINITE), HIGHEST),
    ],
)
def test_the_soft_limit_is_raised_as_far_as_the_kernel_allows(
    system: System, reached: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    hard = system.limits[1]
    monkeypatch.setattr(resource, "getrlimit", system.get)
    monkeypatch.setattr(resource, "setrlimit", system.set)
    assert raise_limit() == reached
    assert system.limits[1] == hard


@given(st.integers(1, HIGHEST))
def test_a_part_is_kept_for_children_files_and_probes(limit: int) -> None:
    made = Descriptors(limit)
    assert 1 <= made.for_clients <= made.for_children <= max(1, limit)
    if limit > LEAST_RESERVED:
        assert LEAST_RESERVED <= limit - made.for_clients <= MOST_RESERVED
        assert made.for_clients < made.for_children < limit


def test_room_is_made_once_clients_have_all_that_they_may_have() -> None:
    made, calls = Descriptors(256), list[int]()
    made.givers.append(lambda: calls.append(made.newest))
    assert made.free == made.for_clients
    made.note(made.for_clients - 1)
    assert (made.free, calls) == (1, [])
    made.note(made.for_clients)
    made.note(made.for_children)
    assert (made.free, calls) == (0, [made.for_clients, made.for_children])
