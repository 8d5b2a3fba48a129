"""From the text so far, as FastChat's workers send it, to what is new in it."""

from __future__ import annotations

from collections.abc import Collection

_UNFINISHED = "�"  # stands where a character's last bytes have not been generated yet


class Deltas:
    """What a client may see of a growing text: never a stop string, nor anything behind one.

    echoed: what the text begins with though nobody asked for it. kept: what it begins with because the client did, and
    where no stop string counts. stopped: one came behind it.
    """

    def __init__(self, stops: Collection[str] = (), echoed: str = "", kept: str = "") -> None:
        self.stopped = False
        self._first = len(kept)  # where an answer, and so a stop string, can begin
        self._stops = [stop for stop in stops if stop]
        self._echoed = echoed
        self._told = 0  # characters

    def feed(self, text: str) -> str:
        """The text so far. Returns what is new and certain to stay."""
        text = self._own(text).rstrip(_UNFINISHED)
        cut = self._cut(text)
        if cut is not None:
            return self._tell(text[:cut])
        held = max((_overlap(text[self._first :], stop) for stop in self._stops), default=0)
        return self._tell(text[: len(text) - held])

    def end(self, text: str) -> str:
        """The whole text. Returns what has not been told of it."""
        text = self._own(text)
        cut = self._cut(text)
        return self._tell(text if cut is None else text[:cut])

    def _own(self, text: str) -> str:
        if not self._echoed:
            return text
        if text.startswith(self._echoed):
            return text[len(self._echoed) :]
        return "" if self._echoed.startswith(text) else text

    def _cut(self, text: str) -> int | None:
        """Where the first stop string begins. None of it has been told, since its beginning was held back."""
        found = [at for stop in self._stops if (at := text.find(stop, max(self._told, self._first))) >= 0]
        self.stopped = bool(found)
        return min(found, default=None)

    def _tell(self, text: str) -> str:
        """A text that became shorter, as a worker's does that takes back a stop string, has nothing new."""
        new, self._told = text[self._told :], max(self._told, len(text))
        return new


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of `text` may be the beginning of `stop`."""
    at = max(0, len(text) - len(stop) + 1)
    while (at := text.find(stop[0], at)) >= 0:
        if stop.startswith(text[at:]):
            return len(text) - at
        at += 1
    return 0
