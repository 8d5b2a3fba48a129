"""What a prompt begins with: a digest of its first 256 bytes, of its first 320, and so on.

The places where digests are taken grow geometrically, so a prompt of 400 KB has 33 of them, and one that grows at its
end keeps all those that it had. Each digest covers everything before it, since the hash of the bytes between two places
is seeded with the hash at the first one. The digests are keyed, salted, and never leave the tree.

Source: XXH3 (https://github.com/Cyan4973/xxHash), which reads 30 GB/s; a cryptographic hash would cost a request more
than everything else that a node does with it.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Sequence
from typing import Any, Final

import xxhash

MAX_DIGESTS: Final = 36
DIGEST_BYTES: Final = 6
LEAST: Final = 256  # bytes; a shorter prompt has no fingerprint
MAX_LENGTH: Final = (1 << 32) - 1  # bytes of a prompt that are told apart
SMALL: Final = 16 * 1024  # bytes of a prompt that are cut by one call, which copies them
MAX_SEEDS: Final = 1024  # names whose salts are kept
_MASK: Final = (1 << 8 * DIGEST_BYTES) - 1
_xxh3: Final[Any] = xxhash.xxh3_64_intdigest


def _places() -> list[int]:
    places, size = [LEAST], float(LEAST)
    while len(places) < MAX_DIGESTS:
        size *= 1.25
        places.append(round(size / 64) * 64)
    return places


PLACES: Final = _places()  #: numbers of bytes after which a digest is taken, least first
_SIZES: Final = [place - before for before, place in zip([0, *PLACES], PLACES, strict=False)]
# By the number of digests: the bytes between the places, hashes of eight bytes, and six bytes of each.
_CUT: Final[list[Any]] = [
    struct.Struct("".join(f"{size}s" for size in _SIZES[:count])).unpack_from for count in range(MAX_DIGESTS + 1)
]
_WIDE: Final[list[Any]] = [struct.Struct(f">{count}Q").pack for count in range(MAX_DIGESTS + 1)]
_LOW: Final[list[Any]] = [struct.Struct("xx6s" * count).unpack for count in range(MAX_DIGESTS + 1)]


class Fingerprint:
    """What one prompt begins with."""

    __slots__ = ("digests", "length", "session", "sticky")

    def __init__(self, length: int, digests: tuple[bytes, ...], session: int = 0, sticky: int = 0) -> None:
        self.length = length  # bytes of the prompt
        self.digests = digests  # of six bytes, one for each of the `PLACES` that it reaches
        self.session = session  # digest of what its session has in common; 0: not known
        self.sticky = sticky  # digest of the response that it continues, which one engine alone knows; 0: none

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Fingerprint) and (self.length, self.digests, self.session, self.sticky) == (
            other.length,
            other.digests,
            other.session,
            other.sticky,
        )

    def __hash__(self) -> int:
        return hash((self.length, self.digests))

    def __repr__(self) -> str:
        return f"<Fingerprint of {self.length} bytes, {len(self.digests)} digests>"


class Hasher:
    """Takes fingerprints with one key. key: bytes that all nodes of a tree share."""

    def __init__(self, key: bytes) -> None:
        self.set_key(key)

    def set_key(self, key: bytes) -> None:
        """Take fingerprints with this key from now on."""
        self._seed: Any = _xxh3(key)
        self._salts: dict[str, int] = {}

    def salt(self, name: str) -> int:
        """For `take`. name: of a model, or another short text that comes again and again."""
        salt = self._salts.get(name)
        if salt is None:
            if len(self._salts) >= MAX_SEEDS:
                self._salts.clear()
            salt = self._salts[name] = self.digest(name.encode("utf-8", "surrogatepass"))
        return salt

    def digest(self, data: Any) -> int:
        """One digest, which is never 0. data: a buffer."""
        digest: int = _xxh3(data, self._seed) & _MASK
        return digest or 1

    def take(self, parts: Sequence[Any], length: int, salt: int = 0) -> Fingerprint | None:
        """The fingerprint of a prompt; None if it is too short for one.

        parts: buffers that make up the prompt, or as much of it as reaches the last place. length: of all of it.
        salt: keeps it apart from the same prompt with another salt; see `salt`, the xor of several.
        """
        if length < LEAST:
            return None
        count: int = bisect_right(PLACES, length)
        segments: Sequence[Any]
        if length > SMALL:
            segments = _segments(parts, count)
        else:
            segments = _CUT[count](parts[0] if len(parts) == 1 else b"".join(parts))
        hashes: list[Any] = []
        seed: Any = self._seed ^ salt
        for segment in segments:
            seed = _xxh3(segment, seed)
            hashes.append(seed)
        return Fingerprint(min(length, MAX_LENGTH), _LOW[count](_WIDE[count](*hashes)))


def _segments(parts: Sequence[Any], count: int) -> list[Any]:
    """The bytes between the first `count` places; only what is in several parts is copied."""
    segments: list[Any] = []
    begun: list[Any] = []  # what earlier parts have of the next segment
    missing = LEAST
    for part in parts:
        view: Any = memoryview(part)
        at, size = 0, len(part)
        while size - at >= missing:
            segment: Any = view[at : at + missing]
            if begun:
                segment = b"".join([*begun, segment])
                begun.clear()
            segments.append(segment)
            if len(segments) == count:
                return segments
            at += missing
            missing = _SIZES[len(segments)]
        if at < size:
            begun.append(view[at:])
            missing -= size - at
    return segments
