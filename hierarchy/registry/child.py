"""A child: what it reports, what this node sent it, and whether it may be chosen.

load = the last reported queue, less this node's leases that the report counted and that have ended since, plus its open
leases that the report did not count; at least its open leases. Which leases a report counted is known exactly from
`seen`: the highest of the numbers that this node sends with its requests. A child that does not report `seen` is
assumed to have counted every lease opened before the report. Leases are exact, so load never drifts, becomes negative
or sticks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from hierarchy.config.address import Place, addresses_of, place_of
from hierarchy.prefix.cost import slot_score
from hierarchy.registry.child_labels import ChildLabels
from hierarchy.registry.drain import Drain
from hierarchy.registry.ejection import FailureRecord, Responses
from hierarchy.registry.hit_rate import HitRate
from hierarchy.registry.load import Load
from hierarchy.registry.rates import Rates
from hierarchy.registry.round_trip import RoundTrip
from hierarchy.registry.warmth import Warmth
from hierarchy.wire.limits import NO_WEIGHT
from hierarchy.wire.listing import Listing
from hierarchy.wire.messages import Names
from hierarchy.wire.status import EMPTY, USUAL_LOAD_S, Api, ModelKey, ModelStatus, NodeStatus
from hierarchy.wire.tree_entry import SERVING

NODE: Final = "node"  # the kind of a child that is a node; every other kind is an engine's
FASTCHAT_EXPIRY_S: Final = 90.0  # FastChat's CONTROLLER_HEART_BEAT_EXPIRATION; its workers beat every 45 s
SILENT_INTERVALS, GONE_INTERVALS = 3, 10  # a node that missed this many reports is not chosen; is dropped


class Tally:
    """What is counted over all children of one registry, so that nothing has to look at each of them."""

    __slots__ = ("changed", "loads", "open", "sent")

    def __init__(self) -> None:
        self.loads: list[tuple[Share, float]] = []  # of models by engines since they were counted, and their seconds
        self.open = 0  # leases, those of children that have left included
        self.sent = 0  # leases ever opened
        self.changed: list[Child] = []  # whose load has changed since `Totals` summed it up

    def take(self) -> list[Child]:
        """The children that have changed, for one reader."""
        changed, self.changed = self.changed, []
        for child in changed:
            child.changed = False
        return changed


class Share(Warmth):
    """One child's part in serving one model: what a policy chooses among."""

    __slots__ = (
        "avoid", "busy", "changed", "child", "decode", "engine_hits", "failures", "hits", "key", "matched", "penalty",
        "pending", "prefill", "prompted", "rates", "responses", "score", "slots", "speed", "was_ejected",
    )  # fmt: skip

    def __init__(self, child: Child, key: ModelKey) -> None:
        super().__init__()
        self.child = child
        self.key = key
        self.speed = 1.0
        self.prefill = self.decode = 0.0  # tokens/s as measured, or as reported; 0: not measured
        self.rates: Rates | None = None  # of what passes, where that is measured
        self.slots = 0  # requests that it runs at once; 0: unknown
        self.busy = 0.0  # the same as `score` where its slots are not known, else `slot_score`
        self.score = 0.0  # load / speed, kept up to date so that choosing among many is cheap
        self.avoid = False  # the child reported that it serves this model only where nobody else can
        self.responses = Responses()  # of this model's requests
        self.failures: FailureRecord | None = None  # of this model's requests, lately; None for a healthy one
        self.pending = 0  # bytes of prompts that it has to read for this node's requests, by the policy `prefix`
        self.matched = self.prompted = 0  # bytes of prompts sent there: in its cache, most likely; all of them
        self.hits: HitRate | None = None  # of these, if it is an engine
        self.engine_hits: HitRate | None = None  # of prompts at an engine, by its own count
        self.penalty = 0  # requests by which its load counts as higher: fast failures would attract more
        self.was_ejected = False  # when its state was last noted
        self.changed = False  # it is in `Child.changes`

    def rescore(self) -> None:
        """Compute `score` again."""
        load = self.reported - self.ended + self.uncounted
        if load < self.open:
            load = self.open
        self._set_score(load + self.penalty)
        if not self.changed:
            self.changed = True
            self.child.changes.append(self)
            self.child.note_change()

    def start(self, model: ModelStatus) -> None:
        """Take over a report before anybody sees the share."""
        self.reported = model.queue_length
        self.take(model)
        self._set_score(self.reported)

    def take(self, model: ModelStatus) -> None:
        """Take over what a report says of it, but for the queue and whether the model is loaded."""
        self.speed, self.slots, self.avoid = model.speed, model.slots, model.avoid
        self.prefill, self.decode = model.prefill, model.decode

    def _set_score(self, load: int) -> None:
        self.busy = self.score = load / self.speed
        if self.slots:
            self.busy = slot_score(load, self.slots, self.speed)

    def differs(self, model: ModelStatus) -> bool:
        """Is a report of this model another one than the last, or have leases ended or begun since?"""
        return (
            self.reported != model.queue_length
            or self.ended != 0
            or self.uncounted != 0
            or self.speed != model.speed
            or self.slots != model.slots
            or self.avoid is not model.avoid
            or self.told_load_s != model.load_s
            or self.prefill != model.prefill
            or self.decode != model.decode
        )

    def note_model(self, model: ModelStatus, now: float) -> bool:
        """A report says whether the model is loaded. Returns whether it is, and was not, or the reverse."""
        child = self.child
        usual_s = model.load_s if child.kind == NODE else child.usual_load_s
        changed = self.note_load(model.load_s, usual_s, now)
        if changed and not model.load_s:
            self.note_loaded(now)
        return changed

    def note_loaded(self, now: float) -> None:
        """The model is loaded now. How long that took is measured where an engine did it."""
        took_s = self.loaded(now)
        if took_s > 0.0 and self.child.kind != NODE:
            self.measure(took_s)
            self.child.tally.loads.append((self, took_s))

    @property
    def records(self) -> list[FailureRecord]:
        """The failures of this model, and those to reach the child; mostly there are none."""
        return [record for record in (self.failures, self.child.failures) if record is not None]

    def is_ejected(self, now: float) -> bool:
        """Is this model ejected at the child, or the whole child?"""
        own, whole = self.failures, self.child.failures
        return (own is not None and own.ejects(now)) or (whole is not None and whole.ejects(now))

    def is_avoided(self, now: float) -> bool:
        """Shall it be used only where nothing else serves the model?"""
        return self.avoid or self.child.suspect is not None or self.is_ejected(now)

    def status(self, now: float) -> ModelStatus:
        """Its part of the report for the parent."""
        name, api = self.key
        avoid = self.is_avoided(now)
        return ModelStatus(name, api, self.speed, self.value, self.slots, avoid, self.load_s, self.prefill, self.decode)

    def __repr__(self) -> str:
        return f"<Share {self.child.name} {self.key[0]} load={self.value} open={self.open} speed={self.speed:g}>"


