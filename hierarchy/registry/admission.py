"""Whether a registration may come in, under what name, and what it leaves of what is known: on the children alone."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count
from urllib.parse import urlsplit

from hierarchy.errors import LoopDetected, NameTaken
from hierarchy.registry.child import Child
from hierarchy.wire.messages import Identity, Registration
from hierarchy.wire.status import NodeStatus


def refuse_loop(message: Registration, identity: Identity, *, reverse: bool) -> None:
    """Raises LoopDetected if it comes from this node, or from one that has this node below it."""
    if identity.instance in message.path or message.instance == identity.instance:
        raise LoopDetected(
            f"{message.node or message.worker_name} cannot register here: this node is itself below it; "
            "look at `parent` in both configurations"
        )
    if not reverse and _same_place(message.worker_name, identity.url):
        raise LoopDetected(
            f"worker_name {message.worker_name!r} is this node's own address; "
            "a node cannot register with itself, and each needs an `advertise` of its own"
        )


def refuse_taken(
    children: Mapping[str, Child], name: str, message: Registration, identity: str, now: float, *, reverse: bool
) -> Child | None:
    """The child that comes again under this name, or None for a new one.

    identity: what the message showed stands for; "" for nothing.

    Raises:
        NameTaken: another live child holds that name or that address.
    """
    url = message.worker_name.rstrip("/")
    for other in children.values():
        if reverse or other.reverse:
            continue  # behind an address translation others have it too, and nobody dials it
        if other.name != name and other.url == url and (other.declared or now < other.fresh_until):
            raise NameTaken(f"address {url!r} is already that of {other.name!r}; each child needs its own")
    child = children.get(name)
    if child is None:
        return None
    # Where identities are known they alone tell one from another: several processes may have one, and the id of
    # an instance is no secret.
    same = child.identity == identity if identity else child.url == url or child.instance == message.instance
    another = not same
    if child.declared or (another and now < child.fresh_until):
        raise NameTaken(f"name {name!r} is taken by {child.url}; choose another, or stop that one first")
    return child


def place_of(message: Registration, children: Mapping[str, Child]) -> str:
    """Under what name a child stands: its own, or for a further instance of a replicated node NAME~2, and so on."""
    name, url = message.node or message.worker_name, message.worker_name.rstrip("/")
    if not (message.node and message.replica):
        return name
    for child in children.values():
        if child.group == name and (child.instance == message.instance or child.url == url):
            return child.name
    first = children.get(name)
    if first is None or not first.group:
        return name
    return next(place for place in (f"{name}~{number}" for number in count(2)) if place not in children)


def _same_place(url: str, other: str) -> bool:
    """Do two URLs lead to one socket, as far as their spelling tells?"""
    return _place(url) == _place(other)


def _place(url: str) -> tuple[str | None, int]:
    parts = urlsplit(url)
    host = "localhost" if parts.hostname in ("127.0.0.1", "::1") else parts.hostname
    return host, parts.port or (443 if parts.scheme == "https" else 80)


def merge(child: Child, status: NodeStatus) -> NodeStatus:
    """FastChat's multi-model workers share one address and each registers only its own models: keep the others.

    What the worker then answers to /worker_get_status replaces this.
    """
    named = {model.key for model in status.models}
    others = tuple(model for model in child.status.models if model.key not in named)
    return NodeStatus(others + status.models, status.speed, status.queue_length)
