"""Which children were sent which prompts: digest -> the last children that were sent it.

Children are known by a number here. A child whose cache is cold gets a new one, so what was sent to it before never
matches again.

A large tree's index has millions of digests, and as Python's objects each would take more than 100 bytes. So they are
packed into buckets of about ten, each one bytes object, which take 15 bytes a digest. A bucket that is full forgets
what was sent longest ago. While the table is small it has few buckets: they are split one by one as digests come, so
nothing takes long.

Source: linear hashing (Litwin, "Linear hashing: a new tool for file and table addressing").
"""

from __future__ import annotations

import struct
import sys
from typing import Any, Final

from hierarchy.prefix.fingerprint import DIGEST_BYTES, PLACES, Fingerprint

MAX_HOLDERS: Final = 12  # children for each digest
LATEST: Final = 8  # of them, whose order does not matter
MAX_NUMBER: Final = (1 << 24) - 1  # of a child
#: A bucket is a row of entries, the latest last: DIGEST (6 bytes), how many HOLDERS (1), then 4 bytes for each of them,
#: the latest last: the child's number (3), and how far the prompt that it was sent goes on behind the digest's place
#: (1: of 255 parts of the way to the next place; 0 if it reaches that).
_HEAD: Final = DIGEST_BYTES + 1
_HOLDER: Final = 4
_ENTRY: Final = _HEAD + _HOLDER
_PARTS: Final = 255
BUCKET: Final = 111  # bytes of a full bucket; with Python's 33 it fills a block of its allocator
SPLIT_AT: Final = 60  # bytes in an average bucket at which one more is made
FULL: Final = 10  # digests with one holder in a full bucket
#: Of memory for one of them: 144 for a bucket, 8 for its place, and what Python's allocator cannot use in between.
ENTRY_BYTES: Final = 20
LEAST_BUCKETS: Final = 16
MOST_BUCKETS: Final = 1 << 24
LEAST_ENTRIES: Final = 10_000
ENTRIES_PER_ENGINE: Final = 1_000  # about what its cache holds; more would match what it has dropped
#: bytes from each place to the next one; behind the last place a prompt may go on for long
_WAYS: Final = [after - place for place, after in zip(PLACES, [*PLACES[1:], 16 * PLACES[-1]], strict=True)]
_holder: Final[Any] = struct.Struct(">I").pack


