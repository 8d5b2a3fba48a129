"""Whether a registration is accepted, under which name, and what it keeps of what is known. Reads the children only."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from itertools import count
from typing import Final

import msgspec

from hierarchy.config.address import addresses_of, place_of
from hierarchy.errors import InvalidField, LoopDetected, NameTaken
from hierarchy.registry.child import Child
from hierarchy.registry.directory import Directory
from hierarchy.wire.limits import ChildLimits
from hierarchy.wire.messages import Identity, Registration
from hierarchy.wire.status import ModelKey, NodeStatus

MAX_REPLICAS = 32  # of one node, that are registered here


#: what a child showed when its URL was dialled back: nothing, the id of its process, which is no secret, or that it
#: also knows the secret of its registration
UNPROVEN: Final = 0
ANSWERS: Final = 1
OWNS: Final = 2


class Claim(msgspec.Struct, frozen=True):
    """What this node found out about the URL that a child registers, before it decides."""

    #: the child dials, so its URL need not lead to it
    reverse: bool = False
    #: one of the above
    proof: int = UNPROVEN
    #: of the URL's host, as far as they are known
    addresses: frozenset[str] = frozenset()


NO_CLAIM = Claim()


def check_loop(message: Registration, identity: Identity, claim: Claim) -> None:
    """Raise `LoopDetected` if the sender is this node, or has this node below it. identity: this node's."""
    if identity.instance in message.path or message.instance == identity.instance:
        raise LoopDetected(
            f"{message.node or message.worker_name} cannot register here: this node is itself below it; "
            "check `parent` in both configurations"
        )
    if not claim.reverse and _is_same_socket(message.worker_name, identity.url):
        raise LoopDetected(
            f"worker_name {message.worker_name!r} is the address of this node itself; "
            "give each node an `advertise` of its own"
        )


def _is_same_socket(first: str, second: str) -> bool:
    (host, port, _), (own_host, own_port, _) = place_of(first), place_of(second)
    shared = addresses_of(host) & addresses_of(own_host)
    return port == own_port and (host == own_host or bool(shared))


def find_registered(
    children: Mapping[str, Child],
    directory: Directory,
    name: str,
    message: Registration,
    identity: str,
    now: float,
    claim: Claim,
) -> Child | None:
    """The child that registers again under this name, or None for a new one.

    identity: of the token or credential in the request; "" for none. now: seconds of the registry's clock.

    Raises:
        NameTaken: another live child has that name or that address, or another identity had it lately.
    """
    url = message.worker_name.rstrip("/")
    if not claim.reverse:  # behind an address translation several may have it, and this node dials none of them
        for other in rivals(directory, name, message, claim):
            _check_rival(other, url, identity, now, claim)
    child = children.get(name)
    if child is None:
        return None
    # An identity decides alone, where there is one: several processes may have it, and an instance's id is no secret.
    same = child.identity == identity if identity else child.url == url or child.instance == message.instance
    if child.declared or (not same and now < child.fresh_until):
        raise NameTaken(f"name {name!r} is taken by {child.url}; choose another, or stop that one first")
    return child


def rivals(directory: Directory, name: str, message: Registration, claim: Claim) -> list[Child]:
    """Other children whose URL leads where that of the child leads that registers as `name`; those that left last."""
    url, place, is_node = message.worker_name.rstrip("/"), place_of(message.worker_name), bool(message.node)
    others = dict.fromkeys(directory.at_place(place, claim.addresses) + directory.at_url(url))
    found = [
        other
        for other in others
        if other.name != name
        and not other.reverse
        # Two workers are what their URLs are called, and one may come back with another spelling of its own.
        and (other.is_at(place, claim.addresses) if is_node or other.kind != "fastchat" else other.url == url)
    ]
    return [one for one in found if one.left_at is None] + [one for one in found if one.left_at is not None]


def _check_rival(other: Child, url: str, identity: str, now: float, claim: Claim) -> None:
    """Raise `NameTaken` if the URL is another child's now, or is reserved for the one that had it.

    Several servers may be behind one address, told apart by the names of their hosts: each shows that it is there.
    """
    if other.left_at is None and (other.declared or now < other.fresh_until):
        if claim.proof == OWNS and other.place != place_of(url):
            return
        raise NameTaken(f"address {url!r} is already that of {other.name!r}; each child needs its own")
    if other.identity and other.identity != identity and claim.proof != OWNS:
        raise NameTaken(
            f"address {url!r} was that of {other.name!r} until lately, and this node did not find the child "
            "there now; let this node reach it there, or wait"
        )


def child_name(message: Registration, children: Mapping[str, Child], directory: Directory) -> str:
    """The name under which a child is listed: its own; NAME~2 and so on for further instances of a replicated node.

    Raises:
        NameTaken: a replicated node has too many instances; one credential is enough for all of them.
    """
    name = message.node or message.worker_name
    if not (message.node and message.replica):
        return name
    place = place_of(message.worker_name)
    instances = directory.instances(name)
    for child in instances:
        if child.instance == message.instance or child.place == place:
            return child.name
    first = children.get(name)
    if first is None or not first.group:
        return name
    if len(instances) >= MAX_REPLICAS:
        raise NameTaken(f"{name!r} has {MAX_REPLICAS} instances already; stop one first, or wait until one is dropped")
    return next(free for free in (f"{name}~{number}" for number in count(2)) if free not in children)


def check_instances(others: Iterable[Child], status: NodeStatus, path: Collection[str], limits: ChildLimits) -> None:
    """Raise `InvalidField` if the instances of a replicated node list too much together, for which one credential is
    enough. others: the other instances."""
    few = len(status.models) <= limits.instance_models and len(path) <= limits.instance_path
    if few:  # nearly always
        return
    models, instances = len(status.models), len(path)
    for other in others:
        models += len(other.shares)
        instances += len(other.path)
    for field, own, total, one, most in (
        ("models", len(status.models), models, limits.instance_models, limits.group_models),
        ("path", len(path), instances, limits.instance_path, limits.group_path),
    ):
        if own > one and total > most:
            reason = f"the instances of this node list {total} together; they may list {most}, or {one} each"
            raise InvalidField(field, f"{reason}; the limit grows with `max_body_bytes`")


def add_models(child: Child, status: NodeStatus) -> NodeStatus:
    """The status of a FastChat worker, together with the models that others at its address have registered.

    FastChat's multi-model workers share one address, and each registers only its own models. The worker's next answer
    to /worker_get_status replaces all of them. If there is none, `without_unconfirmed` takes those of a former process
    away.
    """
    registered = {model.key for model in status.models}
    others = tuple(model for model in child.status.models if model.key not in registered)
    return NodeStatus(others + status.models, status.speed, status.queue_length)


def confirm_models(child: Child, registered: Collection[ModelKey], now: float) -> None:
    """A FastChat worker registers these models; those that it had before may be those of a process that is gone."""
    child.unconfirmed = {key: child.unconfirmed.get(key, now) for key in child.shares if key not in registered}


def without_unconfirmed(child: Child, since: float) -> NodeStatus | None:
    """The status of a FastChat worker without the models that were not confirmed since then; None if all were."""
    stale = {key for key, at in child.unconfirmed.items() if at <= since}
    if not stale:
        return None
    child.unconfirmed = {key: at for key, at in child.unconfirmed.items() if key not in stale}
    kept = tuple(model for model in child.status.models if model.key not in stale)
    return NodeStatus(kept, child.status.speed, child.status.queue_length)
