"""Which subnets can dial which: a firewall's rules, as far as a tree of nodes needs them."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from hierarchy.config.address import host_of, is_loopback, literal_ip, network_hint
from hierarchy.config.yaml import Finding, closest
from hierarchy.topology.graph import Member, TreeGraph

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True)
class Reach:
    """The declared subnets, and the directed pairs of them between which a connection may be opened."""

    #: names of all declared subnets
    declared: frozenset[str]
    #: name -> network, for those whose CIDR is valid
    networks: Mapping[str, Network]
    #: (from, to), beside each subnet to itself
    pairs: frozenset[tuple[str, str]]

    def allows(self, sources: Iterable[str], targets: Iterable[str]) -> bool | None:
        """Whether any of the subnets `sources` may dial any of `targets`; None if either is empty, that is unknown."""
        sources, targets = set(sources), set(targets)
        if not sources or not targets:
            return None
        return bool(sources & targets) or any((a, b) in self.pairs for a in sources for b in targets)

    def may_dial(self, source: Member, target: Member) -> bool | None:
        """Whether `source` can open a connection to `target`, at any of its addresses; None if that is unknown."""
        return self.allows(self.subnets_of(source), self.subnets_of(target))

    def choose_url(self, source: Member, target: Member, urls: Iterable[str]) -> str | None:
        """The one of the target's `urls` that `source` should dial; None if the firewall refuses them all.

        First comes a host name in the target's `advertise`, which a certificate or a DNS entry may be for; then a URL
        that is known to be allowed, then one that may be: another host name, or an address outside all subnets.
        Loopback comes last, and not at all if another URL is refused: then the two are on different machines.
        """
        from_subnets = self.subnets_of(source)
        verdicts = {url: self.allows(from_subnets, self.subnets_at(target, [host_of(url)])) for url in urls}
        allowed = [url for url, verdict in verdicts.items() if verdict]
        unknown = [url for url, verdict in verdicts.items() if verdict is None]
        remote = [url for url in unknown if not is_loopback(host_of(url))]
        named = [url for url in [*allowed, *remote] if url == target.declared_name]
        other_machine = False in verdicts.values()
        return next(iter([*named, *allowed, *remote, *([] if other_machine else unknown)]), None)

    def subnets_of(self, member: Member) -> set[str]:
        """The subnets of a member's machine; a node that listens in several of them is in all of them."""
        return self.subnets_at(member, [host for host, _ in member.listen] + [host_of(url) for url in member.urls])

    def subnets_at(self, member: Member, hosts: Iterable[str]) -> set[str]:
        """The subnet that the member declares; if there is none, those that hold these of its hosts."""
        if member.subnet is not None:
            return {member.subnet} & self.declared
        ips = [ip for ip in map(literal_ip, hosts) if ip is not None]
        return {name for name, network in self.networks.items() if any(ip in network for ip in ips)}


def parse_reach(subnets: Mapping[str, str], pairs: Iterable[tuple[str, str]]) -> tuple[Reach, list[Finding]]:
    """Read `subnets` and `reach`. Invalid entries become findings and are left out of the result."""
    networks: dict[str, Network] = {}
    findings: list[Finding] = []
    for name, cidr in subnets.items():
        try:
            networks[name] = ipaddress.ip_network(cidr)
        except ValueError as error:
            findings.append(Finding(("subnets", name), f"{cidr!r} is not a subnet ({error})", network_hint(cidr)))
    findings.extend(_overlaps(networks))
    valid: set[tuple[str, str]] = set()
    for index, pair in enumerate(pairs):
        unknown = [end for end in pair if end not in subnets]
        findings.extend(Finding(("reach", index), f'unknown subnet "{end}"', closest(end, subnets)) for end in unknown)
        if not unknown:
            valid.add(pair)
    return Reach(frozenset(subnets), networks, frozenset(valid)), findings


def check_reach(graph: TreeGraph, reach: Reach) -> Iterator[Finding]:
    """Every edge works in the directions that it needs: parents dial their children, and nodes dial up to register."""
    names = sorted(reach.declared)
    for member in graph:
        if member.subnet is not None and member.subnet not in names:
            field = (*member.field, "subnet")
            yield Finding(field, f'unknown subnet "{member.subnet}"', closest(member.subnet, names))
    for parent, child in graph.edges:
        finding = _check_edge(reach, parent, child)
        if finding:
            yield finding


def _check_edge(reach: Reach, parent: Member, child: Member) -> Finding | None:
    """What keeps one edge from working. An end without any valid URL is reported by another check."""
    if _can_register(reach, parent, child):
        return None if _can_be_dialled(reach, parent, child) else _not_dialled(reach, parent, child)
    return _not_registered(reach, parent, child)


def _can_register(reach: Reach, parent: Member, child: Member) -> bool:
    if not child.is_node or not parent.urls:  # an engine does not register
        return True
    return reach.choose_url(child, parent, parent.urls) is not None


def _can_be_dialled(reach: Reach, parent: Member, child: Member) -> bool:
    if child.link != "direct" or not child.urls_for_parent:  # with `auto`, the child dials if the parent cannot
        return True
    return reach.choose_url(parent, child, child.urls_for_parent) is not None


def _not_dialled(reach: Reach, parent: Member, child: Member) -> Finding:
    message = f"{_with_subnets(reach, parent)} cannot dial {_with_subnets(reach, child)}"
    hint = f"add {_rule(reach, parent, child, child.urls_for_parent)} to `reach`"
    if child.is_node:
        hint += f", or set `link: reverse`, since {child.key} may dial {parent.key}"
    return Finding((*child.field, "parent"), message, hint)


def _not_registered(reach: Reach, parent: Member, child: Member) -> Finding:
    message = f"{_with_subnets(reach, child)} cannot dial {_with_subnets(reach, parent)} to register"
    hint = f"add {_rule(reach, child, parent, parent.urls)} to `reach`"
    if not _can_be_dialled(reach, parent, child):
        message += ", nor the other way round"
        hint += f", and also {_rule(reach, parent, child, child.urls_for_parent)} or `link: reverse`"
    return Finding((*child.field, "parent"), message, hint)


def _rule(reach: Reach, source: Member, target: Member, urls: Sequence[str]) -> str:
    """The entry of `reach` that would let `source` dial the target at one of `urls`."""
    ends = sorted(reach.subnets_of(source)), sorted(reach.subnets_at(target, map(host_of, urls)))
    return f"[{', '.join(names[0] if names else 'unknown' for names in ends)}]"


def _with_subnets(reach: Reach, member: Member) -> str:
    """`NAME (SUBNET and SUBNET)`."""
    return f"{member.key} ({' and '.join(sorted(reach.subnets_of(member))) or 'unknown'})"


def _overlaps(networks: Mapping[str, Network]) -> Iterator[Finding]:
    for (first, a), (second, b) in combinations(networks.items(), 2):
        if a.overlaps(b):
            yield Finding(("subnets", second), f'{b} overlaps with {a} ("{first}")', "make them disjoint")
