"""Nodes that are killed, terminated, restarted, or run out of file descriptors."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest

from tests.chaos.conftest import Record
from tests.chaos.load import Load, send
from tests.chaos.processes import Process, Processes, wait_for
from tests.chaos.test_engines import addresses
from tests.support import eventually, eventually_async

pytestmark = pytest.mark.slow


def test_kill_9_a_site_controller(processes: Processes, full: bool, record: Record) -> None:
    root = processes.node("root")
    sites = [
        processes.node(f"site{number}", parents=(root,), engines=processes.engines(f"s{number}e", 2))
        for number in range(1, 4)
    ]
    wait_for(root, 6)
    back: list[float] = []

    async def run(load: Load) -> None:
        done = False
        running = asyncio.ensure_future(load.run(until=lambda: done))
        for number in range(5 if full else 1):
            await asyncio.sleep(1.0)
            victim = sites[number % 3]
            await asyncio.to_thread(victim.kill)
            await asyncio.sleep(1.5)
            await asyncio.to_thread(victim.start)
            back.append(await asyncio.to_thread(wait_for, root, 6))
        done = True
        await running

    load = Load(addresses(root), clients=60 if full else 24, tokens=16, pause_s=0.0 if full else 0.02)
    asyncio.run(run(load))
    record(
        f"{len(load.failed)} of {len(load.outcomes)} requests were lost; the tree was complete "
        f"{max(back):.2f} s after the site was started",
        target="0, 3 s",
    )
    assert load.failed == [], load.causes()
    assert max(back) <= 3.0


def test_kill_9_the_root_then_restart(processes: Processes, full: bool, record: Record) -> None:
    """The sites serve their own clients while the root is down."""
    root = processes.node("root")
    sites = [
        processes.node(f"site{number}", parents=(root,), engines=[engine])
        for number, engine in enumerate(processes.engines("e", 8 if full else 3), 1)
    ]
    wait_for(root, len(sites))
    back = []
    for pause_s in (1.0, 10.0) if full else (0.5,):
        root.kill()
        time.sleep(pause_s)
        assert asyncio.run(send(addresses(sites[0]))).ok
        root.start()
        back.append(wait_for(root, len(sites)))
    record(f"all {len(sites)} children were registered {max(back):.2f} s after the root was started", target="5 s")
    assert max(back) <= 5.0
    assert asyncio.run(send(addresses(root))).ok


def test_kill_9_one_of_two_roots(processes: Processes, full: bool, record: Record) -> None:
    roots = [processes.node(f"root{number}", replica_of="root") for number in (1, 2)]
    engines = processes.engines("e", 2)
    processes.node("site", parents=(roots[0], roots[1]), engines=engines)
    for root in roots:
        wait_for(root, 2)

    async def run(load: Load) -> float:
        done = False
        running = asyncio.ensure_future(load.run(until=lambda: done))
        await asyncio.sleep(1.0)
        await asyncio.to_thread(roots[0].kill)
        killed_at = time.monotonic()  # on a busy machine the process listens for a while after the signal
        await asyncio.sleep(2.0 if full else 0.5)
        await asyncio.to_thread(roots[0].start)
        await asyncio.to_thread(wait_for, roots[0], 2)
        done = True
        await running
        return killed_at

    load = Load(addresses(*roots), clients=40 if full else 16, pause_s=0.01)
    killed_at = asyncio.run(run(load))
    new = [outcome for outcome in load.failed if outcome.started > killed_at + 0.05]
    record(
        f"{len(new)} of {len(load.outcomes)} new requests failed; "
        f"{len(load.failed) - len(new)} were running when the root was killed",
        target="0",
    )
    assert new == [], load.causes()


def test_sigterm_under_streams(processes: Processes, full: bool, record: Record) -> None:
    count = 500 if full else 80
    engines = processes.engines("e", 4 if full else 1, slots=200, tokens_per_s=4.0, tokens=400)
    root = processes.node("root", engines=engines, grace_s=8.0)
    wait_for(root, len(engines))

    async def run(tokens: int) -> tuple[Load, float]:
        load = Load(addresses(root), clients=count, tokens=tokens, stream=True)
        running = asyncio.ensure_future(load.run(count=count))
        streaming = lambda: root.total("hierarchy_time_to_first_byte_seconds_count") >= count  # noqa: E731
        await eventually_async(lambda: asyncio.to_thread(streaming), "all streams to start", 30.0)
        root.terminate()
        took = await asyncio.to_thread(root.wait_gone, 20.0)
        await running
        return load, took

    finishing, took = asyncio.run(run(24 if full else 16))  # these end within `grace_s`
    record(
        f"{len(finishing.failed)} of {count} streams were cut; the node ended after {took:.1f} s", target="0 within 8 s"
    )
    assert finishing.failed == [], finishing.causes()
    root = processes.node("root", engines=engines, grace_s=2.0)
    wait_for(root, len(engines))
    lasting, took = asyncio.run(run(400))
    with_error = [outcome for outcome in lasting.outcomes if outcome.has_error_event]
    record(
        f"with longer streams, the node ended {took - 2:.2f} s after `grace_s`; "
        f"{len(with_error)} of {count} had an error event",
        target="2 s",
    )
    assert took <= 4.0
    assert len(with_error) == count, lasting.causes()


def test_rolling_restart_of_every_node(processes: Processes, full: bool, record: Record) -> None:
    """Three tiers of two replicas. The client tries the other address if a connection is refused, and only then."""
    engines = processes.engines("e", 2)
    tiers: list[tuple[Process, ...]] = [tuple(processes.node(f"root{n}", replica_of="root") for n in (1, 2))]
    tiers.append(tuple(processes.node(f"site{n}", replica_of="site", parents=tiers[0]) for n in (1, 2)))
    tiers.append(
        tuple(processes.node(f"rack{n}", replica_of="rack", parents=tiers[1], engines=engines) for n in (1, 2))
    )
    for root in tiers[0]:
        wait_for(root, 2)

    def complete() -> bool:
        return all(len(node.get("/tree")["children"]) == 2 for tier in tiers[:2] for node in tier) and all(
            child["state"] == "up"
            for tier in tiers[:2]
            for node in tier
            for child in node.get("/tree")["children"].values()
        )

    async def run(load: Load) -> None:
        done = False
        running = asyncio.ensure_future(load.run(until=lambda: done))
        for node in [node for tier in tiers for node in tier] if full else [tiers[0][0], tiers[1][0]]:
            await asyncio.sleep(0.3)
            node.terminate()
            await asyncio.to_thread(node.wait_gone, 40.0)
            await asyncio.to_thread(node.start)
            await asyncio.to_thread(eventually, complete, "both replicas of each to be registered", 30.0)
        done = True
        await running

    load = Load(addresses(*tiers[0]), clients=40 if full else 12, tokens=8, stream=True, pause_s=0.0 if full else 0.02)
    asyncio.run(run(load))
    record(f"{len(load.failed)} of {len(load.outcomes)} requests failed", target="0")
    assert load.failed == [], load.causes()


def test_file_descriptors_exhausted(processes: Processes, full: bool, record: Record) -> None:
    engines = processes.engines("e", 2)
    root = processes.node("root", files=100)
    processes.node("site", parents=(root,), engines=engines)
    wait_for(root, 2)
    children = len(root.get("/tree")["children"])

    def lines_about_the_site() -> list[str]:
        return [line for line in root.log.read_text().splitlines() if "site" in line]

    lines_before = lines_about_the_site()
    held: list[socket.socket] = []
    refused = waited = 0
    start = time.monotonic()
    while time.monotonic() < start + (20.0 if full else 3.5):
        sock = socket.create_connection(("127.0.0.1", root.port), timeout=2.0)
        held.append(sock)
        if len(held) > 90:
            sock.settimeout(1.0)
            try:
                sock.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
                refused += sock.recv(1000) == b""
            except TimeoutError:
                waited += 1
            except OSError:
                refused += 1
            held.pop().close()
            time.sleep(0.05)
    extra = socket.create_connection(("127.0.0.1", root.port), timeout=2.0)
    del extra
    for sock in held:
        sock.close()
    freed_at = time.monotonic()
    eventually(lambda: asyncio.run(send(addresses(root))).ok, "the root to serve again", 20.0)
    recovered = time.monotonic() - freed_at
    lost = lines_about_the_site()[len(lines_before) :]  # any change of a child is logged
    record(
        f"{refused} of {refused + waited} connections were refused at once; the site was {'lost' if lost else 'kept'}; "
        f"served again after {recovered:.2f} s",
        target="refused clearly, reports continue, 5 s",
    )
    assert waited == 0
    assert recovered <= 5.0
    assert lost == []
    assert len(root.get("/tree")["children"]) == children


@pytest.mark.parametrize("survivor", ["site", "parent"])
def test_a_site_and_its_parent_serve_without_each_other(processes: Processes, record: Record, survivor: str) -> None:
    """A site without its parent serves its own clients; a parent without a site uses the other sites."""
    root = processes.node("root")
    sites = [processes.node(f"site{n}", parents=(root,), engines=processes.engines(f"s{n}e", 1)) for n in (1, 2)]
    wait_for(root, 2)
    (root if survivor == "site" else sites[0]).kill()
    load = Load(addresses(sites[0] if survivor == "site" else root), clients=4)
    asyncio.run(load.run(count=40))
    record(f"{len(load.failed)} of {len(load.outcomes)} requests failed", target="0")
    assert load.failed == [], load.causes()
