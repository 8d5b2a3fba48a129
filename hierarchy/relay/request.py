"""A request as it came in, and what may still be spent on it."""

from __future__ import annotations

from typing import Final, Protocol

from hierarchy.balancing.dispatch import Dispatch
from hierarchy.balancing.lent_attempts import MAX_ATTEMPTS
from hierarchy.errors import BodyTooLarge, ModelNotAllowed
from hierarchy.http.body_scan import BodyScan, Found
from hierarchy.http.model_field import (
    further_models,
    last_salt,
    plain_model,
    plain_prompt,
    prompt_in,
    salt_changes,
    scan_for,
    with_model,
)
from hierarchy.http.promise import asks_for_stream
from hierarchy.http.prompt import Prompt
from hierarchy.http.request_head import PREFIX, RETRIED, UNSPENT, RequestHead
from hierarchy.http.splice import moved, spliced
from hierarchy.labels import Requirement
from hierarchy.prefix.fingerprint import Fingerprint
from hierarchy.registry.child import Child
from hierarchy.relay.client import FOREVER
from hierarchy.relay.fingerprints import Fingerprints, likely_model
from hierarchy.relay.held_bytes import HeldBytes
from hierarchy.runtime.steps import Steps
from hierarchy.security.caller import Caller
from hierarchy.wire.status import Api

SALTED: Final = ("chat", "completion", "response")  # forms of answers on the paths that take `cache_salt`
COPIED_AT_ONCE: Final = 1024 * 1024  # bytes
MIN_PART: Final = 64 * 1024  # bytes: smaller pieces of a body are joined, since each object costs 40 bytes more

_PREFIX_LINE: Final = b"\r\n%b: " % PREFIX


class Parent(Protocol):
    """The parent that sent a request."""

    open: int  # how many of its requests have a lease here


