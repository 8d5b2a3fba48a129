"""Which members of a tree are on one machine, as far as their addresses show it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import networkx as nx

from hierarchy.config.address import host_of, is_loopback, is_wildcard
from hierarchy.topology.graph import Member, TreeGraph

Place = tuple[str, str]  #: ("member", key), or ("host", name) or ("url", URL), by which members are recognised


def machines(graph: TreeGraph) -> Mapping[str, str]:
    """Key of each member -> key of the first member that is known to be on the same machine; its own if none is.

    Two nodes are on one machine if they share an address that others can dial, or if one of them must dial the other at
    a loopback address. A site that dials out may have any machine: two of them are not on one because both have the
    default `listen`. An engine that is dialled at a loopback address, or has no URL, is on the machine of its node.
    """
    places = nx.Graph()
    for member in graph:
        places.add_node(("member", member.key))
        places.add_edges_from((("member", member.key), place) for place in _own_places(member))
    places.add_edges_from(_joined_by_loopback(graph))
    order = {key: index for index, key in enumerate(graph.members)}
    found: dict[str, str] = {}
    for group in nx.connected_components(places):
        keys = sorted((name for kind, name in group if kind == "member"), key=order.__getitem__)
        found |= dict.fromkeys(keys, keys[0])
    return found


def _own_places(member: Member) -> Iterator[Place]:
    """What only this machine has. Behind an address translation, several machines share a host, but not a URL."""
    if not member.is_node:
        return
    hosts = [host for host, _ in member.listen if not (is_loopback(host) or is_wildcard(host))]
    yield from (("host", host.lower()) for host in hosts)
    if not hosts:
        yield from (("url", url) for url in member.urls if not is_loopback(host_of(url)))


def _joined_by_loopback(graph: TreeGraph) -> Iterator[tuple[Place, Place]]:
    for parent, child in graph.edges:
        if child.is_node:
            # In a running tree the URL of a root says nothing: its children may reach it through another one.
            joined = (bool(parent.listen) and _only_loopback(parent.urls)) or (
                child.link == "direct" and _only_loopback(child.urls_for_parent)
            )
        else:
            joined = all(is_loopback(host_of(url)) for url in child.urls_for_parent)
        if joined:
            yield ("member", parent.key), ("member", child.key)


def _only_loopback(urls: Iterable[str]) -> bool:
    """Whether there is a URL, and all are of the machine itself."""
    hosts = [host_of(url) for url in urls]
    return bool(hosts) and all(map(is_loopback, hosts))
