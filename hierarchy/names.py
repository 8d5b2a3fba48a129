"""Which names nodes, engines and models may have, in files, on the command line and in registrations."""

from __future__ import annotations

import re

MAX_NAME = 256  # characters
NODE_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"  # pattern of a node's name; a FastChat worker's URL does not match it


def is_node_name(name: str) -> bool:
    """Whether a node, or an engine in a configuration, may have this name."""
    return len(name) <= MAX_NAME and re.fullmatch(NODE_NAME, name) is not None


def is_printable_name(name: str) -> bool:
    """Whether a model may have this name, or anything else that is named by other programs."""
    return 0 < len(name) <= MAX_NAME and name.isprintable()


def as_node_name(text: str) -> str:
    """A name for a node that resembles a text with at least one ASCII letter or digit."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", text).lstrip("._-")
