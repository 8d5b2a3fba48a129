"""A link is cut in the middle of a stream: the client gets an error in time, the site continues, the link recovers."""

from __future__ import annotations

import time
from dataclasses import dataclass

import pytest

from hierarchy.config.models import Settings
from tests.subnets.tree import Response, Tree

pytestmark = pytest.mark.slow

DETECTION_S = 12.0  # both ends of a link have detected by then that it is dead
AGENT_S = 1.0  # to start the agent and send a request, on a busy machine
RECOVERY_S = 20.0
#: engine: (a machine in its subnet, a node above it on its side of the cut)
CUT_OFF = {"gpu-rack": ("gpu-rack", "rack"), "gpu-b": ("gpu-b", "site-b")}


@dataclass
class CutOff:
    """What happened to an engine that was cut off from the dmz, and to its requests."""

    stream: Response  #: to the dmz, open during the cut
    late: Response  #: to the dmz, requested right after the cut
    own: Response  #: to a client on the engine's side, requested during the cut
    freed_s: float  #: from the cut until the engine was idle
    recovered: Response  #: to the dmz, after the cut


@dataclass
class Outcome:
    """Two links were cut at once: the cable to the rack was pulled, and a NAT forgot the connections of site-b."""

    cut_at: float  #: monotonic time
    other_site: Response  #: to the dmz, from an engine behind neither link, during the cut
    cut_off: dict[str, CutOff]  #: by engine


@pytest.fixture(scope="module")
def outcome(tree: Tree) -> Outcome:
    streams = {engine: tree.chat("client", "root", engine, stream=True, max_tokens=4000) for engine in CUT_OFF}
    for stream in streams.values():
        assert "data: " in next(stream)["line"]
    with tree.network.unplugged("inner"), tree.network.blackholed("dmz", "site-b"):
        cut_at = time.monotonic()
        sent = {engine: tree.start_chat("client", "root", engine) for engine in CUT_OFF}
        own = {engine: tree.chat(machine, node, engine).wait() for engine, (machine, node) in CUT_OFF.items()}
        other_site = tree.chat("client", "root", "gpu-a").wait()
        freed_s = {}
        for engine, stream in streams.items():
            stream.wait()
            tree.wait_for(engine, engine, "/simulated", '"running":0')
            freed_s[engine] = time.monotonic() - cut_at
        late = {engine: Response(process).wait() for engine, process in sent.items()}
    cut_off = {}
    for engine in CUT_OFF:
        tree.wait_for("client", "root", "/v1/models", f'"id":"{engine}"', deadline_s=RECOVERY_S)
        recovered = tree.chat("client", "root", engine).wait()
        cut_off[engine] = CutOff(streams[engine], late[engine], own[engine], freed_s[engine], recovered)
    return Outcome(cut_at, other_site, cut_off)


@pytest.mark.parametrize("engine", CUT_OFF)
def test_the_client_gets_an_error_event_in_time(outcome: Outcome, engine: str) -> None:
    stream = outcome.cut_off[engine].stream
    assert stream.complete
    assert stream.body.count("event: error") == 1
    assert "[DONE]" not in stream.body
    assert stream.ended_at - outcome.cut_at <= DETECTION_S


@pytest.mark.parametrize("engine", CUT_OFF)
def test_the_engine_is_freed_in_time(outcome: Outcome, engine: str) -> None:
    assert outcome.cut_off[engine].freed_s <= DETECTION_S + AGENT_S


@pytest.mark.parametrize("engine", CUT_OFF)
def test_a_request_on_a_dead_link_is_refused_in_time(outcome: Outcome, engine: str) -> None:
    """It is held for a while, since the link may come back."""
    late = outcome.cut_off[engine].late
    assert late.complete
    assert late.status in (502, 503)
    assert late.ended_at - outcome.cut_at <= DETECTION_S + Settings().hold_s + AGENT_S


@pytest.mark.parametrize("engine", CUT_OFF)
def test_a_site_that_lost_its_uplink_serves_its_own_clients(outcome: Outcome, engine: str) -> None:
    own = outcome.cut_off[engine].own
    assert own.status == 200
    assert own.head["headers"]["x-hierarchy-path"] == engine
    assert own.ended_at < outcome.cut_off[engine].stream.ended_at  # before the cut was detected


def test_other_sites_are_served_during_the_cut(outcome: Outcome) -> None:
    assert outcome.other_site.status == 200
    assert outcome.other_site.complete


@pytest.mark.parametrize("engine", CUT_OFF)
def test_the_link_recovers(outcome: Outcome, engine: str) -> None:
    assert outcome.cut_off[engine].recovered.status == 200
