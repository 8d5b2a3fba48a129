"""A node's eye on the tree below it: what a check of the file would refuse, and no registration could see.

A loop, or a second process of a name, is refused at its registration by the node that sees it. But one name or one
address at two places shows only to a node above both. It is told there, once: nothing is taken out of service for it,
since what stands twice still serves; only its capacity counts twice.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from hierarchy.topology.live import build_live, oversights

EVERY_S = 30.0  # longer than any of the tree's own changes takes to come up
log = logging.getLogger("hierarchy.tree")


class Oversight:
    """Looks at the running tree. tree: as `GET /tree` answers it. url: this node's."""

    def __init__(self, tree: Callable[[], dict[str, Any]], url: str) -> None:
        self._tree = tree
        self._url = url
        self._last: object = None
        self.found: list[str] = []  # what is wrong now

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(EVERY_S)
            await self.look()

    async def look(self) -> None:
        """Look once; says what is new, and what is over."""
        tree = self._tree()
        shape = _shape(tree)
        if shape == self._last:
            return
        self._last = shape
        # Of a thousand engines it takes a tenth of a second, which no stream shall wait for.
        found = await asyncio.to_thread(self._examine, tree)
        for words in found:
            if words not in self.found:
                log.warning("the running tree: %s", words)
        if self.found and not found:
            log.info("the running tree is in order again")
        self.found = found

    def _examine(self, tree: dict[str, Any]) -> list[str]:
        return [f"{problem.where}: {problem.what}" for problem in oversights(build_live(tree), self._url)]


def _shape(entry: object) -> object:
    """All that the checks look at, without what changes from second to second."""
    if not isinstance(entry, dict):
        return None
    children = entry.get("children")
    below = tuple(map(_shape, children.values())) if isinstance(children, dict) else ()
    return *(entry.get(field) for field in ("name", "kind", "url", "link", "instance", "state")), below
