"""An operator drains a node or an engine: at every instance of its parent, over a restart, and never by mistake."""

from __future__ import annotations

import logging
import re
import time
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from hierarchy.config.models import EngineConfig, NodeConfig, Settings
from hierarchy.wire.record import Record
from tests.cluster import QUICK, Cluster, Running, chat, wait_for_model
from tests.security.keyed import Keys
from tests.support import eventually, free_port


def post(url: str, action: str, path: str, key: str = "", **fields: Any) -> httpx.Response:
    headers = {"authorization": f"Bearer {key}"} if key else {}
    return httpx.post(f"{url}/admin/{action}", json={"path": path, **fields}, headers=headers, timeout=10)


def state(node: Running, name: str) -> str:
    child = node.node.registry.children.get(name)
    return child.state(node.node._clock()) if child is not None else "absent"


def states(nodes: list[Running], name: str) -> set[str]:
    return {state(node, name) for node in nodes}


def has_state(nodes: list[Running], name: str, expected: str) -> bool:
    return states(nodes, name) == {expected}


def serves(node: Running, name: str) -> bool:
    return bool(node.node.registry.children[name].shares)


def lists(node: Running, *models: str) -> bool:
    return set(models) <= set(node.node.registry.model_names())


def is_seen(node: Running, *names: str) -> None:
    """Wait until the children are up and serve a model: a site may register before its engines are known."""
    for name in names:
        eventually(partial(has_state, [node], name, "up"), f"{name} to be up")
        eventually(partial(serves, node, name), f"a model of {name}")


def test_a_drain_at_one_root_reaches_the_other_and_so_does_its_end(cluster: Cluster) -> None:
    roots = [cluster.node("root") for _ in range(2)]
    parents = tuple(root.url for root in roots)
    for name in ("site-a", "site-b"):
        cluster.node(name, parents=parents, engines=(cluster.engine().url,))
    for root in roots:
        is_seen(root, "site-a", "site-b")
    for at, action, expected in ((0, "drain", "draining"), (1, "undrain", "up"), (1, "drain", "draining")):
        assert post(roots[at].url, action, "site-a", reason="new switch").status_code == 200
        eventually(partial(has_state, roots, "site-a", expected), f"{action} at both roots")
    drains = [root.node.registry.children["site-a"].drain for root in roots]
    assert drains[0] == drains[1]
    assert drains[0] is not None
    assert (drains[0].by, drains[0].reason) == ("127.0.0.1", "new switch")
    assert {chat(root.url).headers["x-hierarchy-path"] for root in roots} == {"site-b/site-b-1"}


def test_one_instance_of_a_site_is_drained_at_both_roots_whatever_its_number_there(cluster: Cluster) -> None:
    roots = [cluster.node("root") for _ in range(2)]
    engine = cluster.engine()
    first = cluster.node("site", parents=(roots[0].url,), engines=(engine.url,), replica_of="site")
    is_seen(roots[0], "site")
    second = cluster.node("site", parents=(roots[1].url, roots[0].url), engines=(engine.url,), replica_of="site")
    is_seen(roots[1], "site")
    is_seen(roots[0], "site~2")
    assert post(roots[0].url, "drain", "site~2", force=True).status_code == 200
    eventually(lambda: state(roots[1], "site") == "draining", "the drain at the other root")
    assert roots[1].node.registry.children["site"].url == second.url
    assert state(roots[0], "site") == "up"
    assert roots[0].node.registry.children["site"].url == first.url


@pytest.mark.parametrize("where", ["at the root", "at one instance"])
def test_an_engine_is_drained_at_all_instances_of_its_node(cluster: Cluster, where: str) -> None:
    root = cluster.node("root")
    engines = tuple(cluster.engine().url for _ in range(2))
    sites = [cluster.node("site", parents=(root.url,), engines=engines, replica_of="site") for _ in range(2)]
    is_seen(root, "site", "site~2")
    for site in sites:
        is_seen(site, "site-1", "site-2")
    at, path = (root.url, "site/site-1") if where == "at the root" else (sites[1].url, "site-1")
    assert post(at, "drain", path, reason="new GPU").status_code == 200
    if where == "at the root":  # it was sent to both, and did not wait for a report
        assert states(sites, "site-1") == {"draining"}
    eventually(lambda: states(sites, "site-1") == {"draining"}, "the drain at both instances")
    assert post(at, "undrain", path).status_code == 200
    eventually(lambda: states(sites, "site-1") == {"up"}, "the end of the drain at both instances")


