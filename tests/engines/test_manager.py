"""What a node does for its engines, without any: the registry's children are real, the engines answer nobody."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from hierarchy.config.models import EngineConfig, NodeConfig, Settings
from hierarchy.engines.manager import Keeper
from hierarchy.registry import Registry
from hierarchy.registry.child import Child
from hierarchy.runtime.tasks import Tasks
from hierarchy.security.access import Access
from hierarchy.wire.messages import Identity
from hierarchy.wire.status import ModelStatus, NodeStatus
from tests.builders import Clock
from tests.support import free_port


class Bench:
    """A keeper whose registry and tasks can be looked at. fallen: (engine, why), in order."""

    def __init__(self) -> None:
        clock = Clock()
        self.registry = Registry(Identity("n", "http://n", "i"), clock)
        self.tasks = Tasks()
        self.fallen: list[tuple[str, str]] = []
        access = Access(NodeConfig(name="n", advertise="http://127.0.0.1:1"))
        self.keeper = Keeper(self.registry, access, self.tasks, self.fell, Settings(), clock)

    def fell(self, child: Child, why: str) -> None:
        self.fallen.append((child.name, why))

    def start(self, name: str) -> Child:
        self.keeper.start(EngineConfig(name=name, kind="vllm", url=f"http://127.0.0.1:{free_port()}"))
        return self.registry.children[name]


def on_a_bench(test: Callable[[Bench], None]) -> Callable[[], None]:
    async def work() -> None:
        bench = Bench()
        test(bench)
        for task in bench.tasks:
            task.cancel()
        await asyncio.gather(*bench.tasks, return_exceptions=True)
        await bench.keeper.stop()

    def run() -> None:
        asyncio.run(work())

    return run


@on_a_bench
def test_an_engine_is_declared_probed_and_retired(bench: Bench) -> None:
    bench.start("gpu")
    bench.start("other")
    assert {task.get_name() for task in bench.tasks} == {"probe gpu", "probe other"}
    bench.keeper.retire("gpu")
    assert list(bench.registry.children) == ["other"]
    assert [task.get_name() for task in bench.tasks if not task.cancelling()] == ["probe other"]
    assert repr(bench.keeper) == "<Keeper other>"


@on_a_bench
def test_that_an_engine_went_down_is_told_once(bench: Bench) -> None:
    child = bench.start("gpu")
    status = NodeStatus((ModelStatus("m"),), 1.0)
    bench.registry.report(child, status)
    bench.keeper.down(child, "no answer")
    bench.keeper.down(child, "still none")
    assert bench.fallen == [("gpu", "no answer")]
    assert child.down == "still none"
    bench.registry.report(child, status)
    bench.keeper.down(child, "again")
    assert [why for _, why in bench.fallen] == ["no answer", "again"]


@on_a_bench
def test_nobody_is_asked_for_a_status_before_there_is_a_way_to_ask(bench: Bench) -> None:
    bench.keeper.ask_status(Child("w", "http://127.0.0.1:1", "fastchat"))
    assert list(bench.tasks) == []
