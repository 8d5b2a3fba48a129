"""What a prompt is made of: parts, each with an id that stands for it and for all before it.

Two prompts share a beginning if they share the ids of their first parts. The bytes of a part follow from its seed, so
they are made only where a fingerprint needs them, and prompts take little memory.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Final, NamedTuple

BYTES_PER_TOKEN: Final = 4


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


def text(prompt: Prompt) -> list[bytes]:
    """The bytes of each part, `BYTES_PER_TOKEN` a token. They only have to differ where the seeds do."""
    begin, parts = 0, []
    for seed, end in zip(prompt.seeds, prompt.ends, strict=True):
        size = (end - begin) * BYTES_PER_TOKEN
        unique = blake2b(b"%d" % seed, digest_size=64).digest()
        parts.append((unique * (size // 64 + 1))[:size])
        begin = end
    return parts