def test_an_instance_that_was_away_learns_the_drain_when_it_comes_back(cluster: Cluster) -> None:
    root = cluster.node("root")
    engines = tuple(cluster.engine().url for _ in range(2))
    sites = [cluster.node("site", parents=(root.url,), engines=engines, replica_of="site") for _ in range(2)]
    is_seen(root, "site", "site~2")
    is_seen(sites[0], "site-1")
    cluster.stop(sites[1])
    assert post(root.url, "drain", "site/site-1").status_code == 200
    again = cluster.node("site", parents=(root.url,), engines=engines, replica_of="site")
    eventually(lambda: state(again, "site-1") == "draining", "the drain at the new process")


# -- over a restart ----------------------------------------------------------------------------------------------------


def kept(folder: Path, url: str) -> NodeConfig:
    settings = Settings.model_validate(QUICK.model_dump(exclude_unset=True) | {"security": {"state_dir": str(folder)}})
    engines = [{"name": "a", "kind": "simulated", "url": url}]
    return NodeConfig.model_validate(
        {
            "name": "node",
            "listen": (("127.0.0.1", 0),),
            "advertise": "http://127.0.0.1:0",
            "engines": engines,
            "settings": settings,
        }
    )


def test_a_drain_outlasts_a_restart_where_there_is_a_state_dir(cluster: Cluster, tmp_path: Path) -> None:
    config = kept(tmp_path, cluster.engine().url)
    node = cluster.serve(config)
    is_seen(node, "a")
    page = post(node.url, "drain", "a", reason="new GPU", force=True).json()
    assert page["kept"] is True
    cluster.stop(node)
    node = cluster.serve(config)
    eventually(lambda: state(node, "a") == "draining", "the engine, drained")
    assert httpx.get(f"{node.url}/tree").json()["children"]["a"]["drain"]["since"] == page["since"]
    assert post(node.url, "undrain", "a").json()["kept"] is True
    cluster.stop(node)
    node = cluster.serve(config)
    is_seen(node, "a")


def test_without_a_state_dir_a_drain_ends_with_the_node_and_the_response_says_so(cluster: Cluster) -> None:
    node = cluster.node("node", engines=(cluster.engine().url, cluster.engine().url))
    is_seen(node, "node-1", "node-2")
    assert post(node.url, "drain", "node-1").json()["kept"] is False


def test_a_child_that_left_or_never_came_after_a_restart_can_be_undrained(cluster: Cluster, tmp_path: Path) -> None:
    config = kept(tmp_path, cluster.engine().url)
    node = cluster.serve(config)
    is_seen(node, "a")
    post(node.url, "drain", "a", reason="new GPU", force=True)
    cluster.stop(node)
    node = cluster.serve(config.model_copy(update={"engines": ()}))
    entry = httpx.get(f"{node.url}/tree").json()["children"]["a"]
    assert (entry["state"], entry["drain"]["reason"]) == ("gone", "new GPU")
    assert post(node.url, "undrain", "a").status_code == 200
    assert httpx.get(f"{node.url}/tree").json()["children"] == {}
    assert post(node.url, "undrain", "a").status_code == 404


# -- the last engine ---------------------------------------------------------------------------------------------------


def test_the_last_available_engine_of_a_model_is_drained_only_by_force(cluster: Cluster) -> None:
    root = cluster.node("root")
    cluster.node("site-a", parents=(root.url,), engines=(cluster.engine(models=("m", "only")).url,))
    cluster.node("site-b", parents=(root.url,), engines=(cluster.engine(models=("m",)).url,))
    wait_for_model(root.url, "m", 2)
    for path in ("site-a", "site-a/site-a-1"):
        refused = post(root.url, "drain", path)
        assert refused.status_code == 409
        error = refused.json()["error"]
        assert (error["code"], error["models"]) == ("last_engine", ["only"])
        assert error["message"].startswith(f"to drain {path} leaves no available engine for only below root;")
    assert states([root], "site-a") == {"up"}
    assert "models_lost" not in post(root.url, "drain", "site-b").json()
    assert post(root.url, "drain", "site-a", force=True).json()["models_lost"] == ["m", "only"]


# -- who did it --------------------------------------------------------------------------------------------------------


