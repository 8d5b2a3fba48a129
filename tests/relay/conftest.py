from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.relay.support import Tree, World, tree


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    running = World()
    yield running
    running.close()


@pytest.fixture(scope="module")
def _chain(world: World) -> Iterator[Tree]:
    with tree(world, levels=3) as running:
        yield running


@pytest.fixture(scope="module")
def _single(world: World) -> Iterator[Tree]:
    with tree(world) as running:
        yield running


@pytest.fixture
def chain(_chain: Tree) -> Iterator[Tree]:
    """Three nodes above one engine; afterwards nothing is left over, and nothing escaped into the loop."""
    yield from _checked(_chain)


@pytest.fixture
def single(_single: Tree) -> Iterator[Tree]:
    """One node above one engine, checked in the same way."""
    yield from _checked(_single)


def _checked(running: Tree) -> Iterator[Tree]:
    running.engine.plan()
    running.world.problems.clear()
    yield running
    running.engine.free()
    running.wait_idle()
    running.world.call(lambda: setattr(running.clock, "skew", 0.0))
    assert running.world.problems == []
    assert running.engine.surplus == []
