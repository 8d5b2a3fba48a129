"""Which children were sent which prompts: digest -> the last children that were sent it.

Children are known by a number here. A child whose cache is cold gets a new one, so what was sent to it before never
matches again. What has not been sent for long is forgotten: there are two generations, and the older one goes when the
younger one is full. Each of `SHARDS` parts does so by itself, so nothing takes long.
"""

from __future__ import annotations

import sys
from bisect import bisect_right
from typing import Any, Final

from hierarchy.prefix.fingerprint import MAX_DIGESTS, MAX_LENGTH, PLACES, Fingerprint

SHARDS: Final = 64
MAX_HOLDERS: Final = 12  # children for each digest
LATEST: Final = 8  # of them, whose order does not matter
#: An entry in bytes, at most: a key of 32, its place in a dict that has just grown, and every second one a value of its
#: own. Digests with several children take more, and are few.
ENTRY_BYTES: Final = 128
LEAST_ENTRIES: Final = 10_000
ENTRIES_PER_ENGINE: Final = 1_000  # about what its cache holds; more would match what it has dropped
_LENGTH_BITS: Final = 32
#: A holder is `number << 32 | length`: the length of the prompt that the child was sent, if it ended before the next
#: place; else 0. A digest with one holder has it as its value, one with more has a tuple, the latest last.
_Value = Any


class PrefixIndex:
    """The prompts that were sent to the children of one node.

    memory: bytes that it may take. engines: below this node.
    """

    def __init__(self, memory: int, engines: int = 0) -> None:
        self.memory = memory
        self.dropped = 0  # generations that were forgotten
        self._young: list[dict[int, _Value]] = [{} for _ in range(SHARDS)]
        self._old: list[dict[int, _Value]] = [{} for _ in range(SHARDS)]
        self._most = 0  # entries of one generation of one shard
        self.resize(engines)

    def resize(self, engines: int) -> None:
        """There are so many engines below this node now."""
        entries = min(max(LEAST_ENTRIES, ENTRIES_PER_ENGINE * engines), self.memory // ENTRY_BYTES)
        self._most = max(1, entries // (2 * SHARDS))

    def __len__(self) -> int:
        return sum([len(shard) for shard in self._young]) + sum([len(shard) for shard in self._old])

    def matches(self, fingerprint: Fingerprint, enough: int = 1 << 30) -> dict[int, int]:
        """The bytes of a prompt that each child has, by the child's number; children that have none are left out.

        enough: when so many are found, there are no others.
        """
        found: dict[int, int] = {}
        young, old = self._young, self._old
        at = len(fingerprint.digests)
        for digest in reversed(fingerprint.digests):
            at -= 1
            shard = digest % SHARDS
            value = young[shard].get(digest)
            if value is None:
                value = old[shard].get(digest)
                if value is None:
                    continue
            if isinstance(value, int):
                number = value >> _LENGTH_BITS
                if number not in found:
                    found[number] = (value & MAX_LENGTH) or PLACES[at]
            else:
                self._add_all(value, at, found)
            if len(found) >= enough:
                break
        if found:
            length = fingerprint.length
            for number, match in found.items():
                if match > length:
                    found[number] = length
        return found

    def _add_all(self, holders: tuple[int, ...], at: int, found: dict[int, int]) -> None:
        for holder in holders:
            number = holder >> _LENGTH_BITS
            if number not in found:
                found[number] = (holder & MAX_LENGTH) or PLACES[at]

    def holders(self, digest: int) -> list[int]:
        """Numbers of the children that were sent this digest, the latest last."""
        shard = digest % SHARDS
        value = self._young[shard].get(digest, self._old[shard].get(digest))
        if value is None:
            return []
        return [value >> _LENGTH_BITS] if isinstance(value, int) else [holder >> _LENGTH_BITS for holder in value]

    def note(self, fingerprint: Fingerprint, number: int, matched: int = 0) -> None:
        """A child is sent this prompt. number: the child's. matched: bytes of it that it had, from `matches`.

        What is before the last digest that matched is known already. It stays as long as others are sent it.
        """
        young, old, whole = self._young, self._old, number << _LENGTH_BITS
        digests = fingerprint.digests
        last = len(digests) - 1
        holder = whole
        begin = bisect_right(PLACES, matched, 0, last + 1) - 1 if matched else 0
        for at in range(begin, last + 1):
            digest = digests[at]
            if at == last and (at + 1 == MAX_DIGESTS or fingerprint.length < PLACES[at + 1]):
                holder = whole | fingerprint.length
            shard = digest % SHARDS
            entries = young[shard]
            value = entries.get(digest)
            if value is None:
                if len(entries) >= self._most:
                    self._turn(shard)
                    entries = young[shard]
                value = old[shard].get(digest)
                entries[digest] = holder if value is None else _with(value, holder, number)
            elif isinstance(value, int):
                if value != holder:
                    entries[digest] = _with(value, holder, number)
            elif holder not in value[-LATEST:]:
                entries[digest] = _with(value, holder, number)

    def note_one(self, digest: int, number: int) -> None:
        """A child knows something else than a prompt: a response, or a session. It is the latest that does."""
        shard = digest % SHARDS
        if len(self._young[shard]) >= self._most:
            self._turn(shard)
        entries, holder = self._young[shard], number << _LENGTH_BITS
        value = entries.get(digest)
        if value is None:
            value = self._old[shard].get(digest)
        entries[digest] = holder if value is None else _with(value, holder, number)

    def _turn(self, shard: int) -> None:
        """The younger generation is full."""
        self._old[shard] = self._young[shard]
        self._young[shard] = {}
        self.dropped += 1

    def memory_used(self) -> int:
        """Bytes of its entries, counted one by one: for tests and figures."""
        total = 0
        for entries in (*self._young, *self._old):
            total += sys.getsizeof(entries)
            for digest, value in entries.items():
                total += sys.getsizeof(digest)
                if isinstance(value, tuple):
                    total += sys.getsizeof(value) + sum(map(sys.getsizeof, value))
                else:
                    total += sys.getsizeof(value)
        return total

    def __repr__(self) -> str:
        return f"<PrefixIndex of {len(self)} digests>"


def _with(value: _Value, holder: int, number: int) -> _Value:
    """A value with one more holder, or with a newer prompt of one that it has."""
    if isinstance(value, int):
        if value >> _LENGTH_BITS == number:
            return holder
        return (value, holder)
    kept = [one for one in value if one >> _LENGTH_BITS != number]
    return (*kept[-(MAX_HOLDERS - 1) :], holder)
