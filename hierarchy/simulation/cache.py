"""The KV memory of an engine: what its running requests use, and a cache of prefixes in the rest.

As in vLLM and SGLang, what a running request reads and writes stays until it ends. Of the rest the least recently used
goes first, when a request needs room. Memory is kept part by part, not block by block, which is as exact and much
faster: of a part the last blocks go first, and a part goes before those in front of it.
"""

from __future__ import annotations

from collections import OrderedDict

from hierarchy.simulation.prompt import Prompt


class Room:
    """What one running request uses.

    cached: tokens of its prompt that need not be computed. parts: of its prompt, from the first, that cannot go.
    reserved: tokens that it will read and write. response: those that it will write.
    """

    __slots__ = ("cached", "parts", "prompt", "reserved", "response")

    def __init__(self, prompt: Prompt, cached: int, parts: int, reserved: int, response: int) -> None:
        self.prompt = prompt
        self.cached = cached
        self.parts = parts
        self.reserved = reserved
        self.response = response


class PrefixCache:
    """The KV memory of one engine.

    capacity: tokens. block: tokens that are shared together; what fills no whole block is not shared.
    """

    def __init__(self, capacity: int, block: int) -> None:
        self.capacity = capacity
        self.block = block
        self.tokens = 0  # held or reserved
        self.in_use = 0  # of them, those of running requests
        self.holders: dict[int, set[PrefixCache]] | None = None  # who holds a part, if somebody wants to know
        self._idle: OrderedDict[int, int] = OrderedDict()  # id of a part -> tokens of it, the last used at the end
        self._used: dict[int, tuple[int, int]] = {}  # of running requests: tokens of it, and how many requests use it

    def match(self, prompt: Prompt) -> int:
        """Tokens at the beginning of a prompt that need not be computed."""
        held = self._held(prompt)[1]
        return held - held % self.block

    def _held(self, prompt: Prompt) -> tuple[int, int]:
        """Parts at the beginning of a prompt that are here, the last perhaps not whole, and their tokens."""
        idle, used, begin, parts = self._idle, self._used, 0, 0
        for part, end in zip(prompt.ids, prompt.ends, strict=True):
            entry = used.get(part)
            tokens = idle.get(part, 0) if entry is None else entry[0]
            if tokens < end - begin:
                return parts + (tokens > 0), begin + tokens
            begin = end
            parts += 1
        return parts, begin

    # -- a running request -------------------------------------------------------------------------------------------

    def open(self, prompt: Prompt, response: int, *, must: bool = False) -> Room | None:
        """Make room for a prompt and a response of so many tokens. None: there is not enough now.

        must: nothing else runs that could give room back, so take what is there.
        """
        parts, held = self._held(prompt)
        need = prompt.tokens - held + response
        for part in prompt.ids[:parts]:
            self._use(part)
        if self.in_use + need > self.capacity and not must:
            self._unuse(prompt, parts)
            return None
        self.tokens += need
        self.in_use += need
        self._evict()
        return Room(prompt, held - held % self.block, parts, need, response)

    def read(self, room: Room) -> None:
        """The prompt has been computed, and matches from now on."""
        ids, ends = room.prompt.ids, room.prompt.ends
        for number in range(max(0, room.parts - 1), len(ids)):  # the last one that was here was perhaps not whole
            size = ends[number] - (ends[number - 1] if number else 0)
            self._compute(ids[number], size, is_new=number >= room.parts)
        room.parts = len(ids)
        self._keep_reserved(room, room.response)

    def close(self, room: Room, continued: Prompt | None = None) -> None:
        """The request has ended. continued: its prompt with its response, if that is known and computed."""
        self._keep_reserved(room, 0)
        if continued is not None and continued is not room.prompt:
            self._add(continued.ids[-1], room.response)
        self._unuse(room.prompt, room.parts)
        self._evict()

    def _keep_reserved(self, room: Room, tokens: int) -> None:
        """No more than this is reserved from now on: the rest is held, or was not needed."""
        self.tokens += tokens - room.reserved
        self.in_use += tokens - room.reserved
        room.reserved = tokens

    def _compute(self, part: int, size: int, *, is_new: bool) -> None:
        """A part is whole from now on. is_new: the request did not use it yet."""
        if is_new:
            self._use(part)
        before, users = self._used[part]
        self._used[part] = (size, users)
        self.tokens += size - before
        self.in_use += size - before

    def _use(self, part: int) -> None:
        """One more running request uses a part."""
        entry = self._used.get(part)
        if entry is not None:
            self._used[part] = (entry[0], entry[1] + 1)
            return
        size = self._idle.pop(part, 0)
        if not size:
            self._note_holder(part)
        self._used[part] = (size, 1)
        self.in_use += size

    def _unuse(self, prompt: Prompt, parts: int) -> None:
        """A request ends: backwards, so that a part is never older than what follows it."""
        for part in reversed(prompt.ids[:parts]):
            size, users = self._used[part]
            if users > 1:
                self._used[part] = (size, users - 1)
                continue
            del self._used[part]
            self.in_use -= size
            self._idle[part] = size

    # -- what nobody uses --------------------------------------------------------------------------------------------

    def put(self, prompt: Prompt) -> None:
        """A prompt has been computed, and the request has ended."""
        room = self.open(prompt, 0, must=True)
        assert room is not None
        self.read(room)
        self.close(room)

    def _add(self, part: int, size: int) -> None:
        """A response has been computed."""
        if part in self._used:
            return
        before = self._idle.pop(part, 0)
        if not before:
            self._note_holder(part)
        self._idle[part] = size
        self.tokens += size - before

    def _evict(self) -> None:
        while self.tokens > self.capacity and self._idle:
            part, size = next(iter(self._idle.items()))
            over = self.tokens - self.capacity
            going = min(size, over + (size - over) % self.block) if size > over else size
            self.tokens -= going
            if going < size:
                self._idle[part] = size - going
            else:
                del self._idle[part]
                self._forget_holder(part)

    def _note_holder(self, part: int) -> None:
        if self.holders is not None:
            self.holders.setdefault(part, set()).add(self)

    def _forget_holder(self, part: int) -> None:
        if self.holders is not None:
            holders = self.holders[part]
            holders.discard(self)
            if not holders:
                del self.holders[part]

    def __repr__(self) -> str:
        return f"<PrefixCache {self.tokens}/{self.capacity} tokens, {self.in_use} in use>"
