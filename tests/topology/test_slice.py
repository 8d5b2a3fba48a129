"""Slices: one node's part of a tree as a file of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings

from hierarchy.cli.run_node import from_file
from hierarchy.config.models import NodeConfig, TreeConfig
from hierarchy.errors import UsageError
from hierarchy.topology.declared import DeclaredTree
from hierarchy.topology.node_config import from_tree
from hierarchy.topology.slice import as_yaml, slice_of
from tests.trees import CONFIGS, from_data, from_text, load_tree, valid_trees

SITES = """\
version: 1
subnets: {dmz: 10.0.0.0/24, a: 10.1.0.0/24, b: 10.2.0.0/24}
reach: [[a, dmz], [dmz, a], [b, dmz], [dmz, b]]
defaults: {dispatch: p2c, grace_s: 5}
aliases: {gpt: [m, {model: n, weight: 2}]}
nodes:
  root: {listen: ["10.0.0.1:1", "[::1]:1"], access_log: true}
  a: {parent: root, listen: "0.0.0.0:1", advertise: "http://10.1.0.1:1", report_interval_s: 2}
  b: {parent: root, listen: "10.2.0.1:1", dispatch: lottery}
engines:
  a1: {parent: a, kind: vllm, url: "http://10.1.0.11:8000", speed: 4, models: {m: "org/m"}}
  b1: {parent: b, kind: simulated, model: n, simulated: {slots: 2}}
"""


def sliced(tree: DeclaredTree, name: str, folder: Path) -> DeclaredTree:
    """The tree of a node's slice, as its machine reads it."""
    return from_text(folder, as_yaml(slice_of(tree, name), "a comment"))


def check_every_slice(tree: DeclaredTree, folder: Path) -> None:
    """Each node gets the same configuration from its slice as from the whole tree, but for what others serve."""
    for name in tree.config.nodes:
        part = sliced(tree, name, folder)
        assert part.problems == []
        whole = from_tree(tree, name).model_copy(update={"models_below": ()})
        assert from_tree(part, name) == whole
        assert from_file(folder / "tree.yaml", None) == whole


