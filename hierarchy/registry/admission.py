"""Whether a registration is accepted, under which name, and what it keeps of what is known. Reads the children only."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from itertools import count
from urllib.parse import urlsplit

from hierarchy.errors import LoopDetected, NameTaken
from hierarchy.registry.child import Child
from hierarchy.wire.messages import Identity, Registration
from hierarchy.wire.status import ModelKey, NodeStatus

MAX_REPLICAS = 32  # of one node, that are registered here


def check_loop(message: Registration, identity: Identity, *, reverse: bool) -> None:
    """Raise `LoopDetected` if the sender is this node, or has this node below it.

    identity: this node's. reverse: the sender dials, so its URL may be any.
    """
    if identity.instance in message.path or message.instance == identity.instance:
        raise LoopDetected(
            f"{message.node or message.worker_name} cannot register here: this node is itself below it; "
            "check `parent` in both configurations"
        )
    if not reverse and _socket_address(message.worker_name) == _socket_address(identity.url):
        raise LoopDetected(
            f"worker_name {message.worker_name!r} is the address of this node itself; "
            "give each node an `advertise` of its own"
        )


def _socket_address(url: str) -> tuple[str | None, int]:
    """Host and port, with one spelling for loopback."""
    parts = urlsplit(url)
    host = "localhost" if parts.hostname in ("127.0.0.1", "::1") else parts.hostname
    return host, parts.port or (443 if parts.scheme == "https" else 80)


def find_registered(
    children: Mapping[str, Child], name: str, message: Registration, identity: str, now: float, *, reverse: bool
) -> Child | None:
    """The child that registers again under this name, or None for a new one.

    identity: of the token or credential in the request; "" for none. now: seconds of the registry's clock.

    Raises:
        NameTaken: another live child has that name or that address.
    """
    url = message.worker_name.rstrip("/")
    for other in children.values():
        if reverse or other.reverse:
            continue  # behind an address translation several may have it, and this node dials none of them
        if other.name != name and other.url == url and (other.declared or now < other.fresh_until):
            raise NameTaken(f"address {url!r} is already that of {other.name!r}; each child needs its own")
    child = children.get(name)
    if child is None:
        return None
    # An identity decides alone, where there is one: several processes may have it, and an instance's id is no secret.
    same = child.identity == identity if identity else child.url == url or child.instance == message.instance
    if child.declared or (not same and now < child.fresh_until):
        raise NameTaken(f"name {name!r} is taken by {child.url}; choose another, or stop that one first")
    return child


def child_name(message: Registration, children: Mapping[str, Child]) -> str:
    """The name under which a child is listed: its own; NAME~2 and so on for further instances of a replicated node.

    Raises:
        NameTaken: a replicated node has too many instances; one credential is enough for all of them.
    """
    name, url = message.node or message.worker_name, message.worker_name.rstrip("/")
    if not (message.node and message.replica):
        return name
    for child in children.values():
        if child.group == name and (child.instance == message.instance or child.url == url):
            return child.name
    first = children.get(name)
    if first is None or not first.group:
        return name
    if sum(child.group == name for child in children.values()) >= MAX_REPLICAS:
        raise NameTaken(f"{name!r} has {MAX_REPLICAS} instances already; stop one first, or wait until one is dropped")
    return next(free for free in (f"{name}~{number}" for number in count(2)) if free not in children)


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
