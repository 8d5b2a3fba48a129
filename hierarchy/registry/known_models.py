"""Which models may exist although no child lists them now, so that a request for one gets 503 and not 404.

A node learns from its children which models there are. So a model that exists looks unknown for a while: after this
node started, while a child restarts, while an engine moves, before an engine was probed for the first time. A model may
exist if

- it is declared in the configuration,
- a child listed it in the last ten minutes, also before a restart of this node (see `model_file`),
- this node started only a moment ago,
- or a child that was declared or registered in the last ten minutes has not named any model, or says itself that it
  does not know all of its models yet.

Synchronous, no I/O. All times are seconds of the registry's clock.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from hierarchy.names import is_printable_name
from hierarchy.registry.child import Child
from hierarchy.wire.listing import SeenKey

# How long a model is known that no child lists, and a child is expected to name its models, unless the configuration
# says otherwise (`remember_s`).
KNOWN_S = 600.0
# How long after its start a node does not know which models there are. In this time every child has come back: it
# notices a lost parent within 5 s (`uplink.parent_client.TIMEOUT_S`), waits at most 3 s before it tries to register
# again (`uplink.registration.MAX_WAIT_S`), and a busy machine gets 2 s more.
SETTLE_S = 10.0
# Requests are held for a model that was available so short a time ago. Nodes and links are back by then; an engine that
# loads its model needs minutes, and its clients need an error that they can act on.
PATIENCE_S = 30.0
MAX_RETRY_AFTER_S = 30  # OpenAI's clients do as the server says up to 60 s, and other clients sit there waiting
MAX_KNOWN = 4096  # models; beyond it those that were not listed for the longest time are forgotten


@dataclass(frozen=True, slots=True)
class Absence:
    """Why a model that may exist cannot be requested now.

    why: for an error message, as a sentence without its subject, the model. event: the same for the log, one text for
    all requests. since: when it began. until: when it is clear whether the model exists; infinite if that is not known.
    holds: a request may be held until then.
    """

    why: str
    event: str
    since: float
    until: float = math.inf
    holds: bool = True

    def retry_after_s(self, now: float) -> int:
        """Whole seconds after which another request is worthwhile.

        Until it is clear whether the model exists; else as long again as it has been away, which is the best guess
        for an absence of unknown length. 1 to `MAX_RETRY_AFTER_S`.
        """
        left = self.until - now if self.until < math.inf else now - self.since
        return min(max(1, math.ceil(left)), MAX_RETRY_AFTER_S)

    def patience_s(self, now: float) -> float:
        """How long a request may be held, as far as the model is concerned; 0 for not at all."""
        if not self.holds:
            return 0.0
        if self.until < math.inf:
            return max(0.0, self.until - now)
        return math.inf if now - self.since < PATIENCE_S else 0.0


class _Sighting:
    """When a model was seen last. listed: by any child; infinite while one lists it. available: at a child that could
    get requests; while one can, this is not kept up to date."""

    __slots__ = ("available", "listed")

    def __init__(self, listed: float, available: float) -> None:
        self.listed = listed
        self.available = available


class KnownModels:
    """The models of the last ten minutes, those of the configuration, and the children that may still name some."""

    def __init__(self) -> None:
        self.known_s = KNOWN_S
        self.started_at = -math.inf  # when this node began to listen
        self.settled_at = -math.inf  # from when on it knows its children
        self._declared: frozenset[str] = frozenset()
        self._expected: frozenset[str] = frozenset()  # names of the children that the configuration declares
        self._expected_since = -math.inf
        self._seen: dict[SeenKey, _Sighting] = {}
        self._absent: dict[SeenKey, None] = {}  # those that no child lists, the longest absent first
        self._named: set[Child] = set()  # children that have listed a model
        self._unnamed: dict[Child, float] = {}  # all others, and since when, the last one last
        self._here: dict[str, set[Child]] = {}  # by the name under which the configuration declares them
        self._missing: set[str] = set()  # names of the declared children that are not here

    def start(self, now: float, settle_s: float = SETTLE_S) -> None:
        """This node listens from now on, and its children come."""
        self.started_at = now
        self.settled_at = now + settle_s
        self._expected_since = now

    def declare(self, models: Iterable[str], children: Iterable[str], now: float) -> None:
        """What the configuration declares from now on: names of models, and of the nodes right below."""
        self._declared = frozenset(models)
        expected = frozenset(children)
        if not expected <= self._expected:
            self._expected_since = now
        self._expected = expected
        self._missing = {name for name in expected if name not in self._here}

    # -- what the children list ------------------------------------------------------------------------------

    def appeared(self, keys: Iterable[SeenKey], now: float) -> None:
        """Some models that no child listed before are listed now."""
        for key in keys:
            seen = self._seen.get(key)
            if seen is not None:
                seen.listed = math.inf
                self._absent.pop(key, None)
            elif is_printable_name(key[0]):  # names in a subtree were not checked
                self._seen[key] = _Sighting(math.inf, now)

    def vanished(self, keys: Iterable[SeenKey], now: float) -> None:
        """No child lists these models any more."""
        for key in keys:
            seen = self._seen.get(key)
            if seen is not None:
                seen.listed = now
                self._absent[key] = None

    def available(self, keys: Iterable[SeenKey], at: float) -> None:
        """A child that lists these models could get requests at that time, and may be unavailable now."""
        for key in keys:
            seen = self._seen.get(key)
            if seen is not None:
                seen.available = max(seen.available, at)

    def forget(self, now: float) -> None:
        """Twice a second: forget what was not listed for long."""
        while self._absent:
            key = next(iter(self._absent))
            if now - self._seen[key].listed < self.known_s and len(self._absent) <= MAX_KNOWN:
                return
            del self._absent[key], self._seen[key]

    def note_child(self, child: Child, now: float, *, here: bool) -> None:
        """A child has come, has reported, or is gone. here: it is one of the children."""
        if here:
            self._come(child, now)
        else:
            self._leave(child)

    def _come(self, child: Child, now: float) -> None:
        name = child.group or child.name
        self._here.setdefault(name, set()).add(child)
        self._missing.discard(name)
        if child.shares:
            self._named.add(child)
        if child.incomplete or child not in self._named:
            self._unnamed.setdefault(child, now)
        else:
            self._unnamed.pop(child, None)

    def _leave(self, child: Child) -> None:
        self._named.discard(child)
        self._unnamed.pop(child, None)
        name = child.group or child.name
        others = self._here.get(name, set())
        others.discard(child)
        if not others:
            self._here.pop(name, None)
            self._missing |= self._expected & {name}

    def remember(self, ages: Mapping[SeenKey, float], now: float) -> None:
        """Models that were known before a restart, with the seconds since they were listed.

        The time while this node did not run does not count, since nothing could be learned then.
        """
        for key, age_s in sorted(ages.items(), key=lambda item: -item[1]):
            if key not in self._seen:
                self._seen[key] = _Sighting(now - age_s, now - age_s)
                self._absent[key] = None

    def ages(self, now: float) -> dict[SeenKey, float]:
        """The models that are known, with the seconds since a child listed them, `MAX_KNOWN` at most; for the next
        process."""
        ages = {key: max(0.0, now - seen.listed) for key, seen in self._seen.items()}
        found = {key: age_s for key, age_s in ages.items() if age_s < self.known_s}
        return found if len(found) <= MAX_KNOWN else dict(sorted(found.items(), key=lambda item: item[1])[:MAX_KNOWN])

    # -- a model that no child can serve ---------------------------------------------------------------------

    def lost(self, key: SeenKey, now: float) -> Absence:
        """The absence of a model that a child lists, while no child may get requests for it."""
        seen = self._seen.get(key)
        why = "is served here, but no child that serves it is available now"
        return Absence(why, f"model {key[0]!r} {why}", now if seen is None else seen.available)

    def known(self, key: SeenKey, now: float) -> Absence | None:
        """The absence of a model that no child lists, if one did in the last ten minutes."""
        seen = self._seen.get(key)
        if seen is None or now - seen.listed >= self.known_s:
            return None
        event = f"model {key[0]!r} was served here, and no child lists it any more"
        return Absence(f"was served here until {now - seen.listed:.0f} s ago", event, seen.available)

    def is_declared(self, name: str) -> bool:
        """Does the configuration declare the model, through whichever API?"""
        return name in self._declared

    def declared(self, name: str) -> Absence:
        """The absence of a declared model that no child has listed lately."""
        why = "is declared in the configuration, but no child serves it now"
        return Absence(why, f"model {name!r} {why}", self.started_at)

    def possible(self, name: str, now: float) -> Absence | None:
        """The absence of a model that no child has listed lately, if it may exist nevertheless."""
        if not is_printable_name(name):
            return None
        if now < self.settled_at:
            why = f"is not known yet: this node started {now - self.started_at:.0f} s ago"
            return Absence(why, "this node has just started", self.started_at, self.settled_at)
        return self._unnamed_by(now) or self._not_registered(now)

    def incomplete(self, now: float) -> bool:
        """May there be models below this node that it does not know yet? For its parents."""
        return now < self.settled_at or self._unnamed_by(now) is not None or self._not_registered(now) is not None

    def _unnamed_by(self, now: float) -> Absence | None:
        if not self._unnamed:
            return None
        child, since = next(reversed(self._unnamed.items()))
        if now - since >= self.known_s:  # and all others wait for longer
            return None
        event = f"{child.name} has not named all of its models"
        return Absence(f"is not known yet: {event}", event, since)

    def _not_registered(self, now: float) -> Absence | None:
        if not self._missing or now - self._expected_since >= self.known_s:
            return None
        event = f"{next(iter(self._missing))} has not registered"
        return Absence(f"is not known yet: {event}", event, self._expected_since)
