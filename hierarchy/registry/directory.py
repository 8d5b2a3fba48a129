"""Finds children by what is known of them beside their name, without looking at each: URL, address, group, secret.

When a node with thousands of children restarts, all of them register at once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from typing import Final

from hierarchy.config.address import Place
from hierarchy.registry.child import Child

Key = tuple[object, ...]
NONE: Final[dict[Child, None]] = {}


class Directory:
    """Children that are here, and those that left lately. Call `note` whenever one has changed in one of these."""

    def __init__(self) -> None:
        self._found: dict[Key, dict[Child, None]] = {}  # in the order in which they came
        self._keys: dict[Child, list[Key]] = {}

    def __len__(self) -> int:
        return len(self._keys)

    def note(self, child: Child) -> None:
        """A child has come or changed."""
        keys, before = _keys(child), self._keys.get(child)
        if keys == before:
            return
        self.forget(child)
        self._keys[child] = keys
        for key in keys:
            self._found.setdefault(key, {})[child] = None

    def forget(self, child: Child) -> None:
        """A child is not known any more."""
        for key in self._keys.pop(child, ()):
            found = self._found[key]
            found.pop(child, None)
            if not found:
                del self._found[key]

    def at_url(self, url: str) -> list[Child]:
        """Those with this URL, as they spell it; those that left included."""
        return list(self._found.get(("url", url), NONE))

    def at_place(self, place: Place, addresses: Collection[str]) -> list[Child]:
        """Those whose URL leads there, those that left included. addresses: of its host, as far as they are known."""
        host, port, path = place
        keys: list[Key] = [("host", host, port, path)]
        keys += [("address", address, port, path) for address in addresses]
        return list({child: None for key in keys for child in self._found.get(key, NONE)})

    def instances(self, group: str) -> list[Child]:
        """The instances of a replicated node that are here."""
        return [child for child in self.all_instances(group) if child.left_at is None]

    def all_instances(self, group: str) -> list[Child]:
        """The same, those that left lately included."""
        return list(self._found.get(("group", group), NONE))

    def with_secret(self, secret: bytes) -> list[Child]:
        """Those with this secret that are here. How long it takes tells nothing of any secret."""
        found = self._found.get(("secret", _digest(secret)), NONE) if secret else NONE
        return [child for child in found if child.left_at is None]

    def __repr__(self) -> str:
        return f"<Directory of {len(self)} children>"


def _keys(child: Child) -> list[Key]:
    host, port, path = child.place
    keys: list[Key] = [("url", child.url), ("host", host, port, path)]
    keys += [("address", address, port, path) for address in sorted(child.addresses)]
    if child.group:
        keys.append(("group", child.group))
    if child.secret:
        keys.append(("secret", _digest(child.secret)))
    return keys


def _digest(secret: bytes) -> bytes:
    return hashlib.sha256(secret).digest()
