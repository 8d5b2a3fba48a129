"""The children of a node: which registrations are accepted or refused, and when a child is dropped."""

from __future__ import annotations

from typing import Any

import pytest

from hierarchy.errors import InvalidField, LoopDetected, NameTaken, RequestError
from hierarchy.registry import REMEMBERED_S, Registry
from hierarchy.registry.admission import Claim
from hierarchy.wire.messages import Identity, Registration
from hierarchy.wire.status import EMPTY, NodeStatus
from tests.builders import FASTCHAT, OPENAI, WORKER, Table, model, registration, report, site, status_of, worker


@pytest.fixture
def table() -> Table:
    return Table()


# -- registering -----------------------------------------------------------------------------------------------------


def test_a_worker_registers_sends_heartbeats_and_expires_after_fastchats_time(table: Table) -> None:
    child = table.add(worker(models=["m", "n"], speed=2, queue_length=3))
    assert (child.name, child.url, child.kind, child.is_node) == (WORKER, WORKER, "fastchat", False)
    assert table.model_names() == ["m", "n"]
    assert table.status().fastchat() == {"model_names": ["m", "n"], "speed": 2.0, "queue_length": 3}
    table.clock.tick(45)
    assert table.receive(queue_length=5)
    assert table.status().queue_length == 5
    table.clock.tick(89)
    assert (table.available_names(FASTCHAT), table.sweep()) == ({WORKER}, [])
    table.clock.tick(1)
    assert table.available_names(FASTCHAT) == set()
    assert table.model_names() == []
    assert table.listed("m")
    assert table.sweep() == [child]
    # the model is still listed, so that requests for it get 503 rather than 404
    assert (len(table), child.state(table.clock.now), table.listed("m")) == (0, "gone", True)
    assert not table.receive()
    table.clock.tick(REMEMBERED_S)
    assert (table.sweep(), table.departed, table.listed("m")) == ([], {}, False)


def test_a_worker_whose_heartbeats_are_not_checked_never_expires(table: Table) -> None:
    table.add({**worker(), "check_heart_beat": False})
    table.clock.tick(10**9)
    assert (table.sweep(), table.available_names(FASTCHAT)) == ([], {WORKER})


def test_a_sweep_in_parts_does_what_a_whole_one_does(table: Table) -> None:
    """A child that leaves between two parts, and one that comes, do no harm."""
    names = [f"site-{number}" for number in range(5)]
    children = [table.add(site(name, model(name), url=f"http://{name}", interval_s=1.0)) for name in names]
    table.clock.tick(100.0)
    table.add(site("site-3", model("site-3"), url="http://site-3", interval_s=1.0))
    parts = table.sweep_in_parts(2)
    dropped = [next(parts)]
    table.remove("site-2")
    late = table.add(site("late", model("late"), url="http://late", interval_s=1.0))
    dropped += parts
    assert dropped == [children[:2], [], [children[4]]]
    assert [child.name for child in table] == ["site-3", late.name]
    assert sorted(table.departed) == ["site-0", "site-1", "site-4"]
    assert table.model_names() == ["late", "site-3"]
    assert table.sweep() == []


def test_a_node_is_silent_after_three_intervals_and_dropped_after_ten(table: Table) -> None:
    child = table.add(site(interval_s=2.0))
    table.clock.tick(5.9)
    assert table.available_names() == {"site-a"}
    table.clock.tick(0.1)
    assert table.available_names() == set()
    assert table.status() == EMPTY
    table.clock.tick(13.9)
    assert table.sweep() == []
    assert table.receive(report())
    assert table.available_names() == {"site-a"}
    table.clock.tick(20)
    assert table.sweep() == [child]
    assert not table.receive(report(seq=3))


def test_the_interval_is_agreed_at_registration_and_reports_do_not_change_it(table: Table) -> None:
    """The parent may require a longer one: a child that reports at that interval must not count as silent."""
    table.add(site()).interval_s = 5.0
    assert table.receive(report(interval_s=1.0))
    table.clock.tick(14)
    assert table.available_names() == {"site-a"}


