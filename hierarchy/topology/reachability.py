"""Subnets, and who may dial whom across them: a firewall's rules as far as a tree of nodes needs them."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import networkx as nx

from hierarchy.config.address import host_of, is_loopback, literal_ip
from hierarchy.config.yaml import Finding, closest

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Attributes = Mapping[str, Any]  #: of one node of the graph, see `topology.build`


@dataclass(frozen=True)
class Reach:
    """Declared subnets by name, and the directed pairs of them between which a connection may be opened."""

    declared: frozenset[str]
    networks: Mapping[str, Network]  #: those of `declared` whose CIDR is good
    pairs: frozenset[tuple[str, str]]

    def may_dial(self, sources: Iterable[str], targets: Iterable[str]) -> bool | None:
        """Whether any of the subnets `sources` reaches any of `targets`; None where one end's are not known."""
        sources, targets = set(sources), set(targets)
        if not sources or not targets:
            return None
        return bool(sources & targets) or any((a, b) in self.pairs for a in sources for b in targets)

    def connects(self, source: Attributes, target: Attributes) -> bool | None:
        """Whether `source` can open a connection to the target, at whatever address; None where it cannot be told."""
        return self.may_dial(self.subnets_of(source), self.subnets_of(target))

    def dialled(self, source: Attributes, target: Attributes, urls: Iterable[str]) -> str | None:
        """The one of the target's `urls` that `source` can dial; None if the firewall refuses all.

        A proven one comes first, then one against which nothing speaks: a host name, or an address outside all
        subnets. Loopback comes last, and not at all where another address is refused: then the ends stand apart.
        """
        verdicts = {
            url: self.may_dial(self.subnets_of(source), self.subnets_at(target, [host_of(url)])) for url in urls
        }
        proven = [url for url, verdict in verdicts.items() if verdict]
        unjudged = [url for url, verdict in verdicts.items() if verdict is None]
        apart = False in verdicts.values()
        unjudged = [url for url in unjudged if not is_loopback(host_of(url))] or ([] if apart else unjudged)
        return next(iter([*proven, *unjudged]), None)

    def subnets_of(self, at: Attributes) -> set[str]:
        """Where a node or engine stands: a node that listens in several subnets belongs to them all."""
        return self.subnets_at(at, [host for host, _ in at["listen"]] + [host_of(url) for url in at["urls"]])

    def subnets_at(self, at: Attributes, hosts: Iterable[str]) -> set[str]:
        """Subnets of those of its `hosts`, unless its subnet is declared."""
        if at["subnet"] is not None:
            return {at["subnet"]} & self.declared
        ips = [ip for ip in map(literal_ip, hosts) if ip is not None]
        return {name for name, network in self.networks.items() if any(ip in network for ip in ips)}


def parse_reach(subnets: Mapping[str, str], pairs: Iterable[tuple[str, str]]) -> tuple[Reach, list[Finding]]:
    """Read `subnets` and `reach`. What is wrong in them is found, and left out of the result."""
    networks: dict[str, Network] = {}
    findings: list[Finding] = []
    for name, cidr in subnets.items():
        try:
            networks[name] = ipaddress.ip_network(cidr)
        except ValueError as error:
            findings.append((("subnets", name), f"{cidr!r} is no subnet ({error})", _mend_cidr(cidr)))
    findings.extend(_overlaps(networks))
    good: set[tuple[str, str]] = set()
    for index, pair in enumerate(pairs):
        unknown = [end for end in pair if end not in subnets]
        findings.extend((("reach", index), f'unknown subnet "{end}"', closest(end, subnets)) for end in unknown)
        if not unknown:
            good.add(pair)
    return Reach(frozenset(subnets), networks, frozenset(good)), findings


def check_reach(graph: nx.DiGraph, reach: Reach) -> Iterator[Finding]:
    """Every edge can be dialled as it has to be: a parent dials its children, and nodes dial up to register."""
    names = sorted(reach.declared)
    for at in graph.nodes.values():
        if at["subnet"] is not None and at["subnet"] not in names:
            yield (*at["field"], "subnet"), f'unknown subnet "{at["subnet"]}"', closest(at["subnet"], names)
    for parent, child in graph.edges:
        finding = _edge(reach, parent, graph.nodes[parent], child, graph.nodes[child])
        if finding:
            yield finding


def _edge(reach: Reach, parent: str, above: Attributes, child: str, below: Attributes) -> Finding | None:
    """What keeps one edge from working. An end without any usable URL is another check's finding."""
    down = not below["registered"] or reach.dialled(above, below, below["registered"]) is not None
    up = not above["urls"] or reach.dialled(below, above, above["urls"]) is not None
    high, low = _place(reach, above), _place(reach, below)
    down_rule = _rule(reach, above, below, below["registered"])
    up_rule = _rule(reach, below, above, above["urls"])
    field = (*below["field"], "parent")
    if below["link"] != "direct":
        down = True  # nobody has to: with `auto` the parent tries, and the child dials if it cannot
    if below["kind"] == "engine":
        up = True  # an engine registers with nobody
    if up and down:
        return None
    if up:
        message, mend = f"{parent} ({high}) cannot dial {child} ({low})", f"add {down_rule} to `reach`"
        if below["kind"] == "node":
            mend += f", or set `link: reverse`, since {child} may dial {parent}"
        return field, message, mend
    message = f"{child} ({low}) cannot dial {parent} ({high}) to register"
    if down:
        return field, message, f"add {up_rule} to `reach`"
    mend = f"add {up_rule} to `reach`, and {down_rule} too or `link: reverse`"
    return field, f"{message}, nor the other way round", mend


def _rule(reach: Reach, source: Attributes, target: Attributes, urls: Sequence[str]) -> str:
    """The entry of `reach` that would let `source` dial the target at one of `urls`."""
    ends = sorted(reach.subnets_of(source)), sorted(reach.subnets_at(target, map(host_of, urls)))
    return f"[{', '.join(names[0] if names else 'unknown' for names in ends)}]"


def _place(reach: Reach, at: Attributes) -> str:
    return " and ".join(sorted(reach.subnets_of(at))) or "unknown"


def _mend_cidr(cidr: str) -> str:
    try:
        return f'write "{ipaddress.ip_network(cidr, strict=False)}"'
    except ValueError:
        return 'write it as "10.0.0.0/24"'


def _overlaps(networks: Mapping[str, Network]) -> Iterator[Finding]:
    for (first, a), (second, b) in combinations(networks.items(), 2):
        if a.overlaps(b):
            yield ("subnets", second), f'{b} overlaps with {a} ("{first}")', "make them disjoint"
