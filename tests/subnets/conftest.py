from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.subnets.network import Network, why_not
from tests.subnets.tree import BOTH, UP, Tree

REACH = {"direct": BOTH, "reverse": UP}
LINKS = ("direct",)


@pytest.fixture(scope="session")
def namespaces() -> None:
    """Skips where there are none."""
    reason = why_not()
    if reason:
        pytest.skip(reason)


@pytest.fixture(scope="module")
def network(namespaces: None) -> Iterator[Network]:
    with Network() as network:
        yield network


@pytest.fixture(scope="package", params=LINKS)
def tree(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, namespaces: None) -> Iterator[Tree]:
    """A tree that is up, in a network of its own."""
    with Network() as network:
        tree = Tree(network, tmp_path_factory.mktemp(request.param), REACH[request.param], request.param)
        tree.wait()
        yield tree