class PrefixIndex:
    """The prompts that were sent to the children of one node.

    memory: bytes that it may take. engines: below this node.
    """

    def __init__(self, memory: int, engines: int = 0) -> None:
        self.memory = memory
        self.dropped = 0  # digests that were forgotten
        self._most = LEAST_BUCKETS  # buckets
        self._most_entries = LEAST_ENTRIES
        self._limit = BUCKET  # bytes of a bucket
        self._forget_all()
        self.resize(engines)

    def _forget_all(self) -> None:
        self._entries = 0
        self._used = 0  # bytes of the entries
        self._buckets: list[bytes] = [b""] * LEAST_BUCKETS
        self._mask = LEAST_BUCKETS - 1  # of the bits of a digest that number its bucket, or twice too many
        self._sweep = 0  # the bucket that is made shorter next, if there are too many entries

    def resize(self, engines: int) -> None:
        """There are so many engines below this node now, or so much `memory`."""
        most = self.memory // ENTRY_BYTES
        if len(self._buckets) > 2 * max(most // FULL, LEAST_BUCKETS):  # less memory than before: begin again
            self._forget_all()
        self._most_entries = min(max(LEAST_ENTRIES, ENTRIES_PER_ENGINE * engines), most)
        self._most = min(max(self._most_entries // FULL, LEAST_BUCKETS), MOST_BUCKETS)
        self._limit = min(BUCKET, max(_ENTRY, self._most * BUCKET // len(self._buckets)))

    def __len__(self) -> int:
        return self._entries

    # -- what is asked of it -----------------------------------------------------------------------------------------

    @property
    def bytes_at_most(self) -> int:
        """The memory that the entries take; less than that, most likely."""
        return len(self) * ENTRY_BYTES

    def matches(self, fingerprint: Fingerprint, enough: int = 1 << 30) -> dict[int, int]:
        """The bytes of a prompt that each child has, by the child's number; children that have none are left out.

        Whoever was sent a prompt was sent what it begins with. So behind the longest match only those places are
        looked up behind which other children turn up, by bisection.

        enough: when so many are found, there are no others.
        """
        found: dict[int, int] = {}
        digests = fingerprint.digests
        at = len(digests)
        while at > 0 and not found:
            at -= 1
            _add(self._known(digests[at]), at, found)
        while at > 0 and len(found) < enough:
            first = self._known(digests[0])
            if not first:  # forgotten; a longer one may not be
                at -= 1
                _add(self._known(digests[at]), at, found)
                continue
            if not _has_others(first, found):
                break
            low = 0
            while at - low > 1:
                middle = (low + at) // 2
                known = self._known(digests[middle])
                if _has_others(known, found):
                    low, first = middle, known
                else:
                    at = middle
            at = low
            _add(first, at, found)
        length = fingerprint.length
        for number, match in found.items():
            if match > length:
                found[number] = length
        return found

    def _known(self, digest: bytes) -> bytes:
        """The holders of a digest. Of one that only looks like a digest it may return others."""
        place = (digest[3] << 16 | digest[4] << 8 | digest[5]) & self._mask
        buckets = self._buckets
        if place >= len(buckets):
            place &= self._mask >> 1
        bucket = buckets[place]
        begin: int = bucket.find(digest)
        if begin < 0 or begin + _ENTRY > len(bucket):
            return b""
        return bucket[begin + _HEAD : begin + _HEAD + _HOLDER * bucket[begin + DIGEST_BYTES]]

    def holders(self, digest: int) -> list[int]:
        """Numbers of the children that were sent this digest, the latest last."""
        known = self._known(digest.to_bytes(DIGEST_BYTES, "big"))
        return [_number(known, at) for at in range(0, len(known) - 3, _HOLDER)]

    # -- what it is told ---------------------------------------------------------------------------------------------

    def note(self, fingerprint: Fingerprint, number: int, matched: int = 0) -> None:
        """A child is sent this prompt. number: the child's. matched: bytes of it that it had, from `matches`.

        What is before the last digest that matched is known already. It stays as long as others are sent it.
        """
        digests = fingerprint.digests
        last = len(digests) - 1
        if last < 0:
            return
        begin = last
        while begin > 0 and PLACES[begin] > matched:
            begin -= 1
        if begin < last:
            whole: bytes = _holder(number << 8)
            for at in range(begin, last):
                self._note(digests[at], whole, LATEST)
        behind, way = fingerprint.length - PLACES[last], _WAYS[last]
        part = behind * _PARTS // way if behind < way else 0
        self._note(digests[last], _holder(number << 8 | part), LATEST)

    def note_one(self, digest: int, number: int) -> None:
        """A child knows something else than a prompt: a response, or a session. It is the latest that does."""
        self._note(digest.to_bytes(DIGEST_BYTES, "big"), _holder(number << 8), 1)

    def _note(self, digest: bytes, holder: bytes, latest: int) -> None:
        """A child was sent a digest. It becomes the latest one, unless it is among so many latest as it was."""
        place = self._place(digest)
        bucket = self._buckets[place]
        begin = _begin(bucket, digest)
        if begin < 0:
            self._entries += 1
            changed = b"".join((bucket, digest, b"\x01", holder))
        else:
            end = _end(bucket, begin)
            known = bucket[begin + _HEAD : end]
            goes_soon = len(bucket) - end > BUCKET // 2
            if not goes_soon and _has_latest(known, holder, latest):
                return
            kept = _with(known, holder)
            count = (len(kept) // _HOLDER).to_bytes(1, "big")
            changed = b"".join((bucket[:begin], bucket[end:], digest, count, kept))
        self._put(place, bucket, changed)
        if self._used > SPLIT_AT * len(self._buckets) and len(self._buckets) < self._most:
            self._split()
        elif self._entries > self._most_entries:
            self._shorten()

    # -- buckets -----------------------------------------------------------------------------------------------------

    def _place(self, digest: bytes) -> int:
        place = (digest[3] << 16 | digest[4] << 8 | digest[5]) & self._mask
        return place if place < len(self._buckets) else place & (self._mask >> 1)

    def _put(self, place: int, before: bytes, bucket: bytes) -> None:
        """A bucket has changed. While there may be more buckets, it may be longer."""
        if len(bucket) > self._limit and len(self._buckets) >= self._most:
            bucket = self._cut(bucket, self._limit)
        self._used += len(bucket) - len(before)
        self._buckets[place] = bucket

    def _cut(self, bucket: bytes, limit: int) -> bytes:
        """A bucket without its oldest entries; the latest one always stays."""
        begin = 0
        while len(bucket) - begin > limit:
            end = _end(bucket, begin)
            if end >= len(bucket):
                break
            begin = end
            self._entries -= 1
            self.dropped += 1
        return bucket[begin:]

    def _split(self) -> None:
        """One more bucket, for half of the entries of another one."""
        new = len(self._buckets)
        if new > self._mask:
            self._mask = 2 * self._mask + 1
        old = new & (self._mask >> 1)
        bucket, begin = self._buckets[old], 0
        stay: list[bytes] = []
        go: list[bytes] = []
        self._buckets.append(b"")
        while begin < len(bucket):
            end = _end(bucket, begin)
            entry = bucket[begin:end]
            (go if self._place(entry) == new else stay).append(entry)
            begin = end
        self._buckets[old], self._buckets[new] = b"".join(stay), b"".join(go)

    def _shorten(self) -> None:
        """There are fewer engines than there were: forget the oldest entry of one bucket after the other."""
        self._sweep = (self._sweep + 1) % len(self._buckets)
        bucket = self._buckets[self._sweep]
        if bucket:
            shorter = self._cut(bucket, len(bucket) - 1)
            self._used += len(shorter) - len(bucket)
            self._buckets[self._sweep] = shorter

    def memory_used(self) -> int:
        """Bytes that it takes, counted one by one: for tests and figures."""
        empty = sys.getsizeof(b"")
        blocks = [-(-(empty + len(bucket)) // 16) * 16 for bucket in self._buckets if bucket]
        return sys.getsizeof(self._buckets) + sum(blocks)

    def __repr__(self) -> str:
        return f"<PrefixIndex of {len(self)} digests>"


def _number(known: bytes, at: int) -> int:
    """The number of the child whose holder begins there."""
    return known[at] << 16 | known[at + 1] << 8 | known[at + 2]


def _add(known: bytes, at: int, found: dict[int, int]) -> None:
    """Children that were sent what ends at a place have that much, unless they have more. known: whole holders."""
    begin = 0
    while begin + _HOLDER <= len(known):
        number = _number(known, begin)
        if number not in found:
            found[number] = PLACES[at] + known[begin + 3] * _WAYS[at] // _PARTS
        begin += _HOLDER


def _has_others(known: bytes, found: dict[int, int]) -> bool:
    """Is any child among the holders that was not found yet?"""
    begin = 0
    while begin + _HOLDER <= len(known):
        if _number(known, begin) not in found:
            return True
        begin += _HOLDER
    return False


def _end(bucket: bytes, begin: int) -> int:
    """Where the entry ends that begins there."""
    return begin + _HEAD + _HOLDER * bucket[begin + DIGEST_BYTES]


def _begin(bucket: bytes, digest: bytes) -> int:
    """Where the entry of a digest begins; -1 if there is none. The bytes of others may look like it."""
    found: int = bucket.find(digest)
    at = 0
    while found >= 0:
        while at < found:
            at = _end(bucket, at)
        if at == found:
            return found
        found = bucket.find(digest, found + 1)
    return -1


def _has_latest(known: bytes, holder: bytes, latest: int) -> bool:
    """Is a holder among so many latest ones?"""
    at: int = known.find(holder, max(0, len(known) - latest * _HOLDER))
    while at >= 0 and at % _HOLDER:
        at = known.find(holder, at + 1)
    return at >= 0


def _with(known: bytes, holder: bytes) -> bytes:
    """Holders with one more, or with a newer prompt of one that is there."""
    number, at = holder[:3], known.find(holder[:3])
    while at >= 0 and at % _HOLDER:
        at = known.find(number, at + 1)
    if at >= 0:
        return b"".join((known[:at], known[at + _HOLDER :], holder))
    return known[max(0, len(known) - (MAX_HOLDERS - 1) * _HOLDER) :] + holder
