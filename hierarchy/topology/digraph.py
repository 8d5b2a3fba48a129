"""Directed graphs as mappings from each key to the keys that its edges lead to, and what can be asked of them.

Each question takes a time in proportion to the edges (`dominators`: mostly), in any depth.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping
from typing import TypeVar

Key = TypeVar("Key", bound=Hashable)
Edges = Mapping[Key, Collection[Key]]


def reachable(edges: Edges[Key], start: Key) -> set[Key]:
    """All keys that paths from `start` lead to, except itself."""
    found = {start}
    waiting = [start]
    while waiting:
        new = [key for key in edges.get(waiting.pop(), ()) if key not in found]
        found.update(new)
        waiting += new
    return found - {start}


def connected(edges: Edges[Key]) -> Iterator[set[Key]]:
    """The groups of keys that edges connect, whatever their direction."""
    both: dict[Key, list[Key]] = {}
    for key, tos in edges.items():
        both.setdefault(key, []).extend(tos)
        for to in tos:
            both.setdefault(to, []).append(key)
    done: set[Key] = set()
    for key in both:
        if key not in done:
            group = {key} | reachable(both, key)
            done |= group
            yield group


def postorder(edges: Edges[Key], starts: Iterable[Key]) -> list[Key]:
    """The keys at or behind `starts`, each after those that it leads to, except along a cycle."""
    return [path[-1] for path, to in _walk(edges, starts) if to is None]


def cycles(edges: Edges[Key]) -> Iterator[list[Key]]:
    """A cycle for each edge that leads back to a key on the path to it: without these edges there is no cycle."""
    for path, to in _walk(edges, edges):
        if to is not None:
            yield path[path.index(to) :]


def longest_path(edges: Edges[Key]) -> int:
    """How many edges the longest path has. There must be no cycle."""
    length: dict[Key, int] = {}
    for key in postorder(edges, edges):
        length[key] = max((length[to] + 1 for to in edges.get(key, ())), default=0)
    return max(length.values(), default=0)


def dominators(edges: Edges[Key], start: Key) -> dict[Key, Key | None]:
    """Of each key that can be reached, the nearest one that all paths from `start` to it go through; None of `start`.

    Source: Cooper, Harvey and Kennedy, "A simple, fast dominance algorithm".
    """
    order = postorder(edges, [start])
    rank = {key: number for number, key in enumerate(order)}
    before: dict[Key, list[Key]] = {key: [] for key in order}
    for key in order:
        for to in edges.get(key, ()):
            before[to].append(key)
    nearest: dict[Key, Key] = {start: start}
    has_changed = True
    while has_changed:
        has_changed = False
        for key in reversed(order[:-1]):
            found = _common((one for one in before[key] if one in nearest), nearest, rank)
            has_changed = has_changed or nearest.get(key) != found
            nearest[key] = found
    return {key: None if key == start else found for key, found in nearest.items()}


def _common(keys: Iterator[Key], nearest: Mapping[Key, Key], rank: Mapping[Key, int]) -> Key:
    """The nearest dominator of all keys."""
    common = next(keys)
    for key in keys:
        while key != common:
            if rank[key] < rank[common]:
                key = nearest[key]
            else:
                common = nearest[common]
    return common


def _walk(edges: Edges[Key], starts: Iterable[Key]) -> Iterator[tuple[list[Key], Key | None]]:
    """Depth first: (path, None) when all behind the last key of the path is done, (path, key) for an edge back to it.

    The path is the walker's own, and changes afterwards.
    """
    begun: set[Key] = set()
    for start in starts:
        if start in begun:
            continue
        begun.add(start)
        path, on_path = [start], {start}
        waiting = [iter(edges.get(start, ()))]
        while waiting:
            to = next((key for key in waiting[-1] if key not in begun or key in on_path), None)
            if to is None:
                yield path, None
                on_path.remove(path.pop())
                waiting.pop()
            elif to in on_path:
                yield path, to
            else:
                begun.add(to)
                on_path.add(to)
                path.append(to)
                waiting.append(iter(edges.get(to, ())))
