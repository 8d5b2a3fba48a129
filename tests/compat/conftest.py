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

OWN = CALM.model_copy(update={"address": "self"})


class Levels:
    """Three nodes, one above the other; each gives its own address to FastChat's clients."""

    def __init__(self, cluster: Cluster, *above: str) -> None:
        self.root = cluster.node("root", parents=above, settings=OWN)
        self.site = cluster.node("site", parents=(self.root.url,), settings=OWN)
        self.rack = cluster.node("rack", parents=(self.site.url,), settings=OWN)

    @property
    def nodes(self) -> tuple[Running, Running, Running]:
        return self.root, self.site, self.rack


def ask(url: str, path: str, **body: Any) -> Any:
    """What a POST of JSON is answered, which has status 200 on FastChat's paths."""
    answer = httpx.post(url + path, json=body, timeout=2 * DEADLINE_S)
    assert answer.status_code == 200, answer.text
    return answer.json()


def frames(answer: httpx.Response) -> list[dict[str, Any]]:
    assert answer.status_code == 200, answer.text
    return [json.loads(frame) for frame in answer.content.split(b"\0") if frame]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What the programs said stands in the report of a test that failed."""
    report = yield
    if report.failed:
        for value in getattr(item, "funcargs", {}).values():
            if isinstance(value, Programs):
                report.sections += [(name, said) for name, said in value.logs().items()]
    return report


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster() as cluster:
        yield cluster


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Programs]:
    with programs_in(Path(tmp_path_factory.mktemp("fastchat"))) as programs:
        yield programs
