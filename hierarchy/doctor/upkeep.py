"""What a node keeps and what expires: its records of tokens and revocations, certificates, its credential."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping

from hierarchy.config.models import NodeConfig
from hierarchy.doctor.finding import Finding, fail, ok, warn
from hierarchy.errors import UsageError
from hierarchy.runtime.expiry import Lifetime
from hierarchy.security.access import Access
from hierarchy.security.expiry_watch import hint_for
from hierarchy.security.record_keeper import RecordKeeper
from hierarchy.security.startup import full_disk

RESTORE = "if it ran before, restore its state before you start it: hierarchy state restore"


def check_upkeep(config: NodeConfig, environ: Mapping[str, str], now: Callable[[], float] = time.time) -> list[Finding]:
    """Read a node's state and certificates, without changing anything. now: Unix seconds."""
    try:
        access = Access(config, environ, now)
    except UsageError:
        return []  # another check says what `serve` would refuse
    records = access.registration_policy.records
    found = [] if records is None else [_check_records(records)]
    what, _, meaning = full_disk(config, environ).partition("; ")
    if what:
        found.append(warn("disk", what, meaning))
    return [*found, *_check_lifetimes(access.lifetimes(), now())]


def _check_records(records: RecordKeeper) -> Finding:
    records.peers_were_asked()
    what, _, hint = records.problem().partition("; ")
    if what:
        return fail("state", what, hint)
    path = records.store.path
    if not path.exists():
        return warn("state", f"{path} does not exist: this node has never used a token or revoked a node", RESTORE)
    used, revoked = len(records.store.used()), len(records.store.revoked())
    return ok("state", f"{path}: {used} used tokens, {revoked} revocations")


def _check_lifetimes(lifetimes: Mapping[str, Lifetime], now: float) -> Iterator[Finding]:
    for what, lifetime in lifetimes.items():
        stage, described = lifetime.stage(now), f"the {what} {lifetime.describe(now)}"
        if stage == "valid":
            yield ok("expiry", f"the {what} is valid for {lifetime.days_left(now):.0f} days")
        elif stage == "expires soon":
            yield warn("expiry", described, hint_for(what))
        else:
            yield fail("expiry", described, hint_for(what))
