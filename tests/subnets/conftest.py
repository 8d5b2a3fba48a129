"""Fixtures: the network and the tree in it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.subnets.network import Network, obstacle
from tests.subnets.tree import ISOLATED, UP, Tree


@pytest.fixture(scope="session")
def namespaces() -> None:
    """Skips the test if this machine cannot make network namespaces."""
    reason = obstacle()
    if reason:
        pytest.skip(reason)


@pytest.fixture(scope="module")
def network(namespaces: None) -> Iterator[Network]:
    with Network() as network:
        yield network


@pytest.fixture(scope="package")
def tree(tmp_path_factory: pytest.TempPathFactory, namespaces: None) -> Iterator[Tree]:
    """A running tree, in a network in which no node may dial downwards."""
    with Network() as network:
        tree = Tree(network, tmp_path_factory.mktemp("tree"), UP, ISOLATED)
        tree.wait()
        yield tree
