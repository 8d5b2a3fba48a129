"""Links cut in the middle of a stream: the client is told in time, the site serves on by itself, and the link heals."""

from __future__ import annotations

import time
from dataclasses import dataclass

import pytest

from tests.subnets.tree import Asked, Tree

PROMISED_S = 12.0  # both ends of a link have found by then that it is dead
ASKING_S = 1.0  # what it takes to ask, by a program that has to start, on a busy machine
HEALED_S = 20.0
#: by engine: a machine beside it, and a node above it from which it is not cut off
CUT_OFF = {"gpu-rack": ("gpu-rack", "rack"), "gpu-b": ("gpu-b", "site-b")}


@dataclass
class Seen:
    """What came of requests for an engine that was cut off from the dmz."""

    stream: Asked  #: open at the cut, from the dmz
    late: Asked  #: sent right behind the cut, from the dmz
    own: Asked  #: sent meanwhile by a client on the engine's side
    freed_s: float  #: from the cut until the engine had nothing more to do
    healed: Asked  #: the dmz again, afterwards


@dataclass
class Aftermath:
    """Two links were cut at once: the cable to the rack was pulled, and a NAT forgot the connections of site-b."""

    cut_at: float
    others: Asked  #: from the dmz, meanwhile, for an engine behind neither
    seen: dict[str, Seen]


@pytest.fixture(scope="module")
def aftermath(tree: Tree) -> Aftermath:
    streams = {engine: tree.ask("client", "root", engine, stream=True, max_tokens=4000) for engine in CUT_OFF}
    for stream in streams.values():
        assert "data: " in next(stream)["line"]
    with tree.network.unplugged("inner"), tree.network.muted("dmz", "site-b"):
        cut_at = time.monotonic()
        sent = {engine: tree.send("client", "root", engine) for engine in CUT_OFF}
        own = {engine: tree.ask(machine, node, engine).wait() for engine, (machine, node) in CUT_OFF.items()}
        others = tree.ask("client", "root", "gpu-a").wait()
        freed_s = {}
        for engine, stream in streams.items():
            stream.wait()
            tree.wait_for(engine, engine, "/simulated", '"running":0')
            freed_s[engine] = time.monotonic() - cut_at
        late = {engine: Asked(process).wait() for engine, process in sent.items()}
    seen = {}
    for engine in CUT_OFF:
        tree.wait_for("client", "root", "/v1/models", f'"id":"{engine}"', deadline_s=HEALED_S)
        healed = tree.ask("client", "root", engine).wait()
        seen[engine] = Seen(streams[engine], late[engine], own[engine], freed_s[engine], healed)
    return Aftermath(cut_at, others, seen)


@pytest.mark.parametrize("engine", CUT_OFF)
def test_the_client_is_told_in_time(aftermath: Aftermath, engine: str) -> None:
    stream = aftermath.seen[engine].stream
    assert stream.complete
    assert stream.body.count("event: error") == 1
    assert "[DONE]" not in stream.body
    assert stream.ended_at - aftermath.cut_at <= PROMISED_S


@pytest.mark.parametrize("engine", CUT_OFF)
def test_the_engine_is_freed_in_time(aftermath: Aftermath, engine: str) -> None:
    assert aftermath.seen[engine].freed_s <= PROMISED_S + ASKING_S


@pytest.mark.parametrize("engine", CUT_OFF)
def test_a_request_into_a_dead_link_is_refused_in_time(aftermath: Aftermath, engine: str) -> None:
    late = aftermath.seen[engine].late
    assert late.complete
    assert late.status in (502, 503)
    assert late.ended_at - aftermath.cut_at <= PROMISED_S + ASKING_S


@pytest.mark.parametrize("engine", CUT_OFF)
def test_a_site_that_lost_its_uplink_serves_its_own_clients(aftermath: Aftermath, engine: str) -> None:
    own = aftermath.seen[engine].own
    assert own.status == 200
    assert own.head["headers"]["x-hierarchy-path"] == engine
    assert own.ended_at < aftermath.seen[engine].stream.ended_at  # before anybody had noticed


def test_other_sites_are_served_meanwhile(aftermath: Aftermath) -> None:
    assert aftermath.others.status == 200
    assert aftermath.others.complete


@pytest.mark.parametrize("engine", CUT_OFF)
def test_the_link_heals(aftermath: Aftermath, engine: str) -> None:
    assert aftermath.seen[engine].healed.status == 200
