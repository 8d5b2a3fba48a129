"""The YAML of `prefer`: which children a node prefers, tier by tier. `balancing.tiers` has what it means."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, WithJsonSchema

from hierarchy.config.yaml import shown

HINT = "write [site-a, site-b], or [[site-a, site-b], cloud]: of a list in the list no child is preferred"


def _parse(value: object) -> object:
    """Tiers of names; an entry is one name, or a list of names that are equal."""
    if not isinstance(value, list | tuple):
        raise ValueError(f"{shown(value)} is not a list of children", HINT)
    tiers = [_tier(number, entry) for number, entry in enumerate(value, 1)]
    names = [name for tier in tiers for name in tier]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f'"{twice:.60}" is in it twice', "name each child once")
    return tuple(tiers)


def _tier(number: int, entry: object) -> tuple[str, ...]:
    names = (entry,) if isinstance(entry, str) else entry
    if isinstance(names, list | tuple) and names and all(isinstance(name, str) and name for name in names):
        return tuple(names)
    raise ValueError(f"entry {number} ({shown(entry)}) is neither a child's name nor a list of names", HINT)


_SCHEMA = WithJsonSchema(
    {
        "type": "array",
        "items": {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]},
    }
)
Tiers = Annotated[tuple[tuple[str, ...], ...], BeforeValidator(_parse), _SCHEMA]