def test_a_worker_may_register_before_its_models_are_known(table: Table) -> None:
    child = table.add({**worker(), "worker_status": None})
    assert (table.model_names(), child.state(table.clock.now), child.shares) == ([], "up", {})
    table.report(child, NodeStatus((model(api="fastchat"),), 1.0, 2))
    assert table.model_names() == ["m"]


def test_several_model_workers_at_one_address_are_one_child(table: Table) -> None:
    first = table.add(worker(models=["a"], speed=1))
    assert table.add(worker(models=["b"], speed=1, queue_length=4)) is first
    assert table.add(worker(models=["a"], speed=3, queue_length=5)) is first
    assert len(table) == 1
    assert {m.name: m.speed for m in first.status.models} == {"a": 3, "b": 1}
    assert table.status().queue_length == 5
    table.report(first, NodeStatus((model("b", api="fastchat"),), 1.0))  # the worker's own status replaces all
    assert table.model_names() == ["b"]


def test_registering_again_renews_and_keeps_open_leases(table: Table) -> None:
    child = table.add(site(secret="s1"))
    lease = child.lease(child.shares[OPENAI])
    assert table.add(site("site-a", model(), model("n", 2), seq=2, url="http://new:1/", secret="s2")) is child
    assert (child.url, child.authority, child.secret, child.seq) == ("http://new:1", b"new:1", b"s2", 2)
    assert table.model_names() == ["m", "n"]
    assert child.load(OPENAI) == 1
    lease.release()
    assert child.load(OPENAI) == 0


def test_models_of_a_former_process_go_if_the_worker_never_lists_them_again(table: Table) -> None:
    child = table.add(worker(models=["old", "kept"]))
    table.clock.tick(50)
    assert table.add(worker(models=["new", "kept"])) is child
    for _ in range(0, int(REMEMBERED_S) - 10, 10):
        table.clock.tick(10)
        table.receive()
        table.sweep()
    assert table.model_names() == ["kept", "new", "old"]  # it may be another model of the same process
    generation = table.generation
    table.clock.tick(10)
    table.receive(queue_length=3)
    table.sweep()
    assert table.model_names() == ["kept", "new"]
    assert table.generation > generation
    assert (child.status.queue_length, child.last_seen, child.unconfirmed) == (3, table.clock.now, {})
    assert not table.available_names(("old", "fastchat"))
    for _ in range(2):
        table.clock.tick(REMEMBERED_S)
        table.receive()
        table.sweep()
    assert table.model_names() == ["kept", "new"]
    assert table.absence(("old", "fastchat")) is None


@pytest.mark.parametrize("how", ["its status lists it", "it registers it"])
def test_a_model_that_is_confirmed_stays(table: Table, how: str) -> None:
    child = table.add(worker(models=["a"]))
    table.add(worker(models=["b"]))
    assert set(child.unconfirmed) == {("a", "fastchat")}
    table.clock.tick(REMEMBERED_S - 1)
    if how == "it registers it":
        table.add(worker(models=["a"]))
        assert set(child.unconfirmed) == {("b", "fastchat")}
        table.add(worker(models=["b", "a"]))
    else:
        table.report(child, status_of(model("a", api="fastchat"), model("b", api="fastchat")))
    assert child.unconfirmed == {}
    for _ in range(20):
        table.clock.tick(60)
        table.receive()
        table.sweep()
    assert table.model_names() == ["a", "b"]


def test_a_worker_that_registers_again_without_its_status_has_nothing_confirmed(table: Table) -> None:
    child = table.add(worker(models=["a"]))
    table.add({**worker(), "worker_status": None})
    assert set(child.unconfirmed) == {("a", "fastchat")}


def test_a_node_may_replace_a_silent_worker_at_its_address(table: Table) -> None:
    table.add(worker())
    with pytest.raises(NameTaken, match="address"):
        table.add(site(url=WORKER))
    table.clock.tick(90)
    assert table.add(site(url=WORKER)).is_node


# -- refusing --------------------------------------------------------------------------------------------------------


