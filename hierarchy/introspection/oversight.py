"""Looks for faults in the running tree that no registration could reveal, and logs them.

A node refuses a registration that makes a loop or takes a name that is in use. But the same name or address at two
places shows only to a node above both. That node logs it, once. Nothing is taken out of service for it, since both
places serve requests; only the capacity is counted twice.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from hierarchy.topology.live import conflicts, live_graph
from hierarchy.wire.tree_entry import MAX_DEPTH, TreeEntry, decode

INTERVAL_S = 30.0  # longer than any change takes to travel up the tree
log = logging.getLogger("hierarchy.tree")


class Oversight:
    """Checks the running tree again and again.

    tree: returns it as `GET /tree` shows it. url: this node's, to which the problems refer.
    """

    def __init__(self, tree: Callable[[], dict[str, Any]], url: str) -> None:
        self._tree = tree
        self._url = url
        self._checked_shape: object = None  # of the tree when it was checked last
        self.problems: list[str] = []  # found by the last check

    async def run(self) -> None:
        """Check every `INTERVAL_S` until cancelled."""
        while True:
            await asyncio.sleep(INTERVAL_S)
            await self.check()

    async def check(self) -> None:
        """Check once, if the tree has changed. Logs what is new, and the return to order."""
        tree = decode(self._tree())
        shape = _shape(tree)
        if shape == self._checked_shape:
            return
        self._checked_shape = shape
        # With a thousand engines it takes a tenth of a second, and no stream should wait for that.
        problems = await asyncio.to_thread(self._find_problems, tree)
        for problem in problems:
            if problem not in self.problems:
                log.warning("the running tree: %s", problem)
        if self.problems and not problems:
            log.info("the running tree is in order again")
        self.problems = problems

    def _find_problems(self, tree: TreeEntry) -> list[str]:
        return [f"{problem.where}: {problem.what}" for problem in conflicts(live_graph(tree), self._url)]


def _shape(entry: TreeEntry, depth: int = 0) -> object:
    """All that the checks read, without what changes from second to second."""
    children = entry.children.values() if depth < MAX_DEPTH else ()
    below = tuple(_shape(child, depth + 1) for child in children)
    return entry.name, entry.kind, entry.url, entry.link, entry.instance, entry.state, below
