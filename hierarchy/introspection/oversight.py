"""Looks for faults in the running tree that no registration could reveal, and logs them.

A node refuses a registration that makes a loop or takes a name that is in use. But the same name or address at two
places shows only to a node above both. That node logs it, once. Nothing is taken out of service for it, since both
places serve requests; only the capacity is counted twice.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any

from hierarchy.runtime.slices import Slices
from hierarchy.runtime.steps import Steps
from hierarchy.topology.live import conflicts, live_graph
from hierarchy.wire.tree_entry import MAX_DEPTH, decode

INTERVAL_S = 30.0  # longer than any change takes to travel up the tree
log = logging.getLogger("hierarchy.tree")


class Oversight:
    """Checks the running tree again and again.

    tree: makes it as `GET /tree` shows it. url: this node's, to which the problems refer. slices: of the node.
    """

    def __init__(self, tree: Callable[[], Steps[dict[str, Any]]], url: str, slices: Slices) -> None:
        self._tree = tree
        self._url = url
        self._slices = slices
        self._checked_shape: object = None  # of the tree when it was checked last
        self.problems: list[str] = []  # found by the last check

    async def run(self) -> None:
        """Check every `INTERVAL_S` until cancelled."""
        while True:
            await asyncio.sleep(INTERVAL_S)
            await self.check()

    async def check(self) -> None:
        """Check once, if the tree has changed. Logs what is new, and the return to order."""
        tree = await self._slices.run(self._tree())
        shape = await self._slices.run(_shape(tree))
        if shape == self._checked_shape:
            return
        self._checked_shape = shape
        # With 20,000 engines it takes seconds. Nothing else changes the tree, whose values are never changed in place.
        problems = await asyncio.to_thread(self._find_problems, tree)
        for problem in problems:
            if problem not in self.problems:
                log.warning("the running tree: %s", problem)
        if self.problems and not problems:
            log.info("the running tree is in order again")
        self.problems = problems

    def _find_problems(self, tree: Mapping[str, Any]) -> list[str]:
        return [f"{problem.where}: {problem.what}" for problem in conflicts(live_graph(decode(tree)), self._url)]


def _shape(entry: Mapping[str, Any], depth: int = 0) -> Steps[int]:
    """A hash of all that the checks read, without what changes from second to second."""
    found: list[object] = [str(entry.get(field)) for field in ("name", "kind", "url", "link", "instance", "state")]
    children = entry.get("children") if depth < MAX_DEPTH else None
    for key, child in children.items() if isinstance(children, Mapping) else ():
        if isinstance(child, Mapping):
            found += (key, (yield from _shape(child, depth + 1)))
    yield
    return hash(tuple(found))
