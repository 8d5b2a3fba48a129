"""One node's part of a tree as a YAML of its own: what its machine needs, and nothing of other sites.

The node and its engines stand in it as they were written, with `defaults` and `aliases`; `security` and `tls` as they
hold for this node, so that nothing comes along of where others keep their secrets. Of the parent and of the nodes right
below only their place is kept, so that the part can be checked like a whole tree.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from typing import Any

from ruamel.yaml import YAML

from hierarchy.config.models import LoadedTree, TreeConfig
from hierarchy.topology.graph import build, cut
from hierarchy.topology.reachability import Reach, parse_reach

#: sections of the file that go into every part as they are
SHARED = ("version", "aliases")
#: sections of which a part holds what it needs
PARTLY = ("defaults", "subnets", "reach", "nodes", "engines", "slice")
#: blocks of `defaults` that stand in a part at its node alone
BLOCKS = ("security", "tls")
#: what of another node stands in a part: where it is, and nothing that it does or knows: no keys, no certificates
PLACE = ("parent", "replica_of", "listen", "advertise", "link", "subnet")


def slice_of(loaded: LoadedTree, name: str) -> dict[str, Any]:
    """The part of a tree that one node needs, as plain data; `topology.cut` gives for both the same.

    Raises:
        UsageError: there is no node of that name.
        ConfigError: the tree has problems.
    """
    mine = cut(loaded, name)
    tree, graph = loaded.config, build(loaded.config)
    written = tree.model_dump(mode="json", exclude_unset=True)
    part = {section: written[section] for section in SHARED if section in written}
    defaults, own = written.get("defaults", {}), written["nodes"][name]
    own |= {block: defaults.pop(block) | own.get(block, {}) for block in BLOCKS if block in defaults}
    if defaults:
        part["defaults"] = defaults
    part["slice"] = name
    parents, below = graph.nodes[name]["parents"], set(graph[name])
    replicas = {key for key, node in tree.nodes.items() if name in (key, node.replica_of)}
    replicas |= {tree.nodes[name].replica_of or name}
    kept = [key for key in tree.nodes if key in below or key in parents or key in replicas]
    part["nodes"] = {key: written["nodes"][key] if key == name else _place(written["nodes"][key]) for key in kept}
    for parent, url in zip(parents, mine.parents, strict=True):
        above = part["nodes"][parent]
        above.pop("parent", None)
        above["advertise"] = url  # the one of its addresses that this node dials
    reach, _ = parse_reach(tree.subnets, tree.reach)
    for key in kept:
        if key in below:
            at = graph.nodes[key]
            dialled = reach.dialled(graph.nodes[name], at, at["registered"]) or next(iter(at["registered"]), None)
            part["nodes"][key] |= {"advertise": dialled} if dialled else {}
    engines = {key: spec for key, spec in written.get("engines", {}).items() if key in below}
    for entry in (*(part["nodes"][key] for key in kept if key in below), *engines.values()):
        if isinstance(entry.get("parent"), list):
            entry["parent"] = [parent for parent in entry["parent"] if parent in kept]
    if engines:
        part["engines"] = engines
    return {**part, **_subnets(tree, reach, [graph.nodes[key] for key in [*kept, *engines]])}


def _place(node: dict[str, Any]) -> dict[str, Any]:
    return {field: value for field, value in node.items() if field in PLACE}


def _subnets(tree: TreeConfig, reach: Reach, kept: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Those of the subnets that somebody in the part stands in, and who may dial whom between them."""
    needed = set().union(*(reach.subnets_of(at) for at in kept))
    subnets = {name: cidr for name, cidr in tree.subnets.items() if name in needed}
    pairs = [list(pair) for pair in tree.reach if needed.issuperset(pair)]
    return {key: value for key, value in (("subnets", subnets), ("reach", pairs)) if value}


def as_yaml(part: dict[str, Any], comment: str) -> str:
    """A part as the text of a file, in the order of the format, headed by a comment."""
    order = [section for section in TreeConfig.model_fields if section in part]
    writer = YAML()
    writer.default_flow_style = False
    writer.width = 4096
    text = io.StringIO()
    writer.dump({section: part[section] for section in order}, text)
    return "".join(f"# {line}\n" for line in comment.splitlines()) + text.getvalue()
