"""Logs and counts the changes of children's states: each once, with its reason."""

from __future__ import annotations

import logging

from hierarchy.registry.health import Change
from hierarchy.runtime.metrics import Metrics

TROUBLED = ("suspect", "ejected", "silent")  # the prober logs which engines are down
log = logging.getLogger("hierarchy.health")


class ChangeLog:
    """Listens to a registry (`Registry.on_change`).

    metrics: of the node.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def note(self, change: Change) -> None:
        """A child, or one of its models, is in another state than before."""
        name, model, state = change.child.name, change.model, change.state
        self._metrics.state_changed(name, model, state)
        through = f" through the {change.api} API" if change.api else ""
        what = f"{name}, model {model}{through}," if model else name
        if state in TROUBLED:
            log.warning("%s is %s: %s", what, state, change.reason)
        elif state == "asleep":
            log.info("%s is asleep", what)
        elif state == "up" and change.before in (*TROUBLED, "asleep"):
            log.info("%s is up again, was %s", what, change.before)
