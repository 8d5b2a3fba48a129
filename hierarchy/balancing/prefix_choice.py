"""The policy `prefix`: the child for which a request costs least, given what it has of the prompt in its cache.

`prefix.cost` has the formula, `prefix.index` what each child was sent. A child's pending bytes are in its `Share`.
"""

from __future__ import annotations

import math
from random import Random
from typing import Any, Final

import xxhash

from hierarchy.balancing.candidates import Candidates
from hierarchy.balancing.warm_first import warm_first
from hierarchy.prefix.cost import common, cost, distance, weight
from hierarchy.prefix.fingerprint import Fingerprint
from hierarchy.prefix.index import MAX_NUMBER, PrefixIndex
from hierarchy.registry.child import Child, Lease, Share

INDEX_MEMORY: Final = 128 * 1024 * 1024  # bytes, unless the configuration says otherwise
MANY: Final = 64  # children: of more, those that match and some others are compared
DRAWN: Final = 32  # of those others
#: why a child was chosen: it knows the response that is continued; it has a part of the prompt; no child has; another
#: child has, but more waits there than that saves
STICKY: Final = "sticky"
MATCH: Final = "match"
NO_MATCH: Final = "no_match"
SPREAD: Final = "spread"
_xxh3: Final[Any] = xxhash.xxh3_64_intdigest


class Known:
    """What one node knows of a prompt, for `hierarchy why`."""

    def __init__(self, length: int, matches: dict[str, int], sticky: str = "") -> None:
        self.length = length  # bytes of the prompt
        self.matches = matches  # bytes of it that each child has, by the child's name; 0 for those that are left out
        self.sticky = sticky  # name of the child that knows the response which is continued; "": none does