class Request:
    """One request: its head, its body as far as it has come, and its allowance of attempts."""

    # What most requests never change has its default here, instead of being set for each.
    complete: bool = False  # the whole body has come
    size: int = 0  # bytes of body that have come
    model: str = ""  # its name after aliases; "" until the body is complete, unless the parent sent it
    wants_stream: bool = False  # the client of this node gets the answer as the events of a stream, if there is one
    alias: str = ""  # the name in the client's request, if it is an alias
    ends_at: float = FOREVER  # by the limit on the whole request
    left: int = MAX_ATTEMPTS  # attempts that may still be spent here or lent to a child
    retried: int = 0  # attempts after a failed one, here and below
    others: bool = False  # the parent said that others than this node could take it
    insists: bool = False  # no other child is left, so those that gave it back have to take it
    reports_outcome: bool = False  # the parent reads in a trailer how the response ended
    prefix: Fingerprint | None = None  # what the prompt begins with, if that is known
    prefix_field: bytes = b""  # the same, for a child; b"" if it was not needed yet
    has_retry_place: bool = False  # one of its attempts is counted in the retry budget
    _counted: int = 0  # bytes of it in `held`

    def __init__(self, head: RequestHead, now: float, held: HeldBytes) -> None:
        self.head = head
        self._held = held
        self.api: Api = head.dialect.api
        self.started_at = now
        self.require: Requirement | None = head.require  # labels that the child must have, here and below
        self.parent: Parent | None = None  # that sent it, if it is one that this node registered with
        self.tried: tuple[Child, ...] = ()  # children that failed on it
        self.passed: tuple[Child, ...] = ()  # those, and children that it left because others could take it
        #: the body in pieces, `size` bytes together: a long prompt is not copied where nothing reads it
        self.parts: list[bytes] = []
        self._small: bytearray | None = None  # behind `parts`: pieces that are too small for objects of their own
        self._scan: BodyScan | None = None  # reads the body as it comes
        self._found: Found | None = None  # in the body, once it was read

    def trust(self, parent: Parent) -> None:
        """It came from a parent: believe what its head says, rather than read the body again.

        Raises:
            BadRequest: what it says cannot be read.
        """
        self.parent = parent
        self.model = self.head.model
        self.left = self.head.attempts
        self.others = self.head.others == 1
        self.reports_outcome = self.head.others >= 0
        above, self.require = self.head.required_above, None
        if above is not None:
            if above.error is not None:
                raise above.error
            self.require = above.require

    def failed_at(self, child: Child) -> None:
        """Do not send it to this child again."""
        self.tried += (child,)
        self.passed += (child,)

    def leave(self, child: Child) -> None:
        """It left this child; it may come back if no other one takes it."""
        self.passed += (child,)

    def insist(self) -> bool:
        """Go back to the children that it left, if there are any: no other one is left."""
        if len(self.passed) == len(self.tried):
            return False
        self.passed, self.insists = self.tried, True
        return True

    def forget_children(self) -> None:
        """Begin again with all children: they may have restarted since."""
        self.tried = self.passed = ()
        self.insists = False

    def lines_for_parent(self, *, gives_back: bool) -> bytes:
        """Lines beside a response that tell the parent how many attempts were made, and that some come back."""
        lines = b""
        if self.retried:
            lines = b"%b: %d\r\n" % (RETRIED, self.retried)
        if gives_back:
            lines += b"%b: %d\r\n" % (UNSPENT, self.left)
        return lines

    # -- body ----------------------------------------------------------------------------------------------------

    def add(self, data: bytes, limit: int) -> None:
        """More of the body. limit: bytes.

        Raises:
            BodyTooLarge: it is over the limit.
            MemoryFull, TooMuchInFlight: the bodies of all requests together are.
        """
        size = len(data)
        self.size += size
        if self.size > limit:
            raise BodyTooLarge(f"the body is larger than {limit} bytes, the limit of this node")
        self._count(size)
        if self._scan is not None:
            self._scan.feed(data)
        small = self._small
        if small is None:
            if size >= MIN_PART:
                self.parts.append(data)
                return
            small = self._small = bytearray()
        small += data
        if len(small) >= MIN_PART:
            self._end_part()

    def _end_part(self) -> None:
        if self._small is not None:
            self.parts.append(bytes(self._small))
            self._small = None

    def end_body(self) -> None:
        """The last byte of the body has come."""
        self.complete = True
        self._end_part()

    def read_as_it_comes(self) -> None:
        """Look for the model in each piece when it comes: at once, a large body would keep all others waiting."""
        self._scan = scan_for(self.head.boundary)

    def set_body(self, body: bytes) -> None:
        """All of the body, which is within the limit for one. Raises as `add`."""
        self.complete = True
        self.size = len(body)
        self._count(self.size)
        self.parts.append(body)

    def _count(self, size: int) -> None:
        self._held.take(self.key, size)
        self._counted += size

    @property
    def key(self) -> str:
        """The name of the API key that pays for what it holds; "" for none: a parent has counted it already."""
        return self.head.caller.name if self.parent is None else ""

    def body(self) -> bytes:
        """The body in one piece."""
        if len(self.parts) != 1:
            self.parts = [b"".join(self.parts)]
        return self.parts[0]

    def joined_steps(self) -> Steps[bytearray]:
        """The body in one piece, copied in steps: 32 MB of new memory takes 20 ms or more. `body` is empty then."""
        parts, self.parts = self.parts, []
        whole, at, step_ends = bytearray(self.size), 0, COPIED_AT_ONCE
        for part in parts:
            whole[at : at + len(part)] = part
            at += len(part)
            if at >= step_ends:
                step_ends = at + COPIED_AT_ONCE
                yield
        return whole

    def forget_body(self) -> None:
        """It is not needed any more: no other attempt will follow."""
        self.parts = []
        self._small = None
        self._scan = self._found = None
        counted, self._counted = self._counted, 0
        if counted:
            self._held.give_back(self.key, counted)

    def asks_for_stream(self) -> bool:
        """Does the client expect a stream in a form that has a place for comments?"""
        if self._found is not None and self.head.dialect.streams_if == "stream":
            return self._found.streams
        return asks_for_stream(self.body(), self.head.dialect)

    # -- model ---------------------------------------------------------------------------------------------------

    def read_model(self, dispatch: Dispatch, fingerprints: Fingerprints) -> None:
        """Find the model in the body, resolve an alias, and check the client's key; take the prompt's fingerprint.

        Raises:
            BadRequest: the body names no model, or cannot be read.
            ModelNotAllowed: the key is not for this model.
        """
        caller, streams = self.head.caller, False
        prompt: Prompt | None = None
        if self._scan is None and caller.models is None and not self.head.boundary:
            if self._may_match(dispatch, fingerprints):
                self.model, streams, prompt = plain_prompt(self.body())
            else:
                self.model, streams = plain_model(self.body())
        if not self.model:
            found = self.find_model()
            self.model, streams = found.model, found.streams
            if dispatch.prefixes is not None and self.head.dialect.has_prompt and not self.head.boundary:
                prompt = prompt_in(self.parts, found)
        requested = self.model
        self.wants_stream = streams and self.head.dialect.answer_form is not None
        if caller.models is not None and self.parent is None:
            self._check_further(caller)
        if not fingerprints.shares and self.parent is None and self.head.dialect.answer_form in SALTED:
            self._isolate(caller, fingerprints)
        if requested in dispatch.aliased:
            self.alias = requested
            self.resolve_alias(dispatch, fingerprints)
        if caller.models is not None and self.parent is None:
            self._check_allowed(caller, requested)
        if prompt is None:
            return
        if dispatch.compares((self.model, self.api)):
            fingerprints.usual = self.head
            self.prefix = fingerprints.take(prompt, self.model, self.head)
        elif fingerprints.usual is self.head:
            fingerprints.usual = None

    def _isolate(self, caller: Caller, fingerprints: Fingerprints) -> None:
        """Let the engine keep what it has in its cache of this caller's prompts apart from all others."""
        found = self.find_model()
        salt = fingerprints.cache_salt(caller.name, last_salt(self.parts, found))
        changes = salt_changes(found, salt)
        self.parts = spliced(self.parts, changes)
        self.size = sum(map(len, self.parts))
        self._found = Found(found.model, moved(found.start, changes), moved(found.end, changes), [], found.streams)

    def _may_match(self, dispatch: Dispatch, fingerprints: Fingerprints) -> bool:
        """May the choice of a child depend on the prompt? If its model has one child only, most likely not."""
        if dispatch.prefixes is None or not self.head.dialect.has_prompt:
            return False
        if fingerprints.usual is self.head:
            return True
        model = likely_model(self.body())
        return not model or model in dispatch.aliased or dispatch.compares((model, self.api))

    def known_prefix(self, fingerprints: Fingerprints) -> Fingerprint | None:
        """What the prompt begins with, as the parent said or as was found in the body; None if it is not known."""
        if self.prefix is None and self.prefix_field:
            self.prefix = fingerprints.read(self.prefix_field)
            if self.prefix is None:
                self.prefix_field = b""
        return self.prefix

    def prefix_line(self, fingerprints: Fingerprints) -> bytes:
        """The line that tells a node below what the prompt begins with; b"" for none."""
        prefix = self.known_prefix(fingerprints)
        if prefix is None:
            return b""
        return _PREFIX_LINE + (self.prefix_field or fingerprints.write(prefix))

    def find_model(self) -> Found:
        """Where the body names its model. Raises `BadRequest`: in no place, or readers could find another one."""
        if self._found is None:
            scan, self._scan = self._scan, None
            if scan is None:
                scan = scan_for(self.head.boundary)
                scan.feed(self.body())
            self._found = scan.finish()
        return self._found

    def parts_with(self, model: str) -> list[bytes]:
        """The body in pieces, with another name for its model. Raises as `find_model`."""
        return with_model(self.parts, self.find_model(), model, is_form=bool(self.head.boundary))

    def resolve_alias(self, dispatch: Dispatch, fingerprints: Fingerprints) -> None:
        """Replace the alias by one of its models, here and in the body; the nodes below do not know the alias."""
        before = self.find_model()
        self.model = dispatch.resolve(self.alias, self.api, translated=self.head.translated, require=self.require)
        if self.prefix is not None and self.model != before.model:
            self.prefix = fingerprints.take(prompt_in(self.parts, before), self.model, self.head)
        self.parts = self.parts_with(self.model)
        size = sum(map(len, self.parts))
        self._found = before.renamed(self.model, size - self.size)
        self.size = size

    def _check_allowed(self, caller: Caller, requested: str) -> None:
        """Raise `ModelNotAllowed` unless the key is for the requested name or for the model that it stands for."""
        if not (caller.may_use(requested) or caller.may_use(self.model)):
            raise ModelNotAllowed(
                f"this API key is not for model {requested[:100]!r}; GET /v1/models lists those that it is for"
            )

    def _check_further(self, caller: Caller) -> None:
        """Raise `ModelNotAllowed` if the body names a further model that the key is not for."""
        found = self.find_model()
        if not found.further:
            return
        for field, name in further_models(self.body(), found, is_form=bool(self.head.boundary)):
            if not caller.may_use(name):
                what = f"names model {name[:100]!r}" if name else "may name further models"
                raise ModelNotAllowed(
                    f"the field {field[:100]!r} {what}, and this API key is for some models only; leave the field out"
                )
