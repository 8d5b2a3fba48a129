"""The prefix cache of an engine: blocks of tokens, the least recently used dropped first.

It is kept part by part, not block by block, which is as exact and much faster: of a part the last blocks go first, and
a part goes before those in front of it, as in the caches of vLLM and SGLang.
"""

from __future__ import annotations

from collections import OrderedDict

from hierarchy.simulation.prompt import Prompt


class PrefixCache:
    """What one engine has in its KV cache.

    capacity: tokens. block: tokens that are shared together; what fills no whole block is not shared.
    """

    def __init__(self, capacity: int, block: int) -> None:
        self.capacity = capacity
        self.block = block
        self.tokens = 0
        self.holders: dict[int, set[PrefixCache]] | None = None  # who holds a part, if somebody wants to know
        self._held: OrderedDict[int, int] = OrderedDict()  # id of a part -> tokens of it, the last used at the end

    def match(self, prompt: Prompt) -> int:
        """Tokens at the beginning of a prompt that need not be computed."""
        held, begin = self._held, 0
        for part, end in zip(prompt.ids, prompt.ends, strict=True):
            tokens = held.get(part, 0)
            if tokens < end - begin:
                begin += tokens
                break
            begin = end
        return begin - begin % self.block

    def put(self, prompt: Prompt) -> None:
        """A prompt, or a prompt with its response, has been computed."""
        held, ends = self._held, prompt.ends
        for number in range(len(ends) - 1, -1, -1):  # backwards, so that a part is never older than what follows it
            part = prompt.ids[number]
            size = ends[number] - (ends[number - 1] if number else 0)
            before = held.get(part)
            if before is None:
                if self.holders is not None:
                    self.holders.setdefault(part, set()).add(self)
                self.tokens += size
                held[part] = size
            else:
                if before != size:
                    self.tokens += size - before
                    held[part] = size
                held.move_to_end(part)
        while self.tokens > self.capacity:
            self._evict()

    def _evict(self) -> None:
        part, size = next(iter(self._held.items()))
        over = self.tokens - self.capacity
        going = min(size, over + (size - over) % self.block) if size > over else size
        self.tokens -= going
        if going < size:
            self._held[part] = size - going
            return
        del self._held[part]
        if self.holders is not None:
            holders = self.holders[part]
            holders.discard(self)
            if not holders:
                del self.holders[part]

    def __repr__(self) -> str:
        return f"<PrefixCache {self.tokens}/{self.capacity} tokens>"