class KeyedTree:
    """Two roots with one tree key and folders of their own, and a site with an engine below both."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.keys = Keys(folder)
        self.roots = [cluster.serve(self.keys.config(state_dir=str(folder / str(number)))) for number in (1, 2)]
        self.engines = [cluster.engine(models=("m", name)) for name in ("a", "b")]
        self.sites = [
            cluster.serve(self._site(name, self.engines[n].url)) for n, name in enumerate(("site-a", "site-b"))
        ]
        for root in self.roots:
            is_seen(root, "site-a", "site-b")
            eventually(partial(lists, root, "a", "b"), "the models")

    def _site(self, name: str, engine: str) -> NodeConfig:
        settings = self.keys.settings(without=("key",), join_token=self.keys.token_file(name))
        gpu = EngineConfig(name="gpu", kind="simulated", url=engine)
        parents = tuple(root.url for root in self.roots)
        config = self.keys.config(name).model_copy(update={"settings": settings})
        return config.model_copy(update={"parents": parents, "engines": (gpu,)})


@pytest.fixture
def keyed(cluster: Cluster, tmp_path: Path) -> KeyedTree:
    return KeyedTree(cluster, tmp_path)


def lines(caplog: pytest.LogCaptureFixture, logger: str) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == logger]


def test_who_what_and_why_are_in_the_log_once_at_each_root_and_once_in_the_audit_log(
    keyed: KeyedTree, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    first, second = keyed.roots
    assert post(first.url, "drain", "site-a").status_code == 401
    assert post(first.url, "drain", "site-a", keyed.keys.admin, reason="new switch").status_code == 409
    fields: dict[str, Any] = {"reason": "new switch", "force": True, "by": "somebody else"}
    assert post(first.url, "drain", "site-a", keyed.keys.admin, **fields).status_code == 200
    eventually(lambda: state(second, "site-a") == "draining", "the drain at the other root")
    assert post(second.url, "undrain", "site-a", keyed.keys.admin).status_code == 200
    eventually(lambda: state(first, "site-a") == "up", "its end at the first root")
    assert post(first.url, "drain", "site-b/gpu", keyed.keys.admin, force=True).json()["by"] == "ops from 127.0.0.1"
    drained = [re.sub(r"since \S+Z", "since T", line) for line in lines(caplog, "hierarchy.drain")]
    assert drained == [
        "site-a is drained by ops from 127.0.0.1 since T: new switch",
        "site-a is drained by ops from 127.0.0.1 since T: new switch (from another instance)",
        "site-a is undrained by ops from 127.0.0.1",
        "site-a is undrained by ops from 127.0.0.1 (from another instance)",
        "gpu is drained by ops from 127.0.0.1 since T",
    ]
    audit = lines(caplog, "hierarchy.audit")
    assert audit[0].startswith("drain site-a by ops from 127.0.0.1 (new switch): refused: to drain site-a leaves")
    assert audit[1:] == [
        "drain site-a by ops from 127.0.0.1 (new switch): done",
        "undrain site-a by ops from 127.0.0.1: done",
        "drain site-b/gpu by ops from 127.0.0.1: done",
    ]


def test_roots_with_engines_only_tell_each_other_directly(cluster: Cluster, tmp_path: Path) -> None:
    keys, ports = Keys(tmp_path), (free_port(), free_port())
    engines = tuple(EngineConfig(name=name, kind="simulated", url=cluster.engine().url) for name in ("gpu", "other"))
    roots = []
    for port, other in zip(ports, reversed(ports), strict=True):
        config = keys.config(state_dir=str(tmp_path / str(port)))
        fields = {
            "listen": (("127.0.0.1", port),),
            "replica_of": "root",
            "replicas": (f"http://127.0.0.1:{other}",),
            "engines": engines,
        }
        roots.append(cluster.serve(config.model_copy(update=fields)))
    for root in roots:
        is_seen(root, "gpu", "other")
    for at, action, expected in ((0, "drain", "draining"), (1, "undrain", "up")):
        assert post(roots[at].url, action, "gpu", keys.admin).status_code == 200
        eventually(partial(has_state, roots, "gpu", expected), f"{action} at both roots")


def test_a_child_cannot_make_or_change_a_drain_of_its_parents(keyed: KeyedTree) -> None:
    first, second = keyed.roots
    forger = keyed.sites[0].node
    forged = Record("root", "drain", "site-b", int(time.time() * 1000), {"by": "ops", "reason": "", "since": 1.0})
    forger.board.receive([forged], ["root"], "nowhere")
    assert post(first.url, "drain", "site-a", keyed.keys.admin, force=True).status_code == 200
    eventually(lambda: state(second, "site-a") == "draining", "a true drain, later")
    assert states(keyed.roots, "site-b") == {"up"}