class PrefixChoice:
    """The choice at one node, and what it remembers.

    prior: this node is one of several entry nodes, which do not know what each other's children were sent. So the first
    child of a session is the same at all of them, and is taken to have all of the prompt.
    """

    def __init__(self, index: PrefixIndex | None = None, *, prior: bool = False) -> None:
        self.index = index if index is not None else PrefixIndex(INDEX_MEMORY)
        self.prior = prior
        self.reasons = {STICKY: 0, MATCH: 0, NO_MATCH: 0, SPREAD: 0}  # choices by reason
        self.matched = 0  # bytes of the prompt that the child has which was chosen last
        self.notes_all = False  # also what goes to the only candidate: others may be candidates for the next request
        self._alone = False  # it was the only one, so nothing is remembered of it
        self._any_match = False  # one of those that were compared last has a part of the prompt
        self._numbers = 0  # given to children so far
        self._turn = 0  # behind the share that was chosen last: equals are chosen in turn

    def __call__(self, candidates: Candidates, rng: Random) -> Share:
        """Choose for a request without a fingerprint."""
        return self._least(self._few(candidates, {}, rng), candidates.by_slots, {}, -1)

    def choose(self, candidates: Candidates, fingerprint: Fingerprint, rng: Random) -> Share:
        """Choose for a request with one. `sent` has to follow if the request is sent there."""
        shares = candidates.shares
        self._alone = len(shares) == 1 and not self.notes_all
        if self._alone:
            self.matched = 0
            return shares[0]
        if fingerprint.sticky:
            known = self._knows(candidates, fingerprint.sticky)
            if known is not None:
                self._count(STICKY, 0)
                return known
        if candidates.has_cold:
            candidates = warm_first(candidates)
            shares = candidates.shares
        matches = self.index.matches(fingerprint, len(shares)) if fingerprint.digests else {}
        if matches and candidates.has_cold:
            for share in shares:
                if share.load_s:  # with the model, its cache went, too
                    matches.pop(self.number(share.child), None)
        prior = self._prior(candidates, fingerprint, matches) if fingerprint.session else -1
        few = self._few(candidates, matches, rng)
        shared = self._common(few, matches, len(shares)) if len(matches) > 1 else 0
        share = self._least(few, candidates.by_slots, matches, prior, fingerprint.length, shared)
        match = matches.get(share.child.cache_number, 0)
        self._count(MATCH if match else SPREAD if self._any_match else NO_MATCH, match)
        return share

    def _count(self, reason: str, matched: int) -> None:
        self.reasons[reason] += 1
        self.matched = matched

    def known(self, candidates: Candidates, fingerprint: Fingerprint) -> Known:
        """What `choose` would compare. It changes nothing."""
        shares = candidates.shares
        sticky = self._knows(candidates, fingerprint.sticky) if fingerprint.sticky and len(shares) > 1 else None
        matches = self.index.matches(fingerprint) if fingerprint.digests else {}
        if fingerprint.session:
            prior = self._prior(candidates, fingerprint, matches)
            if prior >= 0:
                matches[prior] = fingerprint.length
        found = {share.child.name: matches.get(self.number(share.child), 0) for share in shares}
        return Known(fingerprint.length, found, "" if sticky is None else sticky.child.name)

    def sent(self, lease: Lease, fingerprint: Fingerprint) -> None:
        """The request goes to the child that was chosen last."""
        if self._alone:
            return
        number = self.number(lease.share.child)
        self.index.note(fingerprint, number, self.matched)
        if fingerprint.session and not self.prior:
            self.index.note_one(fingerprint.session, number)
        lease.wait_for(fingerprint.length - self.matched, self.matched)

    def answered(self, child: Child, digest: int) -> None:
        """A child has made the response with this digest, which a later request may continue."""
        self.index.note_one(digest, self.number(child))

    def number(self, child: Child) -> int:
        """The child's number in the index: a new one for a new process, whose cache is cold."""
        if child.cache_process != child.process_number:
            child.cache_process = child.process_number
            self._numbers = self._numbers % MAX_NUMBER + 1
            child.cache_number = self._numbers
        return child.cache_number

    # -- among the candidates ----------------------------------------------------------------------------------------

    def _prior(self, candidates: Candidates, fingerprint: Fingerprint, matches: dict[int, int]) -> int:
        """The number of the child that is taken to have all of the prompt, since its session goes there; -1: none."""
        if self.prior:
            return self.number(candidates.of_session(fingerprint.session).child)
        known = self._knows(candidates, fingerprint.session) if not matches else None
        return self.number(known.child) if known is not None else -1

    def _knows(self, candidates: Candidates, digest: int) -> Share | None:
        """The share of the child that was sent this digest last."""
        shares = {self.number(share.child): share for share in candidates.shares}
        for number in reversed(self.index.holders(digest)):
            if number in shares:
                return shares[number]
        return None

    def _few(self, candidates: Candidates, matches: dict[int, int], rng: Random) -> list[Share]:
        """The shares that are compared: all, or those that match and some others."""
        shares = candidates.shares
        if len(shares) <= MANY:
            return shares
        few: dict[Share, None] = {}
        if matches:
            for share in shares:
                if share.child.cache_number in matches:
                    few[share] = None
        for _ in range(DRAWN):
            few[candidates.draw(rng)] = None
        return list(few)

    def _common(self, shares: list[Share], matches: dict[int, int], children: int) -> int:
        """What many of the children have of the prompt."""
        found = []
        for share in shares:
            match = matches.get(self.number(share.child), 0)
            if match:
                found.append(match)
        return common(found, children)

    def _least(
        self,
        shares: list[Share],
        by_slots: bool,
        matches: dict[int, int],
        prior: int,
        length: int = 0,
        shared: int = 0,
    ) -> Share:
        """The share of the least cost; equals in turn.

        prior: the child that is taken to have all of `length`. shared: what many have of it.
        """
        wait = math.inf
        for share in shares:
            one = share.pending / share.speed
            if one < wait:
                wait = one
        match_weight = weight(wait)
        least, best, best_at, match = math.inf, shares[0], 0, 0
        self._any_match = False
        turn = self._turn  # of equals the first one from here on is taken, else the first
        for at, share in enumerate(shares):
            if matches or prior >= 0:
                number = self.number(share.child)
                match = matches.get(number, 0)
                if match:
                    self._any_match = True
                if number == prior:
                    match = length
                match = match - shared if match > shared else 0
            score = share.busy if by_slots else share.score
            away = distance(share.child.round_trip.counted + share.load_s)
            one = cost(share.pending / share.speed, match, score, match_weight, away)
            if one < least or (one == least and best_at < turn <= at):
                least, best, best_at = one, share, at
        self._turn = best_at + 1
        return best

    def __repr__(self) -> str:
        return f"<PrefixChoice {self.index!r}>"
