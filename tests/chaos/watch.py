"""Sees the states of a node's children change, beside a load, and counts the deaths that a node declared."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
from typing import Any, NamedTuple, Self

from tests.chaos.load import get
from tests.chaos.processes import Process

POLL_S = 0.05
#: states in which a child gets nothing, although an operator did not ask for it; a suspect is none of these
DEAD = frozenset({"down", "silent", "ejected", "gone"})
#: lines of a node's log that say the same
_DEATH = re.compile(r" went down | dropped \S+:| is (?:down|silent|ejected|gone): ")


class Change(NamedTuple):
    """A child, or one model of a child, has another state than at the poll before."""

    at: float  # of the monotonic clock
    child: str  # its name, or its name and a model
    state: str

    def of(self, child: str) -> bool:
        """Is it of this child or of one of its models?"""
        return self.child.partition(" ")[0] == child


class Watch:
    """Polls `/tree` of a node while the block runs."""

    def __init__(self, node: Process) -> None:
        self._node = node
        self._states: dict[str, str] = {}
        self._task: asyncio.Task[None] | None = None
        self.changes: list[Change] = []

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.wait((self._task,))

    async def _run(self) -> None:
        while True:
            with contextlib.suppress(OSError, ValueError):
                tree = json.loads(await get(("127.0.0.1", self._node.port), "/tree"))
                self._compare(_states(tree["children"]))
            await asyncio.sleep(POLL_S)

    def _compare(self, states: dict[str, str]) -> None:
        now = time.monotonic()
        self.changes += [
            Change(now, child, state) for child, state in states.items() if self._states.get(child) != state
        ]
        self._states = states

    @property
    def deaths(self) -> list[Change]:
        """The times that a child was seen to be given up."""
        return [change for change in self.changes if change.state in DEAD]

    def seconds_until(self, child: str, start: float) -> float | None:
        """Seconds from `start` until the child was seen in any state but `up`. None: it never was."""
        return next((c.at - start for c in self.changes if c.of(child) and c.at >= start and c.state != "up"), None)


def _states(children: dict[str, Any]) -> dict[str, str]:
    """Child -> state, and "CHILD MODEL" -> state for the models that can have one of their own."""
    states: dict[str, str] = {name: child["state"] for name, child in children.items()}
    for name, child in children.items():
        for model in child.get("models", ()):
            states[f"{name} {model['name']} ({model['api']})"] = "ejected" if model.get("detail") else "up"
    return states


def deaths_logged(*nodes: Process) -> list[str]:
    """The lines in the logs of these nodes that say that a child is given up."""
    return [
        f"{node.name}: {line}"
        for node in nodes
        for line in node.log.read_text(errors="replace").splitlines()
        if _DEATH.search(line)
    ]
