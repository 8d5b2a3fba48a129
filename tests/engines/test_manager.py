"""The engine manager with a real registry; no engine listens."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Iterator
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest

from hierarchy.config.models import EngineConfig, NodeConfig, Settings
from hierarchy.engines.kinds import ADAPTERS
from hierarchy.engines.manager import EngineManager, _ProbedChild
from hierarchy.registry import Registry
from hierarchy.registry.child import Child
from hierarchy.runtime.tasks import BackgroundTasks
from hierarchy.security.access import Access
from hierarchy.wire.messages import Identity
from hierarchy.wire.status import ModelStatus, NodeStatus
from tests.builders import WORKER, registration, worker
from tests.clocks import Clock
from tests.runtime.hostile import BOMB, answering, response
from tests.support import eventually_async, free_port


class Bench:
    """A manager whose registry and tasks the test can read. `downs` has (engine, reason), in order."""

    def __init__(self) -> None:
        clock = Clock()
        self.registry = Registry(Identity("n", "http://n", "i"), clock)
        self.tasks = BackgroundTasks()
        self.downs: list[tuple[str, str]] = []
        access = Access(NodeConfig(name="n", advertise="http://127.0.0.1:1"))
        self.manager = EngineManager(self.registry, access, self.tasks, self.on_down, Settings(), clock)

    def on_down(self, child: Child, reason: str) -> None:
        self.downs.append((child.name, reason))

    def start(self, name: str) -> Child:
        self.manager.start(EngineConfig(name=name, kind="vllm", url=f"http://127.0.0.1:{free_port()}"))
        return self.registry.children[name]


def on_bench(test: Callable[[Bench], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    async def work() -> None:
        bench = Bench()
        await test(bench)
        for task in bench.tasks:
            task.cancel()
        await asyncio.gather(*bench.tasks, return_exceptions=True)
        await bench.manager.stop()

    def run() -> None:
        asyncio.run(work())

    return run


@on_bench
async def test_an_engine_is_declared_probed_and_retired(bench: Bench) -> None:
    bench.start("gpu")
    bench.start("other")
    assert {task.get_name() for task in bench.tasks} == {"probe gpu", "probe other"}
    bench.manager.retire("gpu")
    assert list(bench.registry.children) == ["other"]
    assert [task.get_name() for task in bench.tasks if not task.cancelling()] == ["probe other"]
    assert repr(bench.manager) == "<EngineManager other>"


@on_bench
async def test_an_engine_that_went_down_is_reported_once(bench: Bench) -> None:
    child = bench.start("gpu")
    status = NodeStatus((ModelStatus("m"),), 1.0)
    bench.registry.report(child, status)
    bench.manager.mark_down(child, "no response")
    bench.manager.mark_down(child, "still none")
    assert bench.downs == [("gpu", "no response")]
    assert child.down == "still none"
    bench.registry.report(child, status)
    bench.manager.mark_down(child, "again")
    assert [reason for _, reason in bench.downs] == ["no response", "again"]


@on_bench
async def test_a_workers_status_is_requested_once_and_replaces_what_it_registered(bench: Bench) -> None:
    with answering(response(b'{"model_names": ["m", "n"], "speed": 1, "queue_length": 2}')) as (url, requests):
        child = bench.registry.register(registration(worker(url)))
        for _ in range(2):
            bench.manager.request_status(child)
        await asyncio.gather(*bench.tasks)
    assert [request.partition(b"\r\n")[0] for request in requests] == [b"POST /worker_get_status HTTP/1.1"]
    assert child.status.model_names == ["m", "n"]


@on_bench
async def test_a_worker_whose_url_may_not_be_dialled_is_not_asked(bench: Bench) -> None:
    with answering(response(b'{"model_names": ["n"]}')) as (url, requests):
        child = bench.registry.register(registration(worker(url)))
        child.local = False
        bench.manager.request_status(child)
        await eventually_async(lambda: bench.manager._awaiting_status)
        for task in bench.tasks:
            task.cancel()
        await asyncio.gather(*bench.tasks, return_exceptions=True)
    assert requests == []
    assert child.status.model_names == ["m"]


@on_bench
async def test_a_compressed_status_is_not_read(bench: Bench) -> None:
    with answering(response(BOMB, "content-encoding: gzip, gzip")) as (url, requests):
        child = bench.registry.register(registration(worker(url)))
        bench.manager.request_status(child)
        await eventually_async(lambda: requests)
        for task in bench.tasks:
            task.cancel()
        await asyncio.gather(*bench.tasks, return_exceptions=True)
    assert b"accept-encoding: identity" in requests[0]
    assert child.status.model_names == ["m"]


@pytest.mark.parametrize(
    ("told", "running", "ended", "load"),
    [
        (1, 0, 1, 0),  # the one that ended
        (1, 0, 0, 1),  # a stranger's
        (3, 2, 1, 2),
        (4, 2, 1, 3),
        (2, 2, 1, 2),  # all of them run
        (0, 0, 3, 0),
    ],
)
def test_requests_that_ended_while_a_probe_waited_are_no_load(told: int, running: int, ended: int, load: int) -> None:
    async def work(bench: Bench) -> None:
        engine = bench.start("e0")
        probed = _ProbedChild(engine, bench.manager)
        status = NodeStatus((ModelStatus("m", "openai", 1.0, told),), 1.0, told)
        probed.report(NodeStatus((ModelStatus("m", "openai", 1.0),), 1.0), 0)
        leases = [engine.lease(engine.shares["m", "openai"]) for _ in range(running + ended)]
        for lease in leases[running:]:
            lease.release()
        assert probed.ended == ended
        probed.report(status, ended)
        assert engine.load(("m", "openai")) == engine.total.value == load

    on_bench(work)()


def test_an_engine_process_gets_no_secret_of_its_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIERARCHY_JOIN_TOKEN", "t")

    @on_bench
    async def body(bench: Bench) -> None:
        bench.manager.start(EngineConfig(name="e", kind="simulated", model="m"))
        (process,) = bench.manager.processes
        assert "PATH" in process.environ
        assert "HIERARCHY_JOIN_TOKEN" not in process.environ

    body()


@contextlib.contextmanager
def worker_answers(answer: Callable[[], NodeStatus]) -> Iterator[None]:
    """All FastChat workers answer with this; an error is no answer."""

    async def read(*_: object) -> NodeStatus:
        await asyncio.sleep(0)
        return answer()

    with mock.patch.dict(ADAPTERS, {"fastchat": SimpleNamespace(read=read)}):
        yield


@on_bench
async def test_the_status_of_a_former_process_is_not_taken_for_that_of_the_next_one(bench: Bench) -> None:
    child = bench.registry.register(registration(worker(models=["old"])))
    names = ["old"]

    def answer() -> NodeStatus:
        status = NodeStatus((ModelStatus(names[0], "fastchat"),), 1.0)
        if names == ["old"]:  # it ends with this response, and registers at once with another model
            names[:] = ["new"]
            bench.registry.register(registration(worker(models=["new"])))
            bench.manager.request_status(child)
        return status

    with worker_answers(answer):
        bench.manager.request_status(child)
        await asyncio.gather(*bench.tasks)
    assert child.status.model_names == ["new"]
    assert bench.manager._awaiting_status == set()


@on_bench
async def test_a_worker_that_came_back_as_another_child_is_asked_while_the_former_one_still_is(bench: Bench) -> None:
    with worker_answers(lambda: NodeStatus((ModelStatus("n", "fastchat"),), 1.0)):
        bench.manager.request_status(bench.registry.register(registration(worker())))
        bench.registry.depart(WORKER)
        child = bench.registry.register(registration(worker()))
        bench.manager.request_status(child)
        await asyncio.gather(*bench.tasks)
    assert child.status.model_names == ["n"]