class Lease:
    """One request's claim on one child. `release` may be called any number of times and counts once."""

    __slots__ = ("matched", "ordinal", "pending", "released", "share")

    def __init__(self, share: Share, ordinal: int) -> None:
        self.share = share
        self.ordinal = ordinal  # its number among all leases of this child
        self.released = False
        self.pending = 0  # bytes of the prompt that the child has to read, as far as they are in `Share.pending`
        self.matched = 0  # bytes of it that are in its cache, most likely

    def wait_for(self, unmatched: int, matched: int) -> None:
        """The child has to read so much of the prompt, and has the rest. Call it once, at the beginning."""
        self.pending, self.matched = unmatched, matched
        share = self.share
        share.pending += unmatched
        share.matched += matched
        share.prompted += matched + unmatched

    def first_byte(self) -> None:
        """The child has read the prompt. It may be called any number of times."""
        self.share.pending -= self.pending
        self.pending = 0

    def release(self) -> None:
        """Give it back."""
        if not self.released:
            self.released = True
            self.first_byte()
            self.share.child.end(self.share, self.ordinal)


class NewShares:
    """The shares that a child has after a report, computed before it. base: those that it had then."""

    __slots__ = ("base", "shares")

    def __init__(self, base: dict[ModelKey, Share], shares: dict[ModelKey, Share]) -> None:
        self.base = base
        self.shares = shares