@pytest.mark.parametrize("config", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_each_node_of_each_example_gets_the_same_from_its_slice(config: Path, tmp_path: Path) -> None:
    check_every_slice(load_tree(config), tmp_path)


def test_every_kind_of_field_is_kept(tmp_path: Path) -> None:
    check_every_slice(from_text(tmp_path, SITES), tmp_path)


REPLICAS = """\
version: 1
subnets: {dmz: 10.0.0.0/24, a: 10.1.0.0/24, b: 10.2.0.0/24}
reach: [[b, dmz], [a, dmz], [a, b]]
nodes:
  root: {listen: "10.0.0.1:1", tls: {cert: r.crt, key: r.key, ca: ca.pem}}
  root-b: {listen: ["10.0.0.2:1", "127.0.0.1:1"], replica_of: root, tls: {cert: b.crt, key: b.key, ca: ca.pem}}
  root-c: {listen: "10.2.0.3:1", replica_of: root, advertise: "https://10.2.0.3:1"}
  a: {parent: root, listen: "10.1.0.9:1", link: reverse}
engines:
  a1: {parent: a, kind: vllm, url: "http://10.1.0.11:8000"}
"""


def test_each_replica_knows_those_of_the_others_that_it_may_dial(tmp_path: Path) -> None:
    tree = from_text(tmp_path, REPLICAS)
    one, two, three = "https://10.0.0.1:1", "https://10.0.0.2:1", "https://10.2.0.3:1"
    assert from_tree(tree, "root").replicas == (two,), "the firewall does not let it dial the third"
    assert from_tree(tree, "root-b").replicas == (one,)
    assert from_tree(tree, "root-c").replicas == (one, two)
    assert three not in from_tree(tree, "root").replicas
    assert from_tree(tree, "a").replicas == ()
    check_every_slice(tree, tmp_path)


@settings(max_examples=15)
@given(data=valid_trees())
def test_any_tree_can_be_sliced(data: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> None:
    check_every_slice(from_data(data), tmp_path_factory.getbasetemp())


def test_a_slice_has_nothing_of_other_sites(tmp_path: Path) -> None:
    tree = from_text(tmp_path, SITES)
    text = as_yaml(slice_of(tree, "a"), "x")
    assert not [word for word in ("b1", "lottery", "10.2.0", "access_log") if word in text]
    assert set(slice_of(tree, "a")["nodes"]) == {"root", "a"}
    root = slice_of(tree, "root")
    assert root["nodes"]["b"] == {"parent": "root", "listen": ["10.2.0.1:1"], "advertise": "http://10.2.0.1:1"}
    assert "engines" not in root


SECRETS = """\
version: 1
defaults:
  security: {key: "env:TREE", join_token: "env:OTHERS", state_dir: "/var/x"}
  tls: {cert: o.pem, key: o.key, ca: ca.pem, require_client_cert: true}
nodes:
  root: {listen: "10.0.0.1:1", security: {admin_keys: "file:/root/admins"}, admin_listen: "127.0.0.1:2"}
  a:
    parent: root
    listen: "10.1.0.1:1"
    link: auto
    proxy: http://10.1.0.9:3128
    security: {key: "env:OWN", join_token: "file:mine"}
    tls: {cert: a.pem, key: a.key}
  b: {parent: a, listen: "10.2.0.1:1", security: {join_token: "env:B"}, proxy: http://10.2.0.9:3128}
engines:
  a1: {parent: a, kind: vllm, url: "http://10.1.0.11:8000", api_key: "env:A1"}
  b1: {parent: b, kind: vllm, url: "http://10.2.0.11:8000", api_key: "env:B1"}
"""


def test_a_slice_names_only_its_own_secrets_and_certificates(tmp_path: Path) -> None:
    tree = from_text(tmp_path, SECRETS)
    check_every_slice(tree, tmp_path)
    part = slice_of(tree, "a")
    assert "defaults" not in part
    assert part["nodes"]["a"]["security"] == {"key": "env:OWN", "join_token": "file:mine", "state_dir": "/var/x"}
    assert part["nodes"]["a"]["tls"] == {"cert": "a.pem", "key": "a.key", "ca": "ca.pem", "require_client_cert": True}
    text = as_yaml(part, "x")
    assert not [word for word in ("TREE", "OTHERS", "o.pem", "admins", "env:B", "10.2.0.9", ":2") if word in text]
    assert part["nodes"]["root"] == {"listen": ["10.0.0.1:1"], "advertise": "https://10.0.0.1:1"}


def test_every_section_of_the_format_is_in_the_slice_of_the_root(tmp_path: Path) -> None:
    assert slice_of(from_text(tmp_path, SITES), "root").keys() == TreeConfig.model_fields.keys() - {"engines"}
    assert "engines" in slice_of(from_text(tmp_path, SITES), "a")


def test_a_slice_is_for_no_other_node(tmp_path: Path) -> None:
    part = sliced(from_text(tmp_path, SITES), "a", tmp_path)
    with pytest.raises(UsageError, match='is the slice for node "a"; run "root" from its own file'):
        from_tree(part, "root")
    with pytest.raises(UsageError, match='no node "nope"'):
        slice_of(part, "nope")


def test_a_slice_without_its_node_is_refused(tmp_path: Path) -> None:
    text = as_yaml(slice_of(from_text(tmp_path, SITES), "a"), "x").replace("slice: a", "slice: c")
    (problem, *_) = [str(problem) for problem in from_text(tmp_path, text).problems if problem.field == "slice"]
    assert 'slice: no node "c"' in problem


def test_the_comment_comes_first(tmp_path: Path) -> None:
    assert as_yaml(slice_of(from_text(tmp_path, SITES), "a"), "one\ntwo").startswith("# one\n# two\nversion: 1\n")
    assert isinstance(from_file(tmp_path / "tree.yaml", "a"), NodeConfig)
