"""Requests that the node answers itself, at once, without a task: reports come by the thousand a second."""

from __future__ import annotations

from collections.abc import Callable

from hierarchy.registry import Registry
from hierarchy.security.registration_policy import RegistrationPolicy
from hierarchy.wire.messages import HeartBeat, decode

#: From a request's body, its x-hierarchy-auth and the IP address it came from, to the JSON of its response. Raises
#: RequestError; must not block.
Handler = Callable[[bytes, bytes, str], bytes]

EXISTS, UNKNOWN = b'{"exist": true}', b'{"exist": false}'


def report_handler(registry: Registry, policy: RegistrationPolicy) -> Handler:
    """Answers reports of nodes and heartbeats of workers: `POST /receive_heart_beat`."""

    def receive_heart_beat(body: bytes, secret: bytes, peer: str) -> bytes:
        message = decode(body, HeartBeat)
        child = registry.sender(message)
        if child is not None and not policy.may_report(message, child.secret, secret, peer):
            return UNKNOWN
        return EXISTS if registry.heart_beat(message) else UNKNOWN

    return receive_heart_beat


def pong(body: bytes, secret: bytes, peer: str) -> bytes:
    """Answers the parent's pings of idle links."""
    return b"{}"
