"""The load of a simulation: made here from chats, agents and questions about documents, or read from a trace.

A conversation's content follows from the seed and its number alone, so each policy gets the same ones, whatever it does
with them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import accumulate
from random import Random
from typing import Final, NamedTuple

from hierarchy.simulation.prompt import Prompt
from hierarchy.simulation.request import Conversation, Turn

HOT_SHARE: Final = 1 / 3  # of new conversations, which are about the hot document while there is one
HOT_TOKENS: Final = 8000  # the length of that document
BEGIN_S: Final = 30.0  # in which clients begin, where there is a fixed number of them
LIVES: Final = 1.5  # mean lengths of a long conversation after which nearly as many end as begin


class Load(NamedTuple):
    """What clients send."""

    conversations: Iterator[Conversation]  #: in the order in which they begin
    total: int  #: how many there are
    warm_up_s: float  #: what is not counted at the beginning, unless told otherwise
    steady_s: float  #: when about as many conversations end as begin; 0 where that does not matter
    #: after the last conversation has begun no further turns are sent, so that the load ends as it was
    is_cut: bool
    clients: int = 0  #: so many conversations at a time: the next begins when one ends; 0: each at its own time


class Mix(NamedTuple):
    """One kind of conversation. Lengths are in tokens; those of one conversation vary around these means."""

    name: str
    share: float  #: of all conversations
    openings: int  #: different beginnings, of which the first are the most frequent
    opening: tuple[int, int]  #: their shortest and longest length
    turns: float
    question: int
    answer: int
    think_s: float  #: between a response and the next question
    document: tuple[int, int] = (0, 0)  #: shortest and longest; of these there are `DOCUMENTS`


DOCUMENTS: Final = 400  # of which the first are the most frequent
#: by requests about 45 % chats, 30 % agents, 25 % questions about documents; the mean prompt has 7,000 tokens
KINDS: Final = (
    Mix("chat", 0.46, 20, (200, 1500), 6.0, 120, 220, 15.0),
    Mix("agent", 0.14, 8, (3000, 7000), 13.0, 700, 80, 1.5),
    Mix("document", 0.40, 1, (300, 300), 3.8, 60, 200, 20.0, (3000, 9000)),
)


def generated(
    seed: int, chats: int, rate: float = 0.0, *, clients: int = 0, shared_start: int = 0, hot_at_s: float = math.inf
) -> Load:
    """So many conversations, with `rate` requests a second in all once the load is steady.

    clients: instead of `rate`, how many conversations there are at a time, so that the load is what can be served.
    shared_start: tokens with which every prompt begins. hot_at_s: from then on a third of the new conversations are
    about one document that is new.
    """
    mean = sum(kind.share * kind.turns for kind in KINDS) / sum(kind.share for kind in KINDS)
    life_s = max(kind.turns * (kind.think_s + kind.answer / 50) for kind in KINDS)
    steady_s = LIVES * life_s
    if clients:
        begins = _Beginnings(seed, chats, clients / BEGIN_S, shared_start, hot_at_s)
        return Load(begins.all(), chats, steady_s, steady_s, is_cut=True, clients=clients)
    begins = _Beginnings(seed, chats, rate / mean, shared_start, hot_at_s)
    return Load(begins.all(), chats, min(steady_s, chats * mean / rate / 2), steady_s, is_cut=True)


class _Beginnings:
    """Conversations one after the other, at random times."""

    def __init__(self, seed: int, chats: int, rate: float, shared_start: int, hot_at_s: float) -> None:
        self._seed = seed
        self._chats = chats
        self._rate = rate
        self._hot_at_s = hot_at_s
        self._start = Prompt().then(_seed(seed, "start"), shared_start) if shared_start else Prompt()
        self._kinds = list(accumulate(kind.share for kind in KINDS))
        self._openings = [_popularity(kind.openings) for kind in KINDS]
        self._documents = _popularity(DOCUMENTS)

    def all(self) -> Iterator[Conversation]:
        rng, now = Random(_seed(self._seed, "arrivals")), 0.0
        for number in range(self._chats):
            now += rng.expovariate(self._rate)
            yield Conversation(now, number + 1, self._turns(number, now))

    def _turns(self, number: int, now: float) -> Iterator[Turn]:
        rng = Random(_seed(self._seed, "conversation", number))
        (which,) = rng.choices(range(len(KINDS)), cum_weights=self._kinds)
        kind = KINDS[which]
        opening = self._pick(rng, self._openings[which])
        prompt = self._part(self._start, (kind.name, opening), kind.opening)
        if kind.document[1]:
            if now >= self._hot_at_s and rng.random() < HOT_SHARE:
                prompt = self._part(prompt, ("hot", 0), (HOT_TOKENS, HOT_TOKENS))
            else:
                prompt = self._part(prompt, ("document", self._pick(rng, self._documents)), kind.document)
        return _converse(rng, kind, prompt, _seed(self._seed, "text", number))

    def _pick(self, rng: Random, popularity: list[float]) -> int:
        return rng.choices(range(len(popularity)), cum_weights=popularity)[0]

    def _part(self, prompt: Prompt, name: tuple[str, int], length: tuple[int, int]) -> Prompt:
        """One of the beginnings that several conversations share; its length follows from what it is."""
        seed = _seed(self._seed, *name)
        return prompt.then(seed, Random(seed).randint(*length))


def _converse(rng: Random, kind: Mix, prompt: Prompt, seed: int) -> Iterator[Turn]:
    """Questions and answers, each after all before it. seed: of the first text; the others follow."""
    turns = 1 + int(rng.expovariate(1 / (kind.turns - 0.5)))
    after_s = 0.0
    for turn in range(turns):
        prompt = prompt.then(seed + 2 * turn, _length(rng, kind.question))
        answer = _length(rng, kind.answer)
        continued = prompt.then(seed + 2 * turn + 1, answer)
        yield Turn(after_s, prompt, answer, continued)
        prompt = continued
        after_s = rng.expovariate(1 / kind.think_s)


def _length(rng: Random, mean: float) -> int:
    """Tokens: log-normal, as measured lengths are, and at most ten times the mean."""
    return max(1, min(round(rng.lognormvariate(math.log(mean) - 0.32, 0.8)), 10 * round(mean)))


def _popularity(count: int) -> list[float]:
    """Cumulative weights after Zipf's law."""
    return list(accumulate(1 / rank for rank in range(1, count + 1)))


def _seed(seed: int, *what: str | int) -> int:
    """A number that follows from these; the same in each process."""
    return Random(repr((seed, *what))).getrandbits(62)
