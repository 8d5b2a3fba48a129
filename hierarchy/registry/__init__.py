"""The children of one node. Without I/O.

`registry`: all children, and the candidates for a request. `child`: one child with its load, leases and health.
`admission`: which registrations are accepted. `ejection`: how long a child that fails gets no requests.
"""

from __future__ import annotations

from hierarchy.registry.registry import REMEMBERED_S, Registry

__all__ = ["REMEMBERED_S", "Registry"]
