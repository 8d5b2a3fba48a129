"""Requests that the node answers itself, at once, without a task: reports come by the thousand a second."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

import msgspec

from hierarchy.errors import TooManyMessages
from hierarchy.gossip import Board
from hierarchy.registry import Registry
from hierarchy.registry.child import Child
from hierarchy.registry.prepared import Prepared, prepare
from hierarchy.runtime.slices import Slices
from hierarchy.security.registration_policy import RegistrationPolicy
from hierarchy.wire.large import decode_steps
from hierarchy.wire.messages import HeartBeat, decode
from hierarchy.wire.record import Record

#: From a request's body, its x-hierarchy-auth and the IP address it came from, to the JSON of its response. Raises
#: RequestError; must not block.
Handler = Callable[[bytes, bytes, str], bytes]

#: The same, for a large body: others have their turns while it is read.
LongHandler = Callable[[bytearray, bytes, str], Awaitable[bytes]]

EXISTS, UNKNOWN = b'{"exist": true}', b'{"exist": false}'


def report_handler(registry: Registry, policy: RegistrationPolicy, board: Board) -> Handler:
    """Answers reports of nodes and heartbeats of workers: `POST /receive_heart_beat`."""
    rate = policy.rate

    def receive_heart_beat(body: bytes, secret: bytes, peer: str) -> bytes:
        message = decode(body, HeartBeat, registry.limits.message_values)
        child = registry.sender(message)
        if child is None or not child.is_node or not policy.in_force:
            return _checked(registry, policy, board, message, child, secret, peer)
        if not policy.secret_matches(child.secret, secret):
            return UNKNOWN
        name = child.group or child.name
        try:
            rate.check(name)
        except TooManyMessages:
            _note_alive(registry, child)
            raise
        with rate.spending(name):
            return _checked(registry, policy, board, message, child, secret, peer)

    return receive_heart_beat


def _checked(
    registry: Registry,
    policy: RegistrationPolicy,
    board: Board,
    message: HeartBeat,
    child: Child | None,
    secret: bytes,
    peer: str,
) -> bytes:
    if child is not None and not policy.may_report(message, child.secret, secret, peer):
        return UNKNOWN
    return _received(registry, board, message, child, None)


def long_report_handler(registry: Registry, policy: RegistrationPolicy, board: Board, slices: Slices) -> LongHandler:
    """Answers large reports: decoded, checked and merged in slices, and then applied at once."""
    rate = policy.rate

    async def receive_heart_beat(body: bytearray, secret: bytes, peer: str) -> bytes:
        sender = _sender(registry, policy, secret)
        name = "" if sender is None else sender.group or sender.name
        spending = partial(rate.spending, name)
        try:
            await rate.wait(name)
        except TooManyMessages:
            if sender is not None:
                _note_alive(registry, sender)
            raise
        message, below = await slices.run(decode_steps(body, HeartBeat, registry.limits), spending)
        child = registry.sender(message)
        if child is not None and not policy.may_report(message, child.secret, secret, peer):
            return UNKNOWN
        ready = None
        if child is not None:
            listing = registry.index.listing_of(child)
            steps = prepare(message, child, registry.max_speed, registry.limits, below, listing)
            ready = await slices.run(steps, spending)
            child = registry.sender(message)  # it may have left meanwhile
        with rate.spending(name):
            return _received(registry, board, message, child, ready)

    return receive_heart_beat


def _sender(registry: Registry, policy: RegistrationPolicy, secret: bytes) -> Child | None:
    """The node whose secret this is; None where nobody needs one."""
    if not policy.in_force:
        return None
    return next((child for child in registry.directory.with_secret(secret) if child.is_node), None)


def _note_alive(registry: Registry, child: Child) -> None:
    """This node has no time for what the child reports, but the child is there."""
    if child.last_seen is not None:
        child.last_seen = registry.now()


def _received(
    registry: Registry, board: Board, message: HeartBeat, child: Child | None, ready: Prepared | None
) -> bytes:
    if not registry.heart_beat(message, ready):
        return UNKNOWN
    if child is None or not child.is_node:
        return EXISTS
    if message.shared:
        _receive(board, child, message.shared)
    if child.told == board.revision and child.prefix_key == registry.prefix_key:
        return EXISTS
    return _with_news(registry, board, child)


def _receive(board: Board, child: Child, records: list[Record]) -> None:
    had_all = child.told == board.revision
    board.receive(records, _shared_names(board, child), child.name)
    if had_all:  # it does not need back what it sent
        child.told = board.revision


def _with_news(registry: Registry, board: Board, child: Child) -> bytes:
    """The response to a report, with the records and the key for fingerprints that the child does not have yet."""
    news: dict[str, object] = {"exist": True}
    if child.told != board.revision:
        records, child.told = board.news(child.told, _shared_names(board, child))
        if records:
            news["shared"] = records
    if child.prefix_key != registry.prefix_key:
        child.prefix_key = news["prefix_key"] = registry.prefix_key
    return msgspec.json.encode(news) if len(news) > 1 else EXISTS


def _shared_names(board: Board, child: Child) -> tuple[str, ...]:
    """Whose records go to and come from a child: those of this node's and of the child's own instances."""
    return (board.node, child.group) if child.group and child.group != board.node else (board.node,)


def pong(body: bytes, secret: bytes, peer: str) -> bytes:
    """Answers the parent's pings of idle links."""
    return b"{}"
