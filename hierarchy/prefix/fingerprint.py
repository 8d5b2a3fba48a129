"""What a prompt begins with: a digest of its first 256 bytes, of its first 320, and so on.

The places where digests are taken grow geometrically, so a prompt of 400 KB has 33 of them, and one that grows at its
end keeps all those that it had. Each digest covers everything before it, since the hash of the bytes between two places
is seeded with the hash at the first one. The digests are keyed, salted, and never leave the tree.

Source: XXH3 (https://github.com/Cyan4973/xxHash), which reads 30 GB/s; a cryptographic hash would cost a request more
than everything else that a node does with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import xxhash

MAX_DIGESTS: Final = 36
DIGEST_BYTES: Final = 6
LEAST: Final = 256  # bytes; a shorter prompt has no fingerprint
MAX_LENGTH: Final = (1 << 32) - 1  # bytes of a prompt that are told apart
#: bytes of a prompt that are copied into one piece, rather than hashed where they are
SMALL: Final = 64 * 1024
MAX_SEEDS: Final = 1024  # names whose salts are kept
_MASK: Final = (1 << 8 * DIGEST_BYTES) - 1
_xxh3: Final[Any] = xxhash.xxh3_64_intdigest
_Stream: Final[Any] = xxhash.xxh3_64


def _places() -> list[int]:
    places, size = [LEAST], float(LEAST)
    while len(places) < MAX_DIGESTS:
        size *= 1.25
        places.append(round(size / 64) * 64)
    return places


PLACES: Final = _places()  #: numbers of bytes after which a digest is taken, least first


class Fingerprint:
    """What one prompt begins with."""

    __slots__ = ("digests", "length", "session", "sticky")

    def __init__(self, length: int, digests: list[int], session: int = 0, sticky: int = 0) -> None:
        self.length = length  # bytes of the prompt
        self.digests = digests  # one for each of the `PLACES` that it reaches
        self.session = session  # digest of what its session has in common; 0: not known
        self.sticky = sticky  # digest of the response that it continues, which one engine alone knows; 0: none

    def salted(self, salt: int) -> Fingerprint:
        """The same prompt for another model, caller or cache. Salting twice with one salt undoes it."""
        return Fingerprint(self.length, [one ^ salt for one in self.digests], self.session, self.sticky)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Fingerprint) and (self.length, self.digests, self.session, self.sticky) == (
            other.length,
            other.digests,
            other.session,
            other.sticky,
        )

    def __hash__(self) -> int:
        return hash((self.length, tuple(self.digests)))

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
        """For `Fingerprint.salted`. name: of a model, or another short text that comes again and again."""
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
        salt: see `salt`; the xor of several.
        """
        if length < LEAST:
            return None
        digests: list[int] = []
        if len(parts) == 1 or length <= SMALL:
            self._take_whole(memoryview(parts[0] if len(parts) == 1 else b"".join(parts)), length, salt, digests)
        else:
            self._take_parts(parts, salt, digests)
        return Fingerprint(min(length, MAX_LENGTH), digests)

    def _take_whole(self, data: Any, length: int, salt: int, digests: list[int]) -> None:
        begin, seed = 0, self._seed
        for place in PLACES:
            if place > length:
                break
            seed = _xxh3(data[begin:place], seed)
            low: int = seed & _MASK
            digests.append(low ^ salt)
            begin = place

    def _take_parts(self, parts: Sequence[Any], salt: int, digests: list[int]) -> None:
        """The same, of parts that are not copied."""
        seed, index, missing = self._seed, 0, LEAST
        stream = _Stream(seed=seed)
        for part in parts:
            begin, size = 0, len(part)
            view = memoryview(part)
            while size - begin >= missing:
                stream.update(view[begin : begin + missing])
                begin += missing
                seed = stream.intdigest()
                low: int = seed & _MASK
                digests.append(low ^ salt)
                index += 1
                if index == MAX_DIGESTS:
                    return
                missing = PLACES[index] - PLACES[index - 1]
                stream = _Stream(seed=seed)
            if begin < size:
                stream.update(view[begin:])
                missing -= size - begin