def refused(table: Table, message: dict[str, Any], error: type[RequestError], message_part: str) -> None:
    """The registration is refused with this error, and changes nothing."""
    before = {child.name: (child.url, child.instance, child.last_seen, child.status) for child in table}
    generation = table.generation
    with pytest.raises(error, match=message_part):
        table.add(message)
    assert {child.name: (child.url, child.instance, child.last_seen, child.status) for child in table} == before
    assert table.generation == generation


def test_bad_values_register_nothing_and_change_nothing(table: Table) -> None:
    bad = {"model_names": ["m"], "speed": 0, "queue_length": 0}
    refused(table, {**worker(), "worker_status": bad}, InvalidField, "worker_status.speed")
    assert len(table) == 0
    table.add(worker())
    refused(table, {**worker(), "worker_status": bad}, InvalidField, "worker_status.speed")
    with pytest.raises(InvalidField, match="queue_length"):
        table.receive(queue_length=-1)
    assert table.status().speed == 1


def test_speeds_above_the_limit_are_refused_from_any_source() -> None:
    table = Table()
    table.max_speed = 10.0
    refused(table, worker(speed=11), InvalidField, "at most 10")
    engine = table.declare("gpu", "http://gpu:1", "vllm")
    with pytest.raises(InvalidField, match="at most 10"):
        table.report(engine, status_of(model(speed=11)))
    assert (engine.status, table.available_names()) == (EMPTY, set())


def test_a_live_childs_name_is_taken_and_a_silent_ones_is_free(table: Table) -> None:
    table.add(site())
    other = site(url="http://elsewhere:1", instance="other-1")
    refused(table, other, NameTaken, "name 'site-a' is taken by http://site-a:21001")
    table.clock.tick(3)
    assert table.add(other).url == "http://elsewhere:1"


def test_a_process_may_change_its_address_and_another_may_replace_it_there(table: Table) -> None:
    table.add(site())
    assert table.add(site(url="http://moved:1")).url == "http://moved:1"
    assert table.add(site(url="http://moved:1", instance="site-a-2")).instance == "site-a-2"


def test_a_live_childs_address_is_taken(table: Table) -> None:
    table.add(site())
    refused(table, site("site-b", url="http://site-a:21001/"), NameTaken, "already that of 'site-a'")
    refused(table, worker("http://site-a:21001"), NameTaken, "already that of 'site-a'")
    table.clock.tick(3)
    assert table.add(site("site-b", url="http://site-a:21001")).name == "site-b"


def test_a_declared_engine_keeps_its_name_and_address_even_while_it_is_down(table: Table) -> None:
    engine = table.declare("gpu", "http://gpu:1", "vllm")
    table.mark_down(engine, "refused")
    refused(table, site("gpu"), NameTaken, "name 'gpu' is taken")
    refused(table, site("gpu", url="http://gpu:1", instance=""), NameTaken, "name 'gpu' is taken")
    refused(table, worker("http://gpu:1"), NameTaken, "address 'http://gpu:1' is already that of 'gpu'")
    assert not table.receive(report("gpu"))
    assert table.sweep() == []


@pytest.mark.parametrize(
    "message",
    [
        site(path=["site-a-1", "root-1"]),
        site(instance="root-1"),
        site(url="http://root:21001"),
        worker("http://root:21001/"),
        worker("http://ROOT:21001"),
    ],
    ids=["below", "itself", "own address", "own address, as a worker", "own address, spelled otherwise"],
)
def test_loops_are_refused(table: Table, message: dict[str, Any]) -> None:
    refused(table, message, LoopDetected, "itself")


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]", "LOCALHOST"])
def test_all_spellings_of_loopback_are_one_address(host: str) -> None:
    registry = Registry(Identity("n", "http://localhost:21001", "n-1"), lambda: 0.0)
    with pytest.raises(LoopDetected):
        registry.register(Registration(worker_name=f"http://{host}:21001", check_heart_beat=False))
    registry.register(Registration(worker_name=f"http://{host}:21002", check_heart_beat=False))


