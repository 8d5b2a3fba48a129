"""The children of one node."""

from __future__ import annotations

from hierarchy.registry.registry import REMEMBERED_S, Registry

__all__ = ["REMEMBERED_S", "Registry"]
