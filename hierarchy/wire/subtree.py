"""The summary of a subtree that travels upward for `/tree`, as plain JSON objects.

A subtree is `{child name: entry}`, an entry `{name, kind, state, ..., models: [...], children: subtree}`. A
registration carries it whole, a report only what changed, as an RFC 7396 merge patch. Values are never changed in
place, so an unchanged part is the same object before and after, and comparing it costs nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

MAX_DEPTH = 64  # levels of nodes; deeper JSON is no tree of ours and would exhaust the stack

Subtree = Mapping[str, Any]


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


def diff(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """The merge patch that makes `new` of `old`. Neither may hold None as a value."""
    patch: dict[str, Any] = dict.fromkeys(old.keys() - new.keys())
    for key, value in new.items():
        before = old.get(key)
        if before is value or before == value:
            continue
        patch[key] = diff(before, value) if isinstance(value, dict) and isinstance(before, dict) else value
    return patch


def flaw(value: Any, limit: int = 3 * MAX_DEPTH) -> str:
    """Why a subtree from a stranger cannot be kept and passed on; empty if it can.

    Python's reader takes more than JSON has (NaN, halves of surrogate pairs), which our own answers and reports
    could not carry, and nests deeper than any real tree.
    """
    level: list[Any] = [value]
    for _ in range(limit):
        below: list[Any] = []
        for item in level:
            kind = type(item)
            if kind is dict:
                below += item.values()
                below += [key for key in item if not key.isascii()]
            elif kind is list:
                below += item
            elif (kind is str and _has_half_a_sign(item)) or (kind is float and not math.isfinite(item)):
                return "holds a number or a text that JSON cannot carry"
        if not below:
            return ""
        level = below
    return f"is nested deeper than {MAX_DEPTH} levels of nodes"


def _has_half_a_sign(text: str) -> bool:
    return not text.isascii() and any(0xD800 <= ord(sign) <= 0xDFFF for sign in text)


def leaves(subtree: Any, above: str = "", *, up: bool = False) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Each engine below with its path, as ("site-a/gpu-1", entry). Whatever a stranger malformed is passed over.

    up: only those that are up, and below nodes that are.
    """
    if not isinstance(subtree, Mapping):
        return
    for name, entry in subtree.items():
        if not isinstance(entry, Mapping) or (up and entry.get("state") != "up"):
            continue
        if entry.get("kind") == "node":
            yield from leaves(entry.get("children"), f"{above}{name}/", up=up)
        else:
            yield f"{above}{name}", entry


def all_gone(subtree: Subtree) -> dict[str, Any]:
    """The subtree of a child that left: nothing is known of it any more, but what it was."""
    return {
        name: {**entry, "state": "gone", "detail": "", "children": all_gone(entry.get("children", {}))}
        for name, entry in subtree.items()
        if isinstance(entry, Mapping)
    }


def lists(subtree: Subtree, model: str, api: str | None = None) -> bool:
    """Does any engine below list the model, available or not?"""
    return any(serves(entry, model, api) for _, entry in leaves(subtree))


def serves(entry: Mapping[str, Any], model: str, api: str | None = None) -> bool:
    """Does one entry list the model (in one API family, or in any)?"""
    models = entry.get("models")
    return any(
        isinstance(item, Mapping) and item.get("name") == model and api in (None, item.get("api"))
        for item in (models if isinstance(models, list) else ())
    )
