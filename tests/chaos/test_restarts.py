"""Nodes of three levels are killed or stopped and started again under load, while clients never retry."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

import openai
import pytest

from tests.chaos.conftest import Record
from tests.chaos.hogs import Hogs
from tests.chaos.load import MODEL, Load
from tests.chaos.processes import TIMEOUT_S, Process, Processes, wait_for
from tests.chaos.test_engines import addresses
from tests.support import eventually

pytestmark = pytest.mark.slow

CLIENTS = 8


class Clients:
    """Clients of OpenAI's library that never retry. outcomes: how many requests ended how."""

    def __init__(self, node: Process) -> None:
        self.outcomes: Counter[str] = Counter()
        self.done = False
        self._url = f"{node.url}/v1"

    async def run(self, work: Callable[[], None]) -> None:
        """Send requests until `work`, in a thread, is done."""
        clients = [asyncio.ensure_future(self._client(stream=bool(number % 2))) for number in range(CLIENTS)]
        try:
            await asyncio.to_thread(work)
        finally:
            self.done = True
            await asyncio.gather(*clients)

    def __str__(self) -> str:
        others = [f"{count} x {outcome}" for outcome, count in sorted(self.outcomes.items()) if outcome != "served"]
        return f"{self.outcomes['served']} requests served, {', '.join(others) or 'no other'}"

    async def _client(self, *, stream: bool) -> None:
        async with openai.AsyncOpenAI(base_url=self._url, api_key="x", max_retries=0, timeout=TIMEOUT_S) as client:
            while not self.done:
                self.outcomes[await self._send(client, stream=stream)] += 1

    async def _send(self, client: openai.AsyncOpenAI, *, stream: bool) -> str:
        try:
            if stream:
                parts = await client.completions.create(model=MODEL, prompt="hello", max_tokens=8, stream=True)
                async for _ in parts:
                    pass
            else:
                await client.completions.create(model=MODEL, prompt="hello", max_tokens=8)
        except openai.APIStatusError as error:
            return str(error.status_code)
        except openai.APIConnectionError:
            await asyncio.sleep(0.05)  # no root listens, or it was killed
            return "no connection"
        except openai.APIError:
            return "cut"
        except Exception as error:  # what the library passes on of its transport's errors, of a stream that was cut
            return type(error).__name__
        return "served"

    def wait_until_served(self, count: int = 20) -> None:
        """Wait until more requests have been served."""
        before = self.outcomes["served"]
        eventually(lambda: self.outcomes["served"] >= before + count, "more requests to be served", TIMEOUT_S)


@pytest.mark.parametrize("how", ["killed", "stopped"])
@pytest.mark.parametrize("level", [0, 1, 2], ids=["root", "site", "rack"])
def test_a_node_that_restarts_makes_no_model_unknown(
    processes: Processes, record: Record, level: int, how: str
) -> None:
    """Two things are allowed: no connection while no root listens, and 502 for what a killed rack had received."""
    root = processes.node("root")
    site = processes.node("site", parents=(root,))
    rack = processes.node("rack", parents=(site,), engines=processes.engines("e", 2))
    wait_for(root, 2)
    clients = Clients(root)
    victim = (root, site, rack)[level]

    def restart() -> None:
        clients.wait_until_served()
        if how == "killed":
            victim.kill()
        else:
            victim.terminate()
            victim.wait_gone()
        victim.start()
        clients.wait_until_served()

    asyncio.run(clients.run(restart))
    outcomes = clients.outcomes
    record(str(clients), target="0 x 404")
    assert outcomes["404"] == 0, outcomes
    assert not {outcome for outcome in outcomes if outcome.startswith("5")} - {"502"}, outcomes
    assert outcomes["502"] <= (CLIENTS if (level, how) == (2, "killed") else 0), outcomes


def test_a_whole_tree_that_is_killed_comes_back(processes: Processes, record: Record) -> None:
    """Power returns, the root first. Nobody is told that the model does not exist; who waits too long gets 503."""
    root = processes.node("root")
    site = processes.node("site", parents=(root,))
    engines = processes.engines("e", 2)
    rack = processes.node("rack", parents=(site,), engines=engines)
    wait_for(root, 2)
    clients = Clients(root)

    def restart() -> None:
        clients.wait_until_served()
        for process in (root, site, rack, *engines):
            process.kill()
        for process in (root, site, rack, *engines):
            process.start()
        clients.wait_until_served()

    asyncio.run(clients.run(restart))
    record(str(clients), target="0 x 404")
    assert clients.outcomes.keys() <= {"served", "no connection", "cut", "503"}, clients


@pytest.mark.parametrize("end", ["kill -9", "SIGTERM"])
@pytest.mark.parametrize("victim", ["root", "site"])
def test_a_node_that_restarts_again_and_again(
    processes: Processes, hogs: Hogs, full: bool, record: Record, end: str, victim: str
) -> None:
    """Every core is busy. Clients at the root and at the site: while a node knows nothing yet, they wait or get 503."""
    root = processes.node("root")
    site = processes.node("site", parents=(root,), engines=processes.engines("e", 2))
    wait_for(root, 2)
    restarted = root if victim == "root" else site

    async def run(loads: list[Load]) -> None:
        done = False
        running = asyncio.gather(*(load.run(until=lambda: done) for load in loads))
        for _ in range(10 if full else 2):
            await asyncio.sleep(0.5)
            if end == "SIGTERM":
                restarted.terminate()
                await asyncio.to_thread(restarted.wait_gone, 40.0)
            else:
                await asyncio.to_thread(restarted.kill)
            restarted.spawn()
            await asyncio.to_thread(wait_for, root, 2)
        await asyncio.sleep(0.5)
        done = True
        await running

    loads = [Load(addresses(node), clients=4, tokens=4, pause_s=0.02) for node in (root, site)]
    asyncio.run(run(loads))
    statuses = Counter(outcome.status for load in loads for outcome in load.outcomes)
    others = {status: count for status, count in statuses.items() if status not in (0, 200, 404)}
    record(
        f"{statuses[404]} of {statuses.total()} requests got 404, {statuses[200]} were served, "
        f"{statuses[0]} found no node or were cut, others {others}",
        target="0",
    )
    assert statuses[404] == 0
    assert statuses[200] > 0