class Child:
    """A node or engine below this node. All times are seconds of the registry's injected monotonic clock."""

    def __init__(self, name: str, url: str, kind: str, *, declared: bool = False) -> None:
        self.name = name
        self.label = name  # what clients read instead of the name, see `public_name`
        self.kind = kind
        self.group = ""  # the name that it shares with other replicas
        self.parts = 1  # replicas that are present: its status is one of so many parts of what it reported
        self.last_report: tuple[NodeStatus, int | None] = EMPTY, None  # as it came, and its `seen`
        self.start_speed = 0.0  # of an engine whose speed is measured: that to start from; 0: it is not measured
        self.part = 1.0  # of the speed that it claims which counts, see `measured_speed.Doubts`
        self.claimed = 0.0  # the highest speed that it reported
        self.speed_limit = math.inf  # above which none counts, see `speed_limit`
        self.slots_limit = math.inf  # for each unit of speed; more do not count at all
        self.claimed_slots = 0.0  # the most slots for each unit of speed that it reported
        self.is_slowed = False  # it reports more speed than `speed_limit`
        self.is_wide = False  # it reports more slots than `slots_limit`
        self.declared = declared  # configured here and probed by this node: it stays listed while it is down
        self.proof = 0  # how well it showed at its URL that it is there, see `admission.Claim`
        self.move_to(url)
        self.instance = ""
        self.version = ""
        self.build = ""
        self.dispatch = ""  # the policy of a node
        self.reads_prefix = False  # it reads what a prompt begins with from the request's head
        self.reverse = False  # it dials the connections for requests; this node does not dial it
        self.identity = ""  # of the credential with which a node registered: the same for all that may use its name
        self.local = True  # it registered from this machine
        self.credential = b""  # header line with an engine's own key
        self.secret = b""  # sent with each request, so that the child trusts the x-hierarchy-* fields
        self.names: Names | None = None  # of its models, as it sent them last
        self.path: frozenset[str] = frozenset()  # instances of all nodes below, the child included
        self.subtree: Mapping[str, Any] = {}
        self.listed: Listing | None = None  # of `subtree`, if it was large
        self.below = NO_WEIGHT  # of `subtree`, at most
        self.below_is_cut = False  # it was larger than the child's share, and is not kept
        self.incomplete = False  # it reported that it may not know all models below it yet
        self.labels = ChildLabels()  # what can be required of it
        self.token_labels: Mapping[str, str] | None = None  # of the token with which it joined
        self.renames: Mapping[str, str] = {}  # of an engine: served name -> its own name, which must be in the body
        self.status: NodeStatus = EMPTY
        self.check_heart_beat = True
        #: of a FastChat worker: models that its last registration did not list, each with the time of that
        self.unconfirmed: dict[ModelKey, float] = {}
        self.multimodal = False  # as a FastChat worker reports
        self.interval_s: float | None = None  # between reports; None: FastChat's terms
        self.last_seen: float | None = None
        self.down: str | None = None  # why a probed engine cannot be used; None: it can
        self.suspect: str | None = None  # why it may be dead: it is used only where no other child can be
        self.asleep = False  # an engine that answers but has put its model away: it gets no new requests
        self.wakes = False  # but this node can wake it up, so it gets some where no other one has the model loaded
        self.wake_failed = ""  # why it could not be woken up lately; it is not tried again for a while
        self.wake_again_at = math.inf  # when it is
        self.usual_load_s = USUAL_LOAD_S  # of an engine: how long it takes to load a model, until that was measured
        self.received = 0  # reads of the data path from it: signs of life
        self.heard_at = -math.inf  # when `received` last changed, as the sweep saw it
        self.heard = 0  # `received` then
        self.failures: FailureRecord | None = None  # to reach it, lately; None for a healthy child
        self.noted = "starting"  # the state that was last told to `Registry.on_change`
        self.refused_until = -math.inf  # a connection was refused, so its process is gone, or was a moment ago
        self.drain: Drain | None = None  # by an operator
        self.leaving = False  # it reported that it drains
        self.warnings: list[str] = []  # what is wrong with it, as it reported
        self.fell_silent = False  # it was dropped, since no report came
        self.left_at: float | None = None  # when it left or was dropped; it is remembered for a while, and never chosen
        self.told = 0  # revision of the shared records that it has
        self.prefix_key: str | None = None  # the key for fingerprints that it was told
        self.seq = -1
        self.shares: dict[ModelKey, Share] = {}
        self.total = Load()
        self.tally = Tally()  # of the registry that it belongs to
        self.changed = False  # it is in `Tally.changed`
        self.changes: list[Share] = []  # whose load has changed since `take_changes`
        self.process_number = 0  # changes whenever the child may be another process than before
        self.cache_number = 0  # in the index of prompts; see `balancing.prefix_choice`
        self.cache_process = -1  # the process that has this number
        self.sent = 0  # leases ever opened; the ordinal of the last one
        self._counted_to = 0  # leases up to this ordinal are in the last report
        self._leases: dict[int, Share] = {}  # open ones by ordinal, oldest first

    def move_to(self, url: str) -> None:
        """Set the URL, and its parts as the data path needs them."""
        parts = urlsplit(url)
        self.url = url.rstrip("/")
        self.tls = parts.scheme == "https"
        self.host = parts.hostname or ""
        self.port = parts.port or (443 if self.tls else 80)
        self.prefix = parts.path.rstrip("/").encode()
        self.authority = parts.netloc.rpartition("@")[2].encode()
        self.place = place_of(url)
        self.addresses = addresses_of(self.place[0])
        self.round_trip = RoundTrip()  # to it, as this node measures it
        self.proof = 0

    def is_at(self, place: Place, addresses: frozenset[str]) -> bool:
        """Does its URL lead there? addresses: of the host of `place`, as far as they are known."""
        host, port, path = self.place
        if port != place[1] or path != place[2]:
            return False
        return host == place[0] or not self.addresses.isdisjoint(addresses)

    @property
    def is_node(self) -> bool:
        """A node, not an engine."""
        return self.kind == NODE

    @property
    def in_flight(self) -> int:
        """This node's open leases."""
        return self.total.open

    # -- health ----------------------------------------------------------------------------------------------

    def state(self, now: float) -> str:
        """`up`, `starting`, `down`, `silent`, `asleep`, `suspect`, `ejected`, `draining` or `gone`."""
        if self.left_at is not None:
            return "gone"
        if self.down is not None:
            return "down"
        if self.drain is not None or self.leaving:
            return "draining"
        if self.last_seen is None:
            return "starting"
        if now >= self.fresh_until:
            return "silent"
        if self.asleep:
            return "asleep"
        if self.failures is not None and self.failures.ejects(now):
            return "ejected"
        return "up" if self.suspect is None else "suspect"

    def detail(self, now: float) -> str:
        """The reason why the state is not `up`; else empty. Of a drained child that is down, too, both."""
        state = self.state(now)
        why = self._why(state, now)
        if self.drain is None or state == "draining":
            return why
        return f"{why}; drained {self.drain}" if why else f"drained {self.drain}"

    def _why(self, state: str, now: float) -> str:
        if state == "gone" and self.left_at is not None:
            return f"{'fell silent' if self.fell_silent else 'left'} {now - self.left_at:.0f} s ago"
        if state == "down":
            return self.down or ""
        if state == "draining":
            return "it is stopping" if self.drain is None else str(self.drain)
        if state == "ejected" and self.failures is not None:
            return self.failures.reason
        if state == "suspect":
            return self.suspect or ""
        if state == "asleep":
            return self.wake_failed or ("a request wakes it up" if self.wakes else "")
        if state == "silent" and self.last_seen is not None:
            return f"no report for {now - self.last_seen:.0f} s"
        return ""

    def available(self, now: float) -> bool:
        """May it get a new request?"""
        return self.state(now) == "up"

    def serves_now(self, now: float) -> bool:
        """May it get requests, if only as a last resort, or after it was woken up for them?"""
        return self.state(now) in SERVING or self.can_wake(now)

    def can_wake(self, now: float) -> bool:
        """Is it asleep, and would a request wake it up?"""
        return self.wakes and not self.wake_failed and self.state(now) == "asleep"

    def is_dead(self, now: float) -> bool:
        """Is it known to be gone or to hang, so that its requests are lost?"""
        return self.down is not None or self.left_at is not None or now < self.refused_until or now >= self.fresh_until

    @property
    def fresh_until(self) -> float:
        """When it becomes silent if no report comes. Bytes that arrive from a node count like reports, for a while."""
        limit = self._quiet_limit(SILENT_INTERVALS)
        if self.interval_s is None or limit == math.inf:
            return limit
        return min(max(limit, self.heard_at + SILENT_INTERVALS * self.interval_s), self.gone_at)

    @property
    def gone_at(self) -> float:
        """When it is dropped if no report comes."""
        return self._quiet_limit(GONE_INTERVALS)

    def _quiet_limit(self, intervals: int) -> float:
        if self.last_seen is None or self.declared or not self.check_heart_beat:
            return math.inf
        if self.interval_s is None:
            return self.last_seen + FASTCHAT_EXPIRY_S
        return self.last_seen + intervals * self.interval_s

    # -- reports ---------------------------------------------------------------------------------------------

    def report(self, status: NodeStatus, now: float, seen: int | None = None, ready: NewShares | None = None) -> bool:
        """Apply a status. Returns whether models or speeds changed (then other views must be renewed).

        seen: the highest ordinal that the child had received when it reported; None if it does not report it.
        ready: the shares for this status, if they were computed before.
        """
        self.last_seen = now
        self.down = self.suspect = None
        self.status = status
        if ready is not None and (ready.base is self.shares or not (ready.base or self.shares)):
            changed = ready.shares is not ready.base
            if changed:
                self._take_over(ready.shares)
        else:
            changed = not self._has_all(status) and {model.key for model in status.models} != self.shares.keys()
            if changed:
                self._renew_shares(status)
        self.note_change()
        self._counted_to = self.sent if seen is None else min(self.sent, seen)
        self.total.report(status.queue_length)
        shares, renewed = self.shares, list[Share]()
        for model in status.models:
            share = shares[model.key]
            if share.differs(model):
                share.report(model.queue_length)
                changed = changed or (
                    share.speed != model.speed
                    or share.avoid != model.avoid
                    or (share.slots == 0) is not (model.slots == 0)
                )
                share.take(model)
                if model.decode and share.rates is None and self.kind == NODE:  # speeds are measured below it
                    share.rates = Rates(1.0, one_reader=False)
                if share.told_load_s != model.load_s:
                    changed |= share.note_model(model, now)
                renewed.append(share)
        for ordinal in reversed(self._leases):
            if ordinal <= self._counted_to:
                break
            self.total.uncounted += 1
            leased = self._leases[ordinal]
            leased.uncounted += 1
            renewed.append(leased)
        for share in renewed:
            share.rescore()
        return changed

    def _has_all(self, status: NodeStatus) -> bool:
        """Does a status list the same models in the same order? Mostly, and then it costs less to see."""
        if len(status.models) != len(self.shares):
            return False
        for model, key in zip(status.models, self.shares, strict=True):
            if model.name != key[0] or model.api != key[1]:
                return False
        return True

    def note_hits(self, prompt_tokens: Mapping[str, tuple[float, float]], now: float) -> None:
        """What of prompts came from its cache. prompt_tokens: see `NodeStatus`."""
        for share in self.shares.values():
            if share.prompted:
                if share.hits is None:
                    share.hits = HitRate()
                    share.hits.observe(now, 0.0, 0.0)
                share.hits.observe(now, float(share.matched), float(share.prompted))
            counts = prompt_tokens.get(share.key[0]) or prompt_tokens.get("")
            if counts is not None:
                if share.engine_hits is None:
                    share.engine_hits = HitRate()
                share.engine_hits.observe(now, counts[0], counts[1])

    def note_change(self) -> None:
        """Its load, or something else that `Totals` counts, has changed."""
        if not self.changed:
            self.changed = True
            self.tally.changed.append(self)

    def take_changes(self) -> list[Share]:
        """The shares whose load has changed, for one reader."""
        changes, self.changes = self.changes, []
        for share in changes:
            share.changed = False
        return changes

    def set_speeds(self, status: NodeStatus) -> None:
        """Other speeds and slots count for it than in its last report. status: that report, with these."""
        counted, replace = {model.key: model for model in status.models}, msgspec.structs.replace
        models = [
            replace(model, speed=counted[model.key].speed, slots=counted[model.key].slots)
            if model.key in counted
            else model
            for model in self.status.models
        ]
        self.status = replace(self.status, models=tuple(models), speed=status.speed)
        self.note_change()
        for model in models:
            share = self.shares[model.key]
            share.speed, share.slots = model.speed, model.slots
            share.rescore()

    def heart_beat(self, queue_length: int, now: float) -> None:
        """A heartbeat of a FastChat worker: it contains only the length of the queue that all its models share."""
        replace = msgspec.structs.replace
        models = tuple(replace(model, queue_length=queue_length) for model in self.status.models)
        self.report(NodeStatus(models, self.status.speed, queue_length), now)

    def known_shares(self) -> dict[ModelKey, Share]:
        """Its shares, and those of models that it had: a share lives on in its leases, and comes back with them."""
        return {share.key: share for share in self._leases.values()} | self.shares

    def _renew_shares(self, status: NodeStatus) -> None:
        known = self.known_shares()
        self.shares = {model.key: known.get(model.key) or Share(self, model.key) for model in status.models}

    def _take_over(self, shares: dict[ModelKey, Share]) -> None:
        """Have these shares from now on, which were computed a moment ago."""
        for share in self._leases.values():  # some may be new, of models that it did not have any more
            if share.key in shares:
                shares[share.key] = share
        if not self.shares:
            for share in shares.values():
                share.child = self
        self.shares = shares

    # -- leases ----------------------------------------------------------------------------------------------

    def lease(self, share: Share) -> Lease:
        """Claim the child for one request."""
        self.sent = ordinal = self.sent + 1
        tally = self.tally
        tally.sent += 1
        tally.open += 1
        self._leases[ordinal] = share
        total = self.total
        total.open += 1
        total.uncounted += 1
        share.open += 1
        share.uncounted += 1
        share.rescore()
        return Lease(share, ordinal)

    def hand_out(self, share: Share) -> None:
        """A client got its address: count one request until the next report, since there is no lease."""
        self.total.reported += 1
        share.reported += 1
        share.rescore()

    def end(self, share: Share, ordinal: int) -> None:
        """Called by `Lease.release`, once."""
        del self._leases[ordinal]
        self.tally.open -= 1
        total = self.total
        total.open -= 1
        share.open -= 1
        if ordinal <= self._counted_to:
            total.ended += 1
            share.ended += 1
        else:
            total.uncounted -= 1
            share.uncounted -= 1
        share.rescore()

    # -- views -----------------------------------------------------------------------------------------------

    def load(self, key: ModelKey) -> int:
        """Requests running or waiting for one model. 0 if it does not serve it."""
        share = self.shares.get(key)
        return share.value if share else 0

    def serves(self, model: str, api: Api | None = None) -> bool:
        """Does it list the model (in one API family, or in any)?"""
        return any(key[0] == model and api in (None, key[1]) for key in self.shares)

    def current(self, now: float) -> NodeStatus:
        """Its status, corrected by this node's leases."""
        models = tuple(share.status(now) for share in self.shares.values())
        return NodeStatus(models, self.status.speed, self.total.value)

    def __repr__(self) -> str:
        return f"<Child {self.name} {self.kind} load={self.total.value} open={self.total.open}>"
