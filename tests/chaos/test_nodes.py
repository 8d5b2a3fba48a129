"""Nodes that die, stop, restart and run out of descriptors."""

from __future__ import annotations

import asyncio
import signal
import socket
import time

import pytest

from tests.chaos.conftest import Figure
from tests.chaos.load import Load, ask
from tests.chaos.test_engines import at
from tests.chaos.tree import Process, Trees, wait_for
from tests.support import eventually, eventually_async


def test_kill_9_a_site_controller(bed: Trees, whole: bool, figure: Figure) -> None:
    root = bed.node("root")
    sites = [
        bed.node(f"site{number}", parents=(root,), engines=bed.engines(f"s{number}e", 2)) for number in range(1, 4)
    ]
    wait_for(root, 6)
    back: list[float] = []

    async def run(load: Load) -> None:
        done = False
        running = asyncio.ensure_future(load.run(until=lambda: done))
        for number in range(5 if whole else 1):
            await asyncio.sleep(1.0)
            victim = sites[number % 3]
            await asyncio.to_thread(victim.kill)
            await asyncio.sleep(1.5)
            await asyncio.to_thread(victim.start)
            back.append(await asyncio.to_thread(wait_for, root, 6))
        done = True
        await running

    load = Load(at(root), clients=60 if whole else 24, tokens=16, pause_s=0.0 if whole else 0.02)
    asyncio.run(run(load))
    figure(
        f"{len(load.failed)} of {len(load.outcomes)} requests were lost; the tree was right again "
        f"{max(back):.2f} s after the site was back",
        reach="0, 3 s",
    )
    assert load.failed == [], load.causes()
    assert max(back) <= 3.0


def test_kill_9_the_root_then_restart(bed: Trees, whole: bool, figure: Figure) -> None:
    """Meanwhile the sites serve their own clients."""
    root = bed.node("root")
    sites = [
        bed.node(f"site{number}", parents=(root,), engines=[engine])
        for number, engine in enumerate(bed.engines("e", 8 if whole else 3), 1)
    ]
    wait_for(root, len(sites))
    back = []
    for pause_s in (1.0, 10.0) if whole else (0.5,):
        root.kill()
        time.sleep(pause_s)
        assert asyncio.run(ask(at(sites[0]))).ok
        root.start()
        back.append(wait_for(root, len(sites)))
    figure(f"all {len(sites)} children were back {max(back):.2f} s after the root was", reach="5 s")
    assert max(back) <= 5.0
    assert asyncio.run(ask(at(root))).ok


def test_kill_9_one_of_two_roots(bed: Trees, whole: bool, figure: Figure) -> None:
    roots = [bed.node(f"root{number}", replica_of="root") for number in (1, 2)]
    engines = bed.engines("e", 2)
    bed.node("site", parents=(roots[0], roots[1]), engines=engines)
    for root in roots:
        wait_for(root, 2)

    async def run(load: Load) -> float:
        done = False
        running = asyncio.ensure_future(load.run(until=lambda: done))
        await asyncio.sleep(1.0)
        roots[0].signal(signal.SIGKILL)
        killed = time.monotonic()
        await asyncio.sleep(2.0 if whole else 0.5)
        await asyncio.to_thread(roots[0].start)
        await asyncio.to_thread(wait_for, roots[0], 2)
        done = True
        await running
        return killed

    load = Load(at(*roots), clients=40 if whole else 16, pause_s=0.01)
    killed = asyncio.run(run(load))
    new = [outcome for outcome in load.failed if outcome.began > killed + 0.05]
    figure(
        f"{len(new)} of {len(load.outcomes)} new requests failed; {len(load.failed) - len(new)} died with it", reach="0"
    )
    assert new == [], load.causes()


def test_sigterm_under_streams(bed: Trees, whole: bool, figure: Figure) -> None:
    count = 500 if whole else 80
    engines = bed.engines("e", 4 if whole else 1, slots=200, tokens_per_s=4.0, tokens=400)
    root = bed.node("root", engines=engines, grace_s=8.0)
    wait_for(root, len(engines))

    async def run(tokens: int) -> tuple[Load, float]:
        load = Load(at(root), clients=count, tokens=tokens, stream=True)
        running = asyncio.ensure_future(load.run(count=count))
        streaming = lambda: root.total("hierarchy_time_to_first_byte_seconds_count") >= count  # noqa: E731
        await eventually_async(lambda: asyncio.to_thread(streaming), "all to stream", 30.0)
        root.stop()
        took = await asyncio.to_thread(root.wait_gone, 20.0)
        await running
        return load, took

    finishing, took = asyncio.run(run(24 if whole else 16))  # done within the grace
    figure(f"{len(finishing.failed)} of {count} streams were cut; it ended after {took:.1f} s", reach="0 within 8 s")
    assert finishing.failed == [], finishing.causes()
    root = bed.node("root", engines=engines, grace_s=2.0)
    wait_for(root, len(engines))
    lasting, took = asyncio.run(run(400))
    told = [outcome for outcome in lasting.outcomes if outcome.told]
    figure(
        f"with longer streams it ended {took - 2:.2f} s after the grace; {len(told)} of {count} were told", reach="2 s"
    )
    assert took <= 4.0
    assert len(told) == count, lasting.causes()


