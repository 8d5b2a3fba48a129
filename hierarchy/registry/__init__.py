"""The children of one node. Without I/O.

`registry`: all children: registrations, reports, sweeps. `membership`: who is here. `candidates`: what they can be
chosen for. `child`: one child with its load, leases and health. `admission`: which registrations are accepted.
`health`: which children are down, suspect or ejected. `ejection`: for how long, and how they return.
"""

from __future__ import annotations

from hierarchy.registry.candidates import is_avoided
from hierarchy.registry.membership import REMEMBERED_S, drain_key
from hierarchy.registry.registry import Registry

__all__ = ["REMEMBERED_S", "Registry", "drain_key", "is_avoided"]
