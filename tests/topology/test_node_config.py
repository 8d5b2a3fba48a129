"""The configuration of one node, from a tree and from flags."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given

from hierarchy.config.models import ConfigError, EngineConfig, NodeConfig, Settings, SimulatedSpec
from hierarchy.errors import UsageError
from hierarchy.topology import node_config
from hierarchy.topology.node_config import from_tree
from tests.topology.test_declared import SITES
from tests.trees import CONFIGS, from_data, from_text, load_tree, problems_of, valid_trees

from_flags = partial(node_config.from_flags, hostname="box")


# from a tree


def test_each_node_gets_its_own_part(tmp_path: Path) -> None:
    tree = from_text(tmp_path, SITES)
    assert from_tree(tree, "root") == NodeConfig(
        name="root",
        listen=(("localhost", 21001), ("10.0.0.10", 21001)),
        advertise="http://localhost:21001",
        urls=("http://localhost:21001", "http://10.0.0.10:21001"),
        children=("lab",),
        engines=(EngineConfig(name="own", kind="simulated", model="m", simulated=SimulatedSpec(slots=2)),),
        labels={"lab": {}, "own": {}},
        settings=Settings(dispatch="p2c", grace_s=5.0),
    )
    lab = from_tree(tree, "lab")
    assert lab.advertise == "http://10.1.0.1:21001"
    assert lab.parents == ("http://10.0.0.10:21001",), "the address of the root that the lab can dial"
    assert lab.settings == Settings(dispatch="lottery", grace_s=5.0)
    rack = from_tree(tree, "rack")
    assert rack.parents == ("http://10.1.0.1:21001",)
    assert rack.advertise == "http://10.1.0.5:21001", "the address of the rack that the lab can dial"
    assert rack.engines == (EngineConfig(name="gpu", kind="vllm", url="http://10.1.0.11:8000", speed=4.0),)


def test_without_subnets_the_first_address_is_used(tmp_path: Path) -> None:
    tree = from_data(
        {
            "nodes": {"root": {"listen": ["[::1]:1", "localhost:2"]}, "a": {"parent": "root", "listen": "localhost:0"}},
            "engines": {"e": {"parent": "a", "kind": "simulated"}},
        }
    )
    assert from_tree(tree, "a").parents == ("http://[::1]:1",)
    assert from_tree(tree, "a").advertise == "http://localhost:0"


def test_each_node_knows_which_models_are_declared_below_it() -> None:
    engines = {
        "own": {"parent": "root", "kind": "vllm", "url": "http://localhost:1", "models": ["at-root"]},
        "slow": {"parent": "site", "kind": "simulated", "model": "at-site"},
        "gpu-1": {"parent": ["rack", "site"], "kind": "vllm", "url": "http://localhost:2", "models": {"a": "org/a"}},
        "gpu-2": {"parent": "rack", "kind": "vllm", "url": "http://localhost:3"},
    }
    nodes = {"root": {"listen": "localhost:10"}, "site": {"parent": "root", "listen": "localhost:11"}}
    nodes["rack"] = {"parent": "site", "listen": "localhost:12"}
    tree = from_data({"nodes": nodes, "engines": engines})
    below = {name: from_tree(tree, name).models_below for name in nodes}
    assert below == {"root": ("a", "at-site"), "site": (), "rack": ()}


def test_an_unknown_node_is_refused_with_the_choices(tmp_path: Path) -> None:
    tree = from_text(tmp_path, SITES)
    with pytest.raises(UsageError, match=r'tree\.yaml: no node "gpu"; choose one of root, lab, rack$'):
        from_tree(tree, "gpu")


def test_a_tree_with_problems_is_refused(tmp_path: Path) -> None:
    tree = from_text(tmp_path, SITES.replace("parent: lab", "parent: labb"))
    with pytest.raises(ConfigError) as caught:
        from_tree(tree, "root")
    assert 'tree.yaml:12: nodes.rack.parent: unknown parent "labb"; did you mean "lab"?' in str(caught.value)


@pytest.mark.parametrize("link", ["direct", "reverse", "auto"])
def test_link_and_proxy_of_a_node(tmp_path: Path, link: str) -> None:
    edge = f"{{parent: lab, link: {link}, proxy: 'http://proxy:3128',"
    tree = from_text(tmp_path, SITES.replace("{parent: lab,", edge))
    assert tree.problems == []
    assert (from_tree(tree, "rack").link, from_tree(tree, "rack").proxy) == (link, "http://proxy:3128")
    assert (from_tree(tree, "lab").link, from_tree(tree, "lab").proxy) == ("direct", "env")


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.name)
def test_the_examples_are_valid_and_each_node_gets_its_part(path: Path) -> None:
    tree = load_tree(path)
    assert problems_of(tree) == []
    for name in tree.config.nodes:
        assert from_tree(tree, name).name == name
    header = path.read_text("utf-8").split("version: 1")[0]
    assert f"configs/{path.name}" in header, "shows how to run it"


def test_the_example_of_isolated_subnets_does_what_its_comment_describes(tmp_path: Path) -> None:
    text = (CONFIGS / "isolated-subnets.yaml").read_text("utf-8")
    tree = from_text(tmp_path, text)
    assert from_tree(tree, "plant").advertise == "http://10.0.0.30:21001"
    assert from_tree(tree, "lab").link == "reverse"
    (problem,) = problems_of(from_text(tmp_path, text.replace(", link: reverse", "")))
    assert "root (dmz) cannot dial lab (lab)" in problem
    assert "link: reverse" in problem


@given(valid_trees())
def test_any_valid_tree_has_no_problems_and_a_part_for_each_node(data: dict[str, Any]) -> None:
    tree = from_data(data)
    assert problems_of(tree) == []
    configs = {name: from_tree(tree, name) for name in data["nodes"]}
    by_url = {config.advertise: name for name, config in configs.items()}
    assert {name: [by_url[url] for url in config.parents] for name, config in configs.items()} == {
        name: [node["parent"]] if "parent" in node else [] for name, node in data["nodes"].items()
    }
    assert sorted(engine.name for config in configs.values() for engine in config.engines) == sorted(data["engines"])


# from flags


def test_a_node_from_flags() -> None:
    node = from_flags(
        name="n",
        host="10.0.0.1",
        port=5,
        dispatch="lottery",
        parents=["http://up:1/"],
        engines=["vllm=http://a:1", "local=smollm2-135m", "vllm=https://b:2/", "simulated=http://c:3"],
    )
    assert node == NodeConfig(
        name="n",
        listen=(("10.0.0.1", 5),),
        advertise="http://10.0.0.1:5",
        parents=("http://up:1",),
        engines=(
            EngineConfig(name="vllm-1", kind="vllm", url="http://a:1"),
            EngineConfig(name="local-1", kind="local", model="smollm2-135m"),
            EngineConfig(name="vllm-2", kind="vllm", url="https://b:2"),
            EngineConfig(name="simulated-1", kind="simulated", url="http://c:3"),
        ),
        settings=Settings(dispatch="lottery"),
    )


def test_flags_have_the_defaults_of_fastchat() -> None:
    node = from_flags()
    assert node.listen == (("localhost", 21001),)
    assert node.advertise == "http://localhost:21001"
    assert node.settings == Settings(dispatch="shortest_queue")
    assert from_flags(port=21002).name != node.name, "two nodes of one machine under one parent"


def test_a_node_on_all_interfaces_advertises_an_address_to_dial() -> None:
    assert "0.0.0.0" not in from_flags(host="0.0.0.0").advertise
    assert from_flags(host="::", parents=["http://up:1"], advertise="http://me:2/").advertise == "http://me:2"
    assert from_flags(host="::1").advertise == "http://[::1]:21001"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"dispatch": "lotery"}, '--dispatch-method lotery: no such policy; did you mean "lottery"?'),
        ({"parents": ["up:1"]}, "--parent 'up:1' is not an http(s) URL; write \"http://host:port\""),
        ({"parents": ["http://0.0.0.0:1"]}, "--parent http://0.0.0.0:1: 0.0.0.0 is not an address to dial"),
        ({"advertise": "ftp://x"}, "--advertise 'ftp://x' is not an http(s) URL"),
        ({"engines": ["vllm"]}, "--engine vllm: not KIND=URL; write one such as vllm=http://127.0.0.1:8000"),
        ({"engines": ["vllm="]}, "--engine vllm=: not KIND=URL"),
        ({"engines": ["vlm=http://a:1"]}, '--engine vlm=http://a:1: unknown kind of engine "vlm"; did you mean'),
        ({"engines": ["vllm=a:1"]}, "--engine vllm= 'a:1' is not an http(s) URL"),
        ({"engines": ["local=ftp://a:1"]}, "--engine local= 'ftp://a:1' is not an http(s) URL"),
        ({"port": 70000}, "--port 70000: not a port; write a number from 0 to 65535"),
        ({"host": "0.0.0.0", "parents": ["http://up:1"]}, "--host 0.0.0.0: parents cannot dial it; add --advertise"),
        ({"name": "a/b"}, "--node a/b: not a valid name; write letters, digits, '.', '_' and '-'"),
    ],
)  # fmt: skip
def test_bad_flags_are_refused(flags: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        from_flags(**flags)
    assert str(caught.value).startswith(message)


def test_with_a_reverse_link_flags_need_no_address_to_advertise() -> None:
    config = from_flags(host="0.0.0.0", parents=["http://root:1"], link="reverse")
    assert (config.link, config.parents) == ("reverse", ("http://root:1",))
    for link in ("direct", "auto"):  # the parent dials, or tries to
        with pytest.raises(UsageError, match="add --advertise"):
            from_flags(host="0.0.0.0", parents=["http://root:1"], link=link)
    with pytest.raises(UsageError, match="--link up: choose one of direct, reverse, auto"):
        from_flags(parents=["http://root:1"], link="up")


NAMED = """\
version: 1
subnets: {dmz: 10.0.0.0/24, lab: 10.1.0.0/24}
reach: [[lab, dmz]]
nodes:
  root: {listen: "10.0.0.10:21001", advertise: "https://root.example:21001"}
  site: {parent: root, listen: "10.0.0.20:21001", advertise: "https://site.example:21001"}
  lab: {parent: site, listen: ["10.0.0.21:1", "10.1.0.1:1"], advertise: "http://lab.example:1"}
engines:
  e: {parent: lab, kind: simulated}
"""


def test_a_host_name_in_advertise_is_used_where_subnets_are_declared(tmp_path: Path) -> None:
    tree = from_text(tmp_path, NAMED)
    assert from_tree(tree, "site").parents == ("https://root.example:21001",)
    assert from_tree(tree, "site").advertise == "https://site.example:21001"
    assert from_tree(tree, "lab").parents == ("https://site.example:21001",)
    assert from_tree(tree, "lab").advertise == "http://lab.example:1"


def test_an_ip_address_in_advertise_is_used_by_those_who_can_dial_it(tmp_path: Path) -> None:
    text = NAMED.replace("https://site.example:21001", "http://192.0.2.7:9").replace("site.example", "10.0.0.20")
    assert from_tree(from_text(tmp_path, text), "lab").parents == ("http://10.0.0.20:21001",)


def test_a_host_name_in_a_subnet_that_cannot_be_dialled_is_a_problem(tmp_path: Path) -> None:
    text = NAMED.replace('listen: "10.0.0.20:21001", ', "subnet: lab, ").replace('"10.0.0.21:1", ', "")
    (problem,) = problems_of(from_text(tmp_path, text))
    assert "root (dmz) cannot dial site (lab)" in problem
