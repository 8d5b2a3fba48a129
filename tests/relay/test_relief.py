"""Requests that leave a suspect or a dead child: how many, which, and whether they leave at all."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest

from hierarchy.registry.child import Child, Share
from hierarchy.relay.relief import UP_PER_SWEEP, room
from hierarchy.wire.status import ModelKey
from tests.relay.parent import as_parent
from tests.relay.raw import MODEL, Client, http_response, post
from tests.relay.support import HOLD, Tree, World, tree

KEY: ModelKey = (MODEL, "openai")


def share(load: int, slots: int = 0) -> Share:
    made = Share(Child("c", "http://c", "openai"), KEY)
    made.reported, made.slots = load, slots
    return made


@pytest.mark.parametrize(
    ("load", "slots", "suspect_load", "expected"),
    [
        (0, 8, 100, 8),
        (3, 8, 100, 5),
        (8, 8, 100, 0),
        (20, 8, 100, 0),
        (0, 0, 2, 4),
        (3, 0, 4, 1),
        (4, 0, 4, 0),
        (0, 0, 40, 20),
        (20, 0, 20, 0),
        (30, 0, 10, 0),
    ],
)
def test_a_sibling_has_room_for_what_it_can_begin(load: int, slots: int, suspect_load: int, expected: int) -> None:
    assert room(share(load, slots), suspect_load) == expected


@pytest.fixture(scope="module")
def _pair(world: World) -> Iterator[Tree]:
    with tree(world, engines=2, dispatch="round_robin", probe_interval_s=60.0) as running:
        yield running


@pytest.fixture(scope="module")
def _calm(world: World) -> Iterator[Tree]:
    with tree(world, levels=3, probe_interval_s=60.0) as running:
        yield running


def _checked(running: Tree) -> Iterator[Tree]:
    for engine in running.engines:
        engine.plan()
    yield running
    for engine in running.engines:
        engine.free()
    running.wait_idle()

    def reset() -> None:
        for node in running.nodes:
            for child in node.registry:
                node.registry.trust(child)
                child.down, child.failures = None, None
                for one in child.shares.values():
                    one.failures, one.slots = None, 0
            node.registry.generation += 1
            node.clients.relieve(node.registry)

    running.world.call(reset)
    assert running.world.problems == []


@pytest.fixture
def pair(_pair: Tree) -> Iterator[Tree]:
    """A node with two engines whose probes are rare, so that a suspect stays one."""
    yield from _checked(_pair)


@pytest.fixture
def calm(_calm: Tree) -> Iterator[Tree]:
    """Three nodes above one such engine."""
    yield from _checked(_calm)


def suspect(running: Tree, number: int = 0) -> None:
    last = running.nodes[-1]
    running.world.call(lambda: last.registry.suspect(running.child(number=number), "a probe is late"))


def relieve(running: Tree, level: int = -1) -> None:
    node = running.nodes[level]
    running.world.call(lambda: node.clients.relieve(node.registry))


def waiting(running: Tree, count: int) -> list[Client]:
    """Clients whose requests wait at the engines, in this order."""
    clients = [running.client() for _ in range(count)]
    for number, client in enumerate(clients, 1):
        client.send(post())
        running.world.eventually(partial(reached, running, number))
    return clients


def reached(running: Tree, count: int) -> bool:
    """Have the engines got so many requests?"""
    return sum(len(engine.received) for engine in running.engines) >= count


def loads(running: Tree) -> list[int]:
    return [running.child(number=number).in_flight for number in range(len(running.engines))]


def finish(running: Tree, clients: list[Client]) -> None:
    for engine in running.engines:
        engine.free()
    for client in clients:
        assert client.read_response().status == 200
        client.sock.close()


def test_a_suspect_gets_no_new_request_while_a_sibling_can_take_it(pair: Tree) -> None:
    suspect(pair)
    assert [pair.request(post()).status for _ in range(6)] == [200] * 6
    assert [len(engine.received) for engine in pair.engines] == [0, 6]


def test_requests_leave_a_suspect_only_as_fast_as_siblings_have_slots(
    pair: Tree, caplog: pytest.LogCaptureFixture
) -> None:
    for engine in pair.engines:
        engine.always([HOLD, http_response()])
    clients = waiting(pair, 24)
    assert loads(pair) == [12, 12]

    def few_slots() -> None:
        pair.child(number=1).shares[KEY].slots = 15

    pair.world.call(few_slots)
    oldest = [exchange for exchange in pair.exchanges() if exchange.waits_for(pair.child())]
    oldest.sort(key=lambda exchange: exchange.request.started_at)
    suspect(pair)
    for _ in range(3):
        relieve(pair)
    assert loads(pair) == [9, 15]
    assert [exchange.waits_for(pair.child(number=1)) is not None for exchange in oldest] == [True] * 3 + [False] * 9
    caplog.clear()
    pair.world.call(lambda: pair.root.registry.trust(pair.child()))
    relieve(pair)
    assert [record.getMessage() for record in caplog.records if "have left" in record.getMessage()] == [
        "3 requests that waited for e0 have left it: it was suspect"
    ]
    finish(pair, clients)


def test_where_slots_are_not_known_the_loads_are_made_equal(pair: Tree) -> None:
    for engine in pair.engines:
        engine.always([HOLD, http_response()])
    clients = waiting(pair, 2)
    pair.world.call(lambda: pair.root.dispatch.set_policy("shortest_queue"))

    def lean() -> None:  # all others to the first engine
        pair.child(number=1).shares[KEY].score = 1e9

    pair.world.call(lean)
    clients += waiting_more(pair, 18)
    pair.world.call(lambda: pair.child(number=1).shares[KEY].rescore())
    pair.world.call(lambda: pair.root.dispatch.set_policy("round_robin"))
    assert loads(pair) == [19, 1]
    suspect(pair)
    for _ in range(5):
        relieve(pair)
    assert loads(pair) == [10, 10]
    finish(pair, clients)


def waiting_more(running: Tree, count: int) -> list[Client]:
    before = sum(len(engine.received) for engine in running.engines)
    clients = [running.client() for _ in range(count)]
    for client in clients:
        client.send(post())
    running.world.eventually(lambda: sum(len(one.received) for one in running.engines) == before + count)
    return clients


def test_a_dead_child_s_requests_leave_at_once_in_one_line(pair: Tree, caplog: pytest.LogCaptureFixture) -> None:
    for engine in pair.engines:
        engine.always([HOLD, http_response()])
    clients = waiting(pair, 12)
    caplog.clear()
    pair.world.call(lambda: pair.root.registry.mark_down(pair.child(), "no probe was answered"))
    pair.world.call(lambda: pair.root.clients.rescue(pair.child(), "no probe was answered"))
    assert loads(pair) == [0, 12]
    lines = [record.getMessage() for record in caplog.records if record.name == "hierarchy.lane"]
    assert lines == ["6 requests that waited for e0 have left it: it is taken for dead: no probe was answered"]
    finish(pair, clients)


def test_what_waits_for_a_dead_child_leaves_it_as_soon_as_another_one_is_there(pair: Tree) -> None:
    pair.engines[0].always([HOLD])
    registry = pair.root.registry
    pair.world.call(lambda: registry.mark_down(pair.child(number=1), "it is not there yet"))
    clients = waiting(pair, 3)
    pair.world.call(lambda: registry.mark_down(pair.child(), "no probe was answered"))
    pair.world.call(lambda: pair.root.clients.rescue(pair.child(), "no probe was answered"))
    assert loads(pair) == [3, 0]  # nothing else could take them

    def appears() -> None:
        child = pair.child(number=1)
        registry.report(child, child.status)

    pair.world.call(appears)
    relieve(pair)
    assert loads(pair)[0] == 0
    finish(pair, clients)


@pytest.mark.parametrize("level", [0, 1, 2])
def test_the_only_engine_of_a_model_keeps_its_requests_at_every_level(calm: Tree, level: int) -> None:
    """It hangs and is suspect, then even taken for dead, then wakes up: whoever asked gets the response."""
    port = calm.nodes[level].config.listen[0][1]
    calm.engine.always([HOLD, http_response()])
    with Client(port) as before, Client(port) as after:
        before.send(post())
        calm.world.eventually(lambda: calm.engine.received)
        suspect(calm)
        after.send(post())
        calm.world.eventually(lambda: len(calm.engine.received) == 2)
        rack = calm.nodes[-1]
        for _ in range(3):
            for at in range(3):
                relieve(calm, at)
            calm.world.call(lambda: rack.clients.rescue(calm.child(), "no probe was answered"))
        calm.engine.free()
        assert [client.read_response().status for client in (before, after)] == [200, 200]
    assert len(calm.engine.received) == 2


def test_a_parent_of_an_older_release_gets_the_requests_of_a_dead_engine_back(calm: Tree) -> None:
    """It sends no x-hierarchy-others, and may have another child that it does not mention."""
    rack = calm.nodes[-1]
    calm.engine.always([HOLD, http_response()])
    with Client(rack.config.listen[0][1]) as client:
        client.send(as_parent(rack, 1))
        calm.world.eventually(lambda: calm.engine.received)
        calm.world.call(lambda: rack.clients.rescue(calm.child(), "no probe was answered"))
        response = client.read_response()
    assert (response.status, response.get(b"x-hierarchy-unspent")) == (502, [b"2"])


@pytest.mark.parametrize("others", [True, False])
def test_a_node_gives_back_only_what_others_could_take(calm: Tree, others: bool) -> None:
    rack = calm.nodes[-1]
    calm.engine.always([HOLD, http_response()])
    clients = []
    for number in range(1, 7):
        client = Client(rack.config.listen[0][1])
        client.send(as_parent(rack, number, others=others))
        calm.world.eventually(partial(reached, calm, number))
        clients.append(client)
    suspect(calm)
    relieve(calm)
    given_back = min(UP_PER_SWEEP, 6) if others else 0
    responses = [client.read_response() for client in clients[:given_back]]
    assert [(one.status, one.get(b"x-hierarchy-unspent")) for one in responses] == [(503, [b"2"])] * given_back
    finish(calm, clients[given_back:])


@pytest.mark.parametrize("others", [True, False])
def test_a_new_request_for_a_suspect_is_given_back_at_once_if_others_could_take_it(calm: Tree, others: bool) -> None:
    rack = calm.nodes[-1]
    suspect(calm)
    with Client(rack.config.listen[0][1]) as client:
        client.send(as_parent(rack, 1, others=others))
        response = client.read_response()
    assert (response.status, response.get(b"x-hierarchy-unspent")) == ((503, [b"2"]) if others else (200, []))
    assert len(calm.engine.received) == (0 if others else 1)
