"""What a prompt is made of: parts, each with an id that stands for it and for all before it.

Two prompts share a beginning if they share the ids of their first parts. The bytes of a part follow from its seed, so
they are made only where a fingerprint needs them, and prompts take little memory.
"""

from __future__ import annotations

from collections import OrderedDict
from random import Random
from typing import Final, NamedTuple

BYTES_PER_TOKEN: Final = 4
TEXT_BYTES: Final = 64 * 1024 * 1024  # of parts that are kept, since most are needed again
_LETTERS: Final = (b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 \n" * 4)[:256]


class Prompt(NamedTuple):
    """A prompt, or the beginning of one."""

    ids: tuple[int, ...] = ()  #: of each part, together with all before it
    ends: tuple[int, ...] = ()  #: tokens up to the end of each part
    seeds: tuple[int, ...] = ()  #: of each part alone: what its bytes follow from

    @property
    def tokens(self) -> int:
        """How long it is."""
        return self.ends[-1] if self.ends else 0

    def then(self, seed: int, tokens: int) -> Prompt:
        """This, and one more part. seed: what the part contains; the same for the same content."""
        before = self.ids[-1] if self.ids else 0
        return Prompt(
            (*self.ids, hash((before, seed, tokens))), (*self.ends, self.tokens + tokens), (*self.seeds, seed)
        )


class Texts:
    """The bytes of parts. Those used last are kept."""

    def __init__(self, most: int = TEXT_BYTES) -> None:
        self._most = most
        self._kept: OrderedDict[tuple[int, int], bytes] = OrderedDict()
        self._size = 0

    def of(self, prompt: Prompt) -> bytes:
        """The whole prompt, `BYTES_PER_TOKEN` a token."""
        begin, parts = 0, []
        for seed, end in zip(prompt.seeds, prompt.ends, strict=True):
            parts.append(self._part(seed, (end - begin) * BYTES_PER_TOKEN))
            begin = end
        return b"".join(parts)

    def _part(self, seed: int, size: int) -> bytes:
        key = seed, size
        text = self._kept.get(key)
        if text is not None:
            self._kept.move_to_end(key)
            return text
        text = self._kept[key] = Random(seed).randbytes(size).translate(_LETTERS)
        self._size += size
        while self._size > self._most:
            self._size -= len(self._kept.popitem(last=False)[1])
        return text

    def __repr__(self) -> str:
        return f"<Texts {len(self._kept)} parts, {self._size} bytes>"