def test_a_loop_that_closes_after_registration_is_cut(table: Table) -> None:
    table.add(site())
    assert not table.receive(report(path=["site-a-1", "root-1"]))
    assert (len(table), table.available_names()) == (0, set())


def test_the_path_contains_all_nodes_below(table: Table) -> None:
    table.add(site(path=["site-a-1", "rack-1"]))
    table.add(worker())
    assert table.path() == ["rack-1", "root-1", "site-a-1"]


# -- reports ---------------------------------------------------------------------------------------------------------


def test_reports_of_unregistered_senders_are_not_accepted(table: Table) -> None:
    assert not table.receive(report())
    table.add(site())
    assert not table.receive(report(instance="another-1"))
    table.add(site("site-b", instance=""))
    for name in ("site-a", "site-b"):
        assert not table.receive(worker_name=name)  # FastChat's form, for a node's name
    table.add(worker())
    assert not table.receive(report("site-b", url=WORKER))
    assert table.receive()


def test_models_in_a_workers_heartbeat_are_ignored(table: Table) -> None:
    child = table.add(worker())
    assert table.receive(queue_length=2, models=[{"name": "other"}], speed=9.0, seq=7, interval_s=0.1)
    assert (table.model_names(), child.status.speed, child.load(FASTCHAT), child.interval_s) == (["m"], 1.0, 2, None)


def test_late_reports_and_registrations_are_dropped(table: Table) -> None:
    child = table.add(site(seq=5))
    assert table.receive(report("site-a", model("new"), seq=7, children={"gpu": {"state": "up"}}))
    assert table.receive(report("site-a", model("old"), seq=6, children={"gpu": None}))
    assert table.receive(report("site-a", model("old"), seq=7))
    assert table.add(site("site-a", model("old"), seq=6)) is child
    assert (table.model_names(), child.seq, child.subtree) == (["new"], 7, {"gpu": {"state": "up"}})
    assert table.add(site("site-a", model("newest"), seq=1, instance="site-a-2")) is child
    assert table.model_names() == ["newest"]


def test_reports_patch_the_subtree_and_registrations_replace_it(table: Table) -> None:
    child = table.add(site(children={"a": {"state": "up", "kind": "vllm"}, "b": {}}))
    table.receive(report(children={"a": {"state": "down"}, "b": None}))
    assert child.subtree == {"a": {"state": "down", "kind": "vllm"}}
    table.receive(report(seq=3))
    assert child.subtree == {"a": {"state": "down", "kind": "vllm"}}
    table.add(site(seq=4))
    assert child.subtree == {}


def test_requests_that_a_report_includes_are_counted_exactly(table: Table) -> None:
    child = table.add(site())
    leases = [child.lease(child.shares[OPENAI]) for _ in range(3)]
    table.receive(report("site-a", model(queue_length=2), seen=2))
    assert table.status().queue_length == 3
    for lease in leases:
        lease.release()
    assert table.status().queue_length == 0


# -- reverse links ---------------------------------------------------------------------------------------------------


def test_children_behind_reverse_links_may_have_any_address_even_this_nodes_own() -> None:
    """Behind an address translation, or with the default of localhost, several may have the same."""
    table = Table()
    for name in ("site-a", "site-b"):
        child = table.register(registration(site(name, url="http://root:21001")), claim=Claim(reverse=True))
        assert child.reverse
    assert table.available_names() == {"site-a", "site-b"}
    with pytest.raises(LoopDetected):
        table.add(site("site-c", url="http://root:21001"))
    table.add(site("site-d", url="http://d:1"))
    table.register(registration(site("site-e", url="http://d:1")), claim=Claim(reverse=True))
    with pytest.raises(NameTaken):
        table.add(site("site-f", url="http://d:1"))


def test_a_child_may_register_again_with_another_kind_of_link() -> None:
    table = Table()
    child = table.register(registration(site("site-a")), claim=Claim(reverse=True))
    assert table.add(site("site-a", seq=2)) is child
    assert not child.reverse
