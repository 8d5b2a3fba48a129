from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import QUICK, Cluster, Running
from tests.compat.programs import Programs, programs_in

OWN = QUICK.model_copy(update={"address": "self"})


class Levels:
    """Three nodes, one above the other; each gives its own address to FastChat's clients."""

    def __init__(self, cluster: Cluster, *above: str) -> None:
        self.root = cluster.node("root", parents=above, settings=OWN)
        self.site = cluster.node("site", parents=(self.root.url,), settings=OWN)
        self.rack = cluster.node("rack", parents=(self.site.url,), settings=OWN)

    @property
    def nodes(self) -> tuple[Running, Running, Running]:
        return self.root, self.site, self.rack


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster() as cluster:
        yield cluster


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Programs]:
    with programs_in(Path(tmp_path_factory.mktemp("fastchat"))) as programs:
        yield programs
