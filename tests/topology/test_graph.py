from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hierarchy.config.models import ConfigError, EngineConfig, NodeConfig, Settings, SimulatedSpec, load
from hierarchy.errors import UsageError
from hierarchy.topology.graph import build, cut, depth, may_dial, single, validate
from tests.builders import UNTIMED
from tests.trees import CONFIGS, from_data, from_text, told

SITES = """\
version: 1
subnets: {dmz: 10.0.0.0/24, lab: 10.1.0.0/24}
reach: [[lab, dmz], [dmz, lab]]
defaults: {dispatch: p2c, grace_s: 5}
nodes:
  root: {listen: ["localhost:21001", "10.0.0.10:21001"]}
  lab:
    parent: root
    listen: "0.0.0.0:21001"
    advertise: "http://10.1.0.1:21001/"
    dispatch: lottery
  rack: {parent: lab, listen: ["10.9.0.5:21001", "10.1.0.5:21001"]}
engines:
  own: {parent: root, kind: simulated, model: m, simulated: {slots: 2}}
  gpu: {parent: rack, kind: vllm, url: "http://10.1.0.11:8000", speed: 4}
"""


def test_the_graph_has_an_edge_from_every_parent_to_its_children(tmp_path: Path) -> None:
    graph = build(from_text(tmp_path, SITES).config)
    assert set(graph.edges) == {("root", "lab"), ("lab", "rack"), ("root", "own"), ("rack", "gpu")}
    assert {name: at["kind"] for name, at in graph.nodes.items()} == {
        "root": "node",
        "lab": "node",
        "rack": "node",
        "own": "engine",
        "gpu": "engine",
    }
    assert graph.nodes["lab"]["registered"] == ("http://10.1.0.1:21001",)
    assert graph.nodes["rack"]["registered"] == ("http://10.9.0.5:21001", "http://10.1.0.5:21001")
    assert graph.nodes["gpu"]["engine"] == "vllm"
    assert depth(graph) == 3


def test_neither_a_node_nor_an_engine_of_its_name_is_lost() -> None:
    tree = from_data({"nodes": {"a": {}}, "engines": {"a": {"parent": "a", "kind": "simulated"}}})
    graph = build(tree.config)
    assert set(graph.edges) == {("a", "a (engine)")}
    assert told(tree) == ["1: engines.a: a node has this name too; rename one of the two"]


@pytest.mark.parametrize(
    ("source", "target", "verdict"),
    [
        ("root", "lab", True),
        ("gpu", "root", True),  # an engine's machine stands in a subnet like any other
        ("rack", "root", True),  # by its leg in the lab
        ("root", "own", None),  # started by its node: it has no address yet
    ],
)
def test_may_dial(tmp_path: Path, source: str, target: str, verdict: bool | None) -> None:
    assert may_dial(from_text(tmp_path, SITES), source, target) is verdict


def test_may_dial_goes_one_way(tmp_path: Path) -> None:
    text = SITES.replace("[[lab, dmz], [dmz, lab]]", "[[lab, dmz]]").replace(
        '"10.9.0.5:21001", "10.1.0.5:21001"', "far:1"
    )
    loaded = from_text(tmp_path, text.replace('"http://10.1.0.11:8000"', '"http://10.0.0.20:8000"'))
    assert may_dial(loaded, "lab", "gpu") is True
    assert may_dial(loaded, "gpu", "lab") is False
    assert may_dial(loaded, "rack", "gpu") is None


def test_may_dial_of_somebody_unknown(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r'no node or engine "gpus"; did you mean "gpu"\?'):
        may_dial(from_text(tmp_path, SITES), "root", "gpus")


def test_an_unknown_parent_makes_no_node() -> None:
    assert set(build(from_data({"nodes": {"a": {"parent": "ghost"}}}).config)) == {"a"}


# cut


def test_cut_gives_each_node_its_own_part(tmp_path: Path) -> None:
    loaded = from_text(tmp_path, SITES)
    assert cut(loaded, "root") == NodeConfig(
        name="root",
        listen=(("localhost", 21001), ("10.0.0.10", 21001)),
        advertise="http://localhost:21001",
        children=("lab",),
        engines=(EngineConfig(name="own", kind="simulated", model="m", simulated=SimulatedSpec(slots=2)),),
        settings=Settings(dispatch="p2c", grace_s=5.0),
    )
    lab = cut(loaded, "lab")
    assert lab.advertise == "http://10.1.0.1:21001"
    assert lab.parents == ("http://10.0.0.10:21001",), "the address of the root that the lab can dial"
    assert lab.settings == Settings(dispatch="lottery", grace_s=5.0)
    rack = cut(loaded, "rack")
    assert rack.parents == ("http://10.1.0.1:21001",)
    assert rack.advertise == "http://10.1.0.5:21001", "the address of the rack that the lab can dial"
    assert rack.engines == (EngineConfig(name="gpu", kind="vllm", url="http://10.1.0.11:8000", speed=4.0),)


