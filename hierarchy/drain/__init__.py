"""Drains by operators: children that get no new requests while their running ones finish.

`drains`: begins and ends them, keeps them and passes them on. `impact`: which models lose their last engine. `listing`:
what is drained in a tree.
"""

from __future__ import annotations

from hierarchy.drain.drains import Drains

__all__ = ["Drains"]
