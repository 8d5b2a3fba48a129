"""How a running tree differs from the declared one. Both are graphs: `declared.declared_graph`, `live.live_graph`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

from hierarchy.topology.graph import Member, TreeGraph


@dataclass(frozen=True)
class Difference:
    """One difference between the two trees."""

    #: of the node or engine
    name: str
    #: its key in the declared graph; None if it is not declared
    declared: str | None
    #: what differs, for a message
    what: str


def visible(declared: TreeGraph, live: TreeGraph) -> set[str]:
    """Keys of the declared members that the running tree can show: its top and all below; all if that is undeclared."""
    top = _top(live)
    return {top, *declared.below(top)} if top in declared.members else set(declared.members)


def drift(declared: TreeGraph, live: TreeGraph) -> list[Difference]:
    """All differences: declared members that are absent, not up, or run otherwise; then members that are undeclared."""
    by_name = _by_name(live)
    found: list[Difference] = []
    matched: set[str] = set()  # keys in `live`
    known = visible(declared, live)
    for member in declared:
        if member.key not in known:
            continue
        candidates = by_name[member.replica_of or member.name, member.is_node]
        running = _match(live, [one for one in candidates if one.key not in matched], member)
        if running is None:
            found.append(Difference(member.name, member.key, f"declared{_below(member)}, but absent"))
            continue
        matched.add(running.key)
        differences = _differences(member, live, running)
        found += [Difference(member.name, member.key, what) for what in differences]
    return [*found, *_undeclared(live, matched)]


def _top(live: TreeGraph) -> str:
    """Key of the node whose tree this is."""
    return next(iter(live.members))


def _by_name(live: TreeGraph) -> defaultdict[tuple[str, bool], list[Member]]:
    found = defaultdict(list)
    for member in live:
        found[member.name, member.is_node].append(member)
    return found


def _match(live: TreeGraph, candidates: Sequence[Member], declared: Member) -> Member | None:
    """Of several with the same name: the first at a declared address, else below a declared parent, else the first."""
    urls, parents = set(declared.urls_for_parent), set(declared.parents)
    same_url = (one for one in candidates if not urls.isdisjoint(one.urls_for_parent))
    same_parent = (one for one in candidates if not parents.isdisjoint(live.digraph.pred[one.key]))
    return next(chain(same_url, same_parent, candidates), None)


def _below(member: Member) -> str:
    return f" below {' and '.join(member.parents)}" if member.parents else ""


def _differences(declared: Member, live: TreeGraph, running: Member) -> Iterator[str]:
    if running.state == "gone":
        yield f"declared{_below(declared)}, but absent: {running.detail or 'gone'}"
        return
    parents = live.parents(running.key)
    if running.key != _top(live) and {parent.name for parent in parents}.isdisjoint(declared.parents):
        is_below = " and ".join(parent.key for parent in parents)
        yield f"is below {is_below}, declared{_below(declared) or ' as the root'}"
    if running.state != "up" and not running.wakes:
        yield f"is {running.state}" + (f": {running.detail}" if running.detail else "")
    if not declared.is_node and declared.kind != running.kind:
        yield f"is of kind {running.kind}, declared as {declared.kind}"
    urls = [url for url in declared.urls_for_parent if not url.endswith(":0")]  # the system chooses that port
    if urls and running.urls and running.urls[0] not in urls:
        yield f"is at {running.urls[0]}, declared at {', '.join(urls)}"
    if not declared.is_node and declared.models and running.state == "up":
        yield from _models(set(declared.models), set(running.models))


def _models(declared: set[str], running: set[str]) -> Iterator[str]:
    if declared - running:
        serves = f"serves {', '.join(sorted(running))}" if running else "serves nothing"
        yield f"{serves}, declared with {', '.join(sorted(declared))}"
    elif running - declared:
        yield f"also serves {', '.join(sorted(running - declared))}, which is not declared"


def _undeclared(live: TreeGraph, matched: set[str]) -> Iterator[Difference]:
    for key, member in live.members.items():
        if key not in matched and member.state != "gone":
            url = f" at {member.urls[0]}" if member.urls else ""
            what = f"present{_below(member)} ({member.kind}{url}), but not declared"
            yield Difference(member.name, None, what)
