"""Fixtures for tests with FastChat's and TinyChat's programs: a tree of three levels, and the programs."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.cluster import CALM, Cluster, Running
from tests.compat.programs import Programs, programs_in
from tests.support import DEADLINE_S

OWN_ADDRESS = CALM.model_copy(update={"address": "self"})


class Levels:
    """Three nodes, one above the other. Each returns its own address to FastChat's clients."""

    def __init__(self, cluster: Cluster, *above: str) -> None:
        self.root = cluster.node("root", parents=above, settings=OWN_ADDRESS)
        self.site = cluster.node("site", parents=(self.root.url,), settings=OWN_ADDRESS)
        self.rack = cluster.node("rack", parents=(self.site.url,), settings=OWN_ADDRESS)

    @property
    def nodes(self) -> tuple[Running, Running, Running]:
        """From the root down."""
        return self.root, self.site, self.rack


def post(url: str, path: str, **body: Any) -> Any:
    """The JSON that a POST returns. The status must be 200, as always on FastChat's paths."""
    response = httpx.post(url + path, json=body, timeout=2 * DEADLINE_S)
    assert response.status_code == 200, response.text
    return response.json()


def frames(response: httpx.Response) -> list[dict[str, Any]]:
    """The decoded frames of a stream."""
    assert response.status_code == 200, response.text
    return [json.loads(frame) for frame in response.content.split(b"\0") if frame]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Adds the logs of the programs to the report of a failed test."""
    report = yield
    if report.failed:
        for value in getattr(item, "funcargs", {}).values():
            if isinstance(value, Programs):
                report.sections += list(value.logs().items())
    return report


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster() as cluster:
        yield cluster


@pytest.fixture(scope="module")
def levels(cluster: Cluster) -> Levels:
    return Levels(cluster)


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Programs]:
    with programs_in(Path(tmp_path_factory.mktemp("fastchat"))) as programs:
        yield programs
