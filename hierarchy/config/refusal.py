"""Why a node does not start: a problem of its configuration, or of what its configuration names on this machine."""

from __future__ import annotations

from dataclasses import dataclass

from hierarchy.config.yaml import FieldPath
from hierarchy.errors import UsageError

NAMED = ("security", "tls", "engines", "proxy")  # the fields without which a message would not say where it belongs


@dataclass(frozen=True)
class Refusal:
    """One thing that keeps a node from starting."""

    #: path in the node's own configuration, such as ("security", "api_keys") or ("engines", NAME, "model")
    field: FieldPath
    #: what is wrong
    message: str
    #: how to fix it
    hint: str
    #: whether it depends on this machine: its files, its environment, its user
    here: bool = False

    @property
    def what(self) -> str:
        """What is wrong, with the name of the setting where the message itself does not say it."""
        place = f"{'.'.join(map(str, self.field))}: " if self.field[:1] and self.field[0] in NAMED else ""
        return f"{place}{self.message}"

    def line(self, node: str) -> str:
        """One line for the log or a terminal."""
        return f"node {node} does not start: {self.what}; {self.hint}"


def refusal_of(field: FieldPath, error: UsageError, *, here: bool) -> Refusal:
    """An error as a refusal. Its text is `MESSAGE; HINT`, or a message alone."""
    message, _, hint = str(error).rpartition("; ")
    return Refusal(field, message or hint, hint if message else "correct what it names", here)
