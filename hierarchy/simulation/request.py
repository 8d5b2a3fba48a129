"""A request on its way through the tree, and what a client asks for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

from hierarchy.prefix.fingerprint import Fingerprint
from hierarchy.registry.child import Child, Lease
from hierarchy.simulation.prompt import Prompt
from hierarchy.wire.status import ModelKey


class Turn(NamedTuple):
    """One request of a conversation."""

    after_s: float  #: seconds after the response before it, or after the beginning of the conversation
    prompt: Prompt
    output_tokens: int
    continued: Prompt  #: the prompt and its response, as the next prompt begins; the prompt where that is not known


class Conversation(NamedTuple):
    """Requests, of which each follows the response to the one before it."""

    begins_at: float  #: seconds
    session: int  #: what its first request and all others have in common; 0 where that is not known
    turns: Iterator[Turn]


class Target(Protocol):
    """A node or an engine that gets requests."""

    dead: bool


class Opened(Protocol):
    """An uplink, as far as it counts its parent's requests."""

    open: int


class Sender(Protocol):
    """The node that sent a request to a child."""

    dead: bool

    def first_byte(self, hop: Hop) -> None:
        """The response begins."""

    def ended(self, hop: Hop) -> None:
        """The response is over, or the request failed."""

    def failed(self, request: Request, *, reached: bool) -> None:
        """The last hop of the request leads to nothing. reached: the child had it."""

    def again(self, request: Request) -> None:
        """The child of the last hop has no place for the request: try another one."""


class Hop:
    """One step of a request: what a node holds for it.

    uplink: to the parent that sent it to that node; None for a client. delay_s: of a message to the child.
    """

    __slots__ = ("began_at", "chunks", "delay_s", "lease", "node", "sent_at", "target", "uplink")

    def __init__(self, node: Sender, lease: Lease, uplink: Opened | None, target: Target, delay_s: float) -> None:
        self.node = node
        self.lease = lease
        self.uplink = uplink
        self.target = target
        self.delay_s = delay_s
        self.sent_at = 0.0  # when the node sent it
        self.began_at = 0.0  # when its response began there
        self.chunks = 0  # of the response, one for each token


class Request:
    """One request. Times in seconds."""

    __slots__ = (
        "began_at",
        "cached",
        "conversation",
        "delay_s",
        "engine",
        "fingerprint",
        "first_at",
        "hops",
        "key",
        "left",
        "passed",
        "queued_at",
        "turn",
        "waited_s",
        "work",
    )

    def __init__(self, conversation: Conversation, turn: Turn, key: ModelKey, now: float, attempts: int) -> None:
        self.conversation = conversation
        self.turn = turn
        self.key = key
        self.began_at = now
        self.left = attempts  # that may still be made
        self.hops: list[Hop] = []  # from the entry node down
        self.passed: list[Child] = []  # children that failed on it
        self.fingerprint: Fingerprint | None = None  # as the entry node takes it and sends it down
        self.engine = -1  # the number of the one that has it
        self.work: object = None  # what that engine does for it
        self.delay_s = 0.0  # of the messages from the entry node to the engine, one way
        self.queued_at = 0.0  # when the engine got it
        self.waited_s = 0.0  # for a slot
        self.first_at = 0.0  # when its first token left the engine; 0 before
        self.cached = 0  # tokens of its prompt that the engine had

    @property
    def prompt(self) -> Prompt:
        """What the engine reads."""
        return self.turn.prompt

    def __repr__(self) -> str:
        return f"<Request of {self.prompt.tokens} tokens at {self.began_at:.3f} s>"