def test_rolling_restart_of_every_node(bed: Trees, whole: bool, figure: Figure) -> None:
    """Two of each in three tiers. The client tries the other address where a connection is refused, and only there."""
    engines = bed.engines("e", 2)
    tiers: list[tuple[Process, ...]] = [tuple(bed.node(f"root{n}", replica_of="root") for n in (1, 2))]
    tiers.append(tuple(bed.node(f"site{n}", replica_of="site", parents=tiers[0]) for n in (1, 2)))
    tiers.append(tuple(bed.node(f"rack{n}", replica_of="rack", parents=tiers[1], engines=engines) for n in (1, 2)))
    for root in tiers[0]:
        wait_for(root, 2)

    def whole_again() -> bool:
        return all(len(node.get("/tree")["children"]) == 2 for tier in tiers[:2] for node in tier) and all(
            child["state"] == "up"
            for tier in tiers[:2]
            for node in tier
            for child in node.get("/tree")["children"].values()
        )

    async def run(load: Load) -> None:
        done = False
        running = asyncio.ensure_future(load.run(until=lambda: done))
        for node in [node for tier in tiers for node in tier] if whole else [tiers[0][0], tiers[1][0]]:
            await asyncio.sleep(0.3)
            node.stop()
            await asyncio.to_thread(node.wait_gone, 40.0)
            await asyncio.to_thread(node.start)
            await asyncio.to_thread(eventually, whole_again, "both instances of each to be back", 30.0)
        done = True
        await running

    load = Load(at(*tiers[0]), clients=40 if whole else 12, tokens=8, stream=True, pause_s=0.0 if whole else 0.02)
    asyncio.run(run(load))
    figure(f"{len(load.failed)} of {len(load.outcomes)} requests failed", reach="0")
    assert load.failed == [], load.causes()


def test_file_descriptors_used_up(bed: Trees, whole: bool, figure: Figure) -> None:
    engines = bed.engines("e", 2)
    root = bed.node("root", files=100)
    bed.node("site", parents=(root,), engines=engines)
    wait_for(root, 2)
    reports = len(root.get("/tree")["children"])
    held: list[socket.socket] = []
    refused = waited = 0
    began = time.monotonic()
    while time.monotonic() < began + (20.0 if whole else 3.5):
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
    kept = socket.create_connection(("127.0.0.1", root.port), timeout=2.0)
    del kept
    for sock in held:
        sock.close()
    freed = time.monotonic()
    eventually(lambda: asyncio.run(ask(at(root))).ok, "the root to serve again", 20.0)
    recovered = time.monotonic() - freed
    lost = [line for line in root.log.read_text().splitlines() if "dropped" in line or "left" in line]
    figure(
        f"{refused} of {refused + waited} connections were refused at once; the site was {'lost' if lost else 'kept'}; "
        f"served again {recovered:.2f} s after",
        reach="clearly, reports survive, 5 s",
    )
    assert waited == 0
    assert recovered <= 5.0
    assert lost == []
    assert len(root.get("/tree")["children"]) == reports


@pytest.mark.parametrize("how", ["site", "parent"])
def test_autonomy(bed: Trees, figure: Figure, how: str) -> None:
    """A site without its parent serves its own clients; a parent without a site spills over to the others."""
    root = bed.node("root")
    sites = [bed.node(f"site{n}", parents=(root,), engines=bed.engines(f"s{n}e", 1)) for n in (1, 2)]
    wait_for(root, 2)
    (root if how == "site" else sites[0]).kill()
    load = Load(at(sites[0] if how == "site" else root), clients=4)
    asyncio.run(load.run(count=40))
    figure(f"{len(load.failed)} of {len(load.outcomes)} requests failed", reach="0")
    assert load.failed == [], load.causes()
