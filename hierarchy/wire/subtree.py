"""The subtree below a node, as it travels upward for `/tree`: plain JSON, and the merge patches between two versions.

A subtree is `{child name: entry}`; `tree_entry` describes an entry. A registration carries the whole subtree, a report
an RFC 7396 merge patch with what changed. Values are never changed in place, so an unchanged part is the same object
before and after, and comparing it costs nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from hierarchy.runtime.steps import Steps, at_once
from hierarchy.wire.tree_entry import MAX_DEPTH

MIN_INTEGER, MAX_INTEGER = -(2**63), 2**64 - 1  # others fit into no number of most programs
AT_ONCE = 1000  # values that are looked at in one step
LEVELS_PER_NODE = 3  # nested JSON values: the entry, its `children`, and room for fields of later releases


def merge(target: Any, patch: Any) -> Any:
    """Apply a merge patch: null removes, objects merge, everything else replaces."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = merge(merged.get(key), value)
    return merged


def merge_steps(target: Any, patch: Any) -> Steps[Any]:
    """`merge` in steps."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, dict):
            merged[key] = yield from merge_steps(merged.get(key), value)
        else:
            merged[key] = value
    yield
    return merged


def diff(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """The merge patch from `old` to `new`. Neither may contain None as a value."""
    return at_once(diff_steps(old, new))


def diff_steps(old: Mapping[str, Any], new: Mapping[str, Any]) -> Steps[dict[str, Any]]:
    """`diff`, entry by entry."""
    patch: dict[str, Any] = dict.fromkeys(old.keys() - new.keys())
    for key, value in new.items():
        before = old.get(key)
        if before is value:
            continue
        if isinstance(value, dict) and isinstance(before, dict):
            yield
            if not value.get("children") and before == value:  # an engine: compared at once, which costs less
                continue
            if changes := (yield from diff_steps(before, value)):
                patch[key] = changes
        elif before != value:
            patch[key] = value
    return patch


def rejection_reason(value: Any, limit: int = LEVELS_PER_NODE * MAX_DEPTH) -> str:
    """Why a subtree or patch from a child cannot be kept and sent on; "" if it can.

    Python's JSON parser accepts more than JSON allows (NaN, halves of surrogate pairs), which responses and reports
    of this node could not carry. Deep nesting would exhaust the stack. limit: levels of nested values.
    """
    return at_once(rejection_steps(value, limit))


def rejection_steps(value: Any, limit: int = LEVELS_PER_NODE * MAX_DEPTH) -> Steps[str]:
    """`rejection_reason` in steps."""
    level: list[Any] = [value]
    for _ in range(limit):
        below: list[Any] = []
        for start in range(0, len(level), AT_ONCE):
            for item in level[start : start + AT_ONCE]:
                kind = type(item)
                if kind is dict:
                    below += item.values()
                    below += [key for key in item if not key.isascii()]
                elif kind is list:
                    below += item
                elif (
                    (kind is str and _has_half_surrogate(item))
                    or (kind is float and not math.isfinite(item))
                    or (kind is int and not MIN_INTEGER <= item <= MAX_INTEGER)
                ):
                    return "contains a number or a text that JSON cannot carry"
            yield
        if not below:
            return ""
        level = below
    return f"is nested deeper than {MAX_DEPTH} levels of nodes"


def _has_half_surrogate(text: str) -> bool:
    return not text.isascii() and any(0xD800 <= ord(char) <= 0xDFFF for char in text)


def all_gone(subtree: Any) -> dict[str, Any]:
    """The subtree of a child that left, with each node and engine `gone`. A malformed entry is left out."""
    return at_once(all_gone_steps(subtree))


def all_gone_steps(subtree: Any) -> Steps[dict[str, Any]]:
    """`all_gone`, entry by entry."""
    gone: dict[str, Any] = {}
    for name, entry in subtree.items() if isinstance(subtree, Mapping) else ():
        if isinstance(entry, Mapping):
            below = yield from all_gone_steps(entry.get("children"))
            gone[name] = {**entry, "state": "gone", "detail": "", "children": below}
    yield
    return gone
