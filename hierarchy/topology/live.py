"""A running tree, as a node's `GET /tree` tells it, as a graph with the attributes of `topology.build`.

So whatever looks at a file's tree (`checks`, `risks`) looks at a live one as well. Nothing of the JSON is trusted: it
passed through other people's hands.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import networkx as nx

from hierarchy.config.address import parse_url
from hierarchy.config.yaml import FieldPath, Finding, Problem
from hierarchy.topology.checks import check_addresses, check_all, check_names, check_shape

MAX_DEPTH = 64
_FURTHER = re.compile(r"(.+)~\d+")  # a further instance of a node
Check = Callable[[nx.DiGraph], Iterator[Finding]]
Entry = Mapping[str, Any]  #: one node or engine of `GET /tree`


def build_live(tree: Entry) -> nx.DiGraph:
    """The graph of a tree as `GET /tree` answers it; the node that was asked stands first.

    Beside the attributes of `topology.build` each has `name`, `state`, `detail`, `instance` and `further` (it is one
    more instance of the node `name`, listed as NAME~2); `field` is the path of names from the top. One process that is
    a child of several nodes stands once, with an edge from each. Another one by a name that is taken stands under
    "NAME (PARENT)".
    """
    graph = nx.DiGraph(slice=None)
    _add(graph, tree, None, ())
    return graph


def _add(graph: nx.DiGraph, entry: Entry, parent: str | None, above: FieldPath) -> None:
    listed = key = str(entry.get("name") or "?")
    further = _FURTHER.fullmatch(listed)
    name = further[1] if further else listed
    kind, instance = "node" if entry.get("kind") == "node" else "engine", str(entry.get("instance") or "")
    count = 1
    while key in graph:
        if instance and graph.nodes[key]["instance"] == instance:
            graph.add_edge(parent, key)
            graph.nodes[key]["parents"] += (parent,)
            return
        count += 1
        key = f"{listed} ({parent})" if count == 2 else f"{listed} ({parent}, {count})"
    parents = () if parent is None else (parent,)
    who = {"name": name, "kind": kind, "parents": parents, "instance": instance, "further": bool(further)}
    graph.add_node(key, field=(*above, listed), replica_of=None, **who, **_said(entry))
    if parent is not None:
        graph.add_edge(parent, key)
    children = entry.get("children")
    if len(above) < MAX_DEPTH and isinstance(children, Mapping):
        for child in children.values():
            if isinstance(child, Mapping):
                _add(graph, child, key, (*above, listed))


def _said(entry: Entry) -> dict[str, Any]:
    """What an entry says of itself, in the words of `topology.build`."""
    url, speed, models = str(entry.get("url") or ""), entry.get("speed"), entry.get("models")
    rows = models if isinstance(models, list) else []
    names = [str(row.get("name")) for row in rows if isinstance(row, Mapping) and row.get("name")]
    reverse = entry.get("link") == "reverse"  # then nobody dials its URL, and several may have the same
    try:
        urls = () if reverse else (parse_url(url)[0],)
    except ValueError:
        urls = ()
    return {
        "link": "reverse" if reverse else "direct",
        "subnet": None,
        "listen": (),
        "advertise": None if reverse else url,
        "registered": urls,
        "urls": urls,
        "engine": str(entry.get("kind") or "?"),
        "launched": False,
        "model": "",
        "models": tuple(dict.fromkeys(names)),
        "speed": float(speed) if isinstance(speed, int | float) and not isinstance(speed, bool) else 0.0,
        "state": str(entry.get("state") or "?"),
        "detail": str(entry.get("detail") or ""),
    }


def present(graph: nx.DiGraph) -> nx.DiGraph:
    """What of a live graph is there still: without what left and is only remembered."""
    return graph.subgraph([name for name, at in graph.nodes.items() if at["state"] != "gone"])


def check_twins(graph: nx.DiGraph) -> Iterator[Finding]:
    """No two nodes of one name. (Engines that flags named are `vllm-1` at every node, which harms nobody.)"""
    nodes = {name: at for name, at in graph.nodes.items() if at["kind"] == "node"}
    for name, at in nodes.items():
        if name != at["name"] and not at["further"]:
            first = nodes.get(at["name"])
            where = "/".join(map(str, first["field"])) if first else "an engine"
            yield at["field"], f"another process of this name is {where}", "rename one of the two"


def problems(graph: nx.DiGraph, url: str) -> list[Problem]:
    """Everything that is wrong with a live tree in itself, as the checks on a file would tell it."""
    return _told(graph, url, (check_all, check_twins))


def oversights(graph: nx.DiGraph, url: str) -> list[Problem]:
    """Of that what is nobody's to see but one's who looks at the whole; engines may be away for a while."""
    return _told(graph, url, (check_shape, check_names, check_addresses, check_twins))


def _told(graph: nx.DiGraph, url: str, checks: Iterable[Check]) -> list[Problem]:
    there = present(graph)
    known = {at["field"] for at in there.nodes.values()}
    found = []
    for path, message, mend in [finding for check in checks for finding in check(there)]:
        place = path if path in known else path[:-1]  # a live entry has no fields to be changed
        found.append(Problem(url, 0, "/".join(map(str, place)), message, mend))
    return found
