"""The children of one node. Without I/O.

`registry`: all children, and the candidates for a request. `child`: one child with its load, leases and health.
`admission`: which registrations are accepted. `health`: which children are down, suspect or ejected. `ejection`: for
how long, and how they return.
"""

from __future__ import annotations

from hierarchy.registry.registry import REMEMBERED_S, Registry, is_avoided

__all__ = ["REMEMBERED_S", "Registry", "is_avoided"]