def test_cut_without_subnets_takes_the_first_address(tmp_path: Path) -> None:
    loaded = from_data(
        {
            "nodes": {"root": {"listen": ["[::1]:1", "localhost:2"]}, "a": {"parent": "root", "listen": "localhost:0"}},
            "engines": {"e": {"parent": "a", "kind": "simulated"}},
        }
    )
    assert cut(loaded, "a").parents == ("http://[::1]:1",)
    assert cut(loaded, "a").advertise == "http://localhost:0"


def test_cut_of_an_unknown_node_names_the_choices(tmp_path: Path) -> None:
    loaded = from_text(tmp_path, SITES)
    with pytest.raises(UsageError, match=r'tree\.yaml: no node "gpu"; choose one of root, lab, rack$'):
        cut(loaded, "gpu")


def test_cut_refuses_a_tree_with_problems(tmp_path: Path) -> None:
    loaded = from_text(tmp_path, SITES.replace("parent: lab", "parent: labb"))
    with pytest.raises(ConfigError) as caught:
        cut(loaded, "root")
    assert 'tree.yaml:12: nodes.rack.parent: unknown parent "labb"; did you mean "lab"?' in str(caught.value)


@pytest.mark.parametrize("link", ["direct", "reverse", "auto"])
def test_cut_says_who_dials_and_through_which_proxy(tmp_path: Path, link: str) -> None:
    edge = f"{{parent: lab, link: {link}, proxy: 'http://proxy:3128',"
    loaded = from_text(tmp_path, SITES.replace("{parent: lab,", edge))
    assert validate(loaded) == []
    assert (cut(loaded, "rack").link, cut(loaded, "rack").proxy) == (link, "http://proxy:3128")
    assert (cut(loaded, "lab").link, cut(loaded, "lab").proxy) == ("direct", "env")


# configs/


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.name)
def test_the_examples_are_good_and_can_be_cut(path: Path) -> None:
    loaded = load(path)
    assert told(loaded) == []
    for name in loaded.config.nodes:
        assert cut(loaded, name).name == name
    header = path.read_text("utf-8").split("version: 1")[0]
    assert f"configs/{path.name}" in header, "says how to run it"


def test_examples_do_not_take_each_others_ports() -> None:
    local = ("demo.yaml", "two-tiers.yaml", "three-tiers.yaml")
    ports = [
        address for name in local for node in load(CONFIGS / name).config.nodes.values() for address in node.listen
    ]
    assert len(set(ports)) == len(ports)


def test_the_example_of_isolated_subnets_says_what_its_comment_promises(tmp_path: Path) -> None:
    text = (CONFIGS / "isolated-subnets.yaml").read_text("utf-8")
    loaded = from_text(tmp_path, text)
    assert cut(loaded, "plant").advertise == "http://10.0.0.30:21001"
    assert cut(loaded, "lab").link == "reverse"
    (problem,) = told(from_text(tmp_path, text.replace(", link: reverse", "")))
    assert "root (dmz) cannot dial lab (lab)" in problem
    assert "link: reverse" in problem


# single


def test_a_node_from_flags() -> None:
    node = single(
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


def test_flags_have_fastchats_defaults() -> None:
    node = single()
    assert node.listen == (("localhost", 21001),)
    assert node.advertise == "http://localhost:21001"
    assert node.settings == Settings(dispatch="shortest_queue")
    assert single(port=21002).name != node.name, "two nodes of one machine under one parent"


def test_all_interfaces_have_an_address_for_others() -> None:
    assert "0.0.0.0" not in single(host="0.0.0.0").advertise
    assert single(host="::", parents=["http://up:1"], advertise="http://me:2/").advertise == "http://me:2"
    assert single(host="::1").advertise == "http://[::1]:21001"


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ({"dispatch": "lotery"}, '--dispatch-method lotery: no such policy; did you mean "lottery"?'),
        ({"parents": ["up:1"]}, "--parent 'up:1' is no http(s) URL; write \"http://host:port\""),
        ({"parents": ["http://0.0.0.0:1"]}, "--parent http://0.0.0.0:1: nobody can dial 0.0.0.0; write the address"),
        ({"advertise": "ftp://x"}, "--advertise 'ftp://x' is no http(s) URL"),
        ({"engines": ["vllm"]}, "--engine vllm: no KIND=URL; write one such as vllm=http://127.0.0.1:8000"),
        ({"engines": ["vllm="]}, "--engine vllm=: no KIND=URL"),
        ({"engines": ["vlm=http://a:1"]}, '--engine vlm=http://a:1: no kind of engine "vlm"; did you mean "vllm"?'),
        ({"engines": ["vllm=a:1"]}, "--engine vllm= 'a:1' is no http(s) URL"),
        ({"engines": ["local=ftp://a:1"]}, "--engine local= 'ftp://a:1' is no http(s) URL"),
        ({"port": 70000}, "--port 70000: no port; write a number from 0 to 65535"),
        ({"host": "0.0.0.0", "parents": ["http://up:1"]}, "--host 0.0.0.0: parents cannot dial it; add --advertise"),
        ({"name": "a/b"}, "--name a/b: no name; write letters, digits, '.', '_' and '-'"),
    ],
)  # fmt: skip
def test_bad_flags(flags: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError) as caught:
        single(**flags)
    assert str(caught.value).startswith(says)


