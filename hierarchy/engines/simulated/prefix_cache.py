"""What a simulated engine has read before: the beginnings of prompts, the least recently used dropped first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

BLOCK_CHARS = 64  # that are kept together; what fills no whole block is not kept


class PrefixCache:
    """Blocks of prompts, each known by all that is in front of it.

    blocks: how many it holds at most; with 0 it is switched off. Attributes: characters of prompts, by model.
    """

    def __init__(self, blocks: int) -> None:
        self.blocks = blocks
        self.queries: dict[str, int] = {}  # all
        self.hits: dict[str, int] = {}  # that were in the cache
        self._held: OrderedDict[int, None] = OrderedDict()  # the last used at the end

    def match(self, model: str, prompt: str) -> int:
        """Characters at the beginning of a prompt that need not be read; they are counted."""
        found = 0
        for block in self._blocks_of(model, prompt) if self._held else ():
            if block not in self._held:
                break
            found += BLOCK_CHARS
        if self.blocks:
            self.queries[model] = self.queries.get(model, 0) + len(prompt)
            self.hits[model] = self.hits.get(model, 0) + found
        return found

    def put(self, model: str, prompt: str) -> None:
        """A prompt has been read."""
        if not self.blocks:
            return
        for block in reversed(list(self._blocks_of(model, prompt))):  # no block is older than those behind it
            self._held[block] = None
            self._held.move_to_end(block)
        while len(self._held) > self.blocks:
            self._held.popitem(last=False)

    @staticmethod
    def _blocks_of(model: str, prompt: str) -> Iterator[int]:
        seen = hash(model)
        for begin in range(0, len(prompt) - BLOCK_CHARS + 1, BLOCK_CHARS):
            seen = hash((seen, prompt[begin : begin + BLOCK_CHARS]))
            yield seen

    def __repr__(self) -> str:
        return f"<PrefixCache {len(self._held)}/{self.blocks} blocks>"
