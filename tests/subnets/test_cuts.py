"""Links cut in the middle of a stream: the client is told in time, the site serves on by itself, and the link heals."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import pytest

from tests.subnets.tree import Asked, Tree
from tests.support import eventually

PROMISED_S = 12.0  # both ends of a link have found by then that it is dead
HEALED_S = 20.0
#: engine: a machine beside it, and the node that stays within its reach
CUT_OFF = {"gpu-rack": ("gpu-rack", "rack"), "gpu-b": ("gpu-b", "site-b")}


@dataclass
class Aftermath:
    """What was seen when two links were cut at once: the rack's cable pulled, and site-b's way forgotten by a NAT."""

    streams: dict[str, str] = field(default_factory=dict)  #: by engine: the body of the stream that was cut
    ends: dict[str, Asked] = field(default_factory=dict)
    told_s: dict[str, float] = field(default_factory=dict)  #: from the cut to the end of the stream
    freed_s: dict[str, float] = field(default_factory=dict)  #: from the cut to the end of its work at the engine
    own: dict[str, Asked] = field(default_factory=dict)  #: a site's own client, while its uplink was cut
    others: Asked | None = None  #: the dmz, for an engine behind another link, meanwhile
    healed: dict[str, Asked] = field(default_factory=dict)  #: the dmz again, afterwards


@pytest.fixture(scope="module")
def aftermath(tree: Tree) -> Aftermath:
    seen = Aftermath()
    streams = {model: tree.ask("client", "root", model, stream=True, max_tokens=4000) for model in CUT_OFF}
    for asked in streams.values():
        assert "data: " in next(asked)["line"]
    with tree.network.unplugged("inner"), tree.network.muted("dmz", "site-b"):
        cut_at = time.monotonic()
        for model, (machine, node) in CUT_OFF.items():
            seen.own[model] = tree.ask(machine, node, model)
        seen.others = tree.ask("client", "root", "gpu-a")
        for model, asked in streams.items():
            seen.streams[model], seen.ends[model] = asked.rest(), asked
            assert asked.end is not None
            seen.told_s[model] = asked.end["at"] - cut_at
        for model in CUT_OFF:
            eventually(lambda model=model: running(tree, model) == 0, f"{model} to be freed")  # type: ignore[misc]
            seen.freed_s[model] = time.monotonic() - cut_at
    for model in CUT_OFF:
        eventually(lambda model=model: model in tree.models("client", "root"), "the link to heal", HEALED_S)  # type: ignore[misc]
        seen.healed[model] = tree.ask("client", "root", model)
    return seen


def running(tree: Tree, engine: str) -> int:
    return int(tree.get(engine, engine, "/simulated")["running"])


@pytest.mark.parametrize("model", CUT_OFF)
def test_the_client_is_told_in_time(aftermath: Aftermath, model: str) -> None:
    body = aftermath.streams[model]
    assert aftermath.ends[model].complete
    assert body.count("event: error") == 1
    assert "[DONE]" not in body
    assert aftermath.told_s[model] <= PROMISED_S


@pytest.mark.parametrize("model", CUT_OFF)
def test_the_engine_is_freed_in_time(aftermath: Aftermath, model: str) -> None:
    assert aftermath.freed_s[model] <= PROMISED_S


@pytest.mark.parametrize("model", CUT_OFF)
def test_a_site_that_lost_its_uplink_serves_its_own_clients(aftermath: Aftermath, model: str) -> None:
    assert aftermath.own[model].status == 200
    assert aftermath.own[model].head["headers"]["x-hierarchy-path"] == model


def test_other_sites_are_served_meanwhile(aftermath: Aftermath) -> None:
    assert aftermath.others is not None
    assert aftermath.others.status == 200


@pytest.mark.parametrize("model", CUT_OFF)
def test_the_link_heals(aftermath: Aftermath, model: str) -> None:
    assert aftermath.healed[model].status == 200