# random trees


@st.composite
def trees(draw: st.DrawFn) -> dict[str, Any]:
    """A good tree on loopback: each node's parent is an earlier one, and leaves have engines."""
    count = draw(st.integers(2, 12))
    nodes: dict[str, dict[str, Any]] = {"n0": {"listen": "localhost:20000"}}
    for n in range(1, count):
        nodes[f"n{n}"] = {"parent": f"n{draw(st.integers(0, n - 1))}", "listen": f"localhost:{20000 + n}"}
    inner = {node.get("parent") for node in nodes.values()}
    served = [name for name in nodes if name not in inner or draw(st.booleans())]
    engines = {f"e{n}": {"parent": name, "kind": "simulated"} for n, name in enumerate(served)}
    order = draw(st.permutations(list(nodes)))
    return {"nodes": {name: nodes[name] for name in order}, "engines": engines}


def faulted(data: st.DataObject, tree: dict[str, Any], fault: str) -> str:
    """Put one fault into a good tree; returns what the check must say of it."""
    nodes, engines = tree["nodes"], tree["engines"]
    others = [name for name in nodes if name != "n0"]
    victim: str = data.draw(st.sampled_from(others))
    match fault:
        case "cycle":
            below = [victim, *_descendants(nodes, victim)]
            nodes[victim]["parent"] = data.draw(st.sampled_from(below))
            return r"a cycle: .*\b" + victim
        case "second root":
            del nodes[victim]["parent"]
            return r'second root beside "n'
        case "unknown parent":
            nodes[victim]["parent"] = "ghost"
            return rf'nodes\.{victim}\.parent: unknown parent "ghost"'
        case "parent is an engine":
            nodes[victim]["parent"] = next(iter(engines))
            return rf'nodes\.{victim}\.parent: parent "e0" is an engine'
        case "one port twice":
            other = data.draw(st.sampled_from([name for name in nodes if name != victim]))
            nodes[victim]["listen"] = nodes[other]["listen"].replace("localhost", "127.0.0.1")
            return rf"nodes\.({victim}|{other})\.listen: localhost:\d+ is the address of node"
        case "one name twice":
            engines[victim] = {"parent": "n0", "kind": "simulated"}
            return rf"engines\.{victim}: a node has this name too"
    nodes["idle"] = {"parent": victim, "listen": "localhost:19999"}
    return r"nodes\.idle: no engine serves it"


def _descendants(nodes: dict[str, dict[str, Any]], name: str) -> list[str]:
    children = [child for child, node in nodes.items() if node.get("parent") == name]
    return [*children, *(below for child in children for below in _descendants(nodes, child))]


FAULTS = ["cycle", "second root", "unknown parent", "parent is an engine", "one port twice", "one name twice", "idle"]


@UNTIMED
@given(trees())
def test_any_good_tree_is_clean_and_every_node_can_be_cut(data: dict[str, Any]) -> None:
    loaded = from_data(data)
    assert told(loaded) == []
    configs = {name: cut(loaded, name) for name in data["nodes"]}
    by_url = {config.advertise: name for name, config in configs.items()}
    assert {name: [by_url[url] for url in config.parents] for name, config in configs.items()} == {
        name: [node["parent"]] if "parent" in node else [] for name, node in data["nodes"].items()
    }
    assert sorted(engine.name for config in configs.values() for engine in config.engines) == sorted(data["engines"])


@pytest.mark.parametrize("fault", FAULTS)
@UNTIMED
@given(data=st.data())
def test_one_fault_in_any_tree_is_told(fault: str, data: st.DataObject) -> None:
    tree = data.draw(trees())
    pattern = faulted(data, tree, fault)
    problems = told(from_data(tree))
    found = [problem for problem in problems if re.search(pattern, problem)]
    # what moved away may have been all that its parent had
    rest = [problem for problem in problems if problem not in found and "no engine serves it" not in problem]
    assert (len(found), rest) == (1, []), problems


def test_single_with_a_reverse_link_needs_no_address_of_its_own() -> None:
    config = single(host="0.0.0.0", parents=["http://root:1"], link="reverse")
    assert (config.link, config.parents) == ("reverse", ("http://root:1",))
    for link in ("direct", "auto"):  # the parent dials, or tries to
        with pytest.raises(UsageError, match="add --advertise"):
            single(host="0.0.0.0", parents=["http://root:1"], link=link)
    with pytest.raises(UsageError, match="--link up: known here: direct, reverse, auto"):
        single(parents=["http://root:1"], link="up")
