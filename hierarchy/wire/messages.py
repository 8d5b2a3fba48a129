"""The messages between a child and its parent.

A registration or report is FastChat's own object with further fields beside it (docs/reference/protocol.md). Unknown
fields are ignored, so that one tree can have nodes of different releases. Everything here came over a network:
`decode` checks types, and `Registration.check` and `HeartBeat.check` check values (see `checks`). All three raise
`InvalidField`, which names the field.
"""

from __future__ import annotations

import json
import re
from string import hexdigits
from typing import Any, Literal, TypeVar

import msgspec

from hierarchy.errors import BadRequest, BodyTooLarge, InvalidField
from hierarchy.runtime.steps import Steps, at_once
from hierarchy.wire.checks import (
    check_count,
    check_interval,
    check_name,
    check_node_name,
    check_path,
    check_secret,
    check_sequence,
    check_subtree,
    check_url,
    check_warnings,
    model_names_steps,
    status_steps,
)
from hierarchy.wire.limits import DEFAULT, SMALL, ChildLimits, values_in
from hierarchy.wire.offer import Offer, check_offers
from hierarchy.wire.record import Record
from hierarchy.wire.status import ModelStatus, NodeStatus

Names = tuple[str, str, str, str, str, list[str]]  #: node, instance, version, build, dispatch, path
Link = Literal["direct", "reverse"]
RequestedLink = Literal["direct", "reverse", "auto"]
MAX_PREFIX_KEY = 128  # characters


class Identity(msgspec.Struct, frozen=True):
    """Who a node is."""

    name: str
    #: the URL at which other nodes reach it
    url: str
    #: random id of this process
    instance: str
    version: str = ""
    #: name of its dispatch policy
    dispatch: str = ""
    #: it is one of several nodes with this name and the same children
    replica: bool = False
    #: id of its program's sources, see `release.build`
    build: str = ""


class WorkerStatus(msgspec.Struct, frozen=True):
    """FastChat's `worker_status`: totals over all models of the worker."""

    model_names: list[str]
    #: capacity weight
    speed: float = 1.0
    #: requests running plus waiting
    queue_length: int = 0


class NodeFields(msgspec.Struct, frozen=True, kw_only=True):
    """The fields that nodes send beside FastChat's, in registrations and reports. FastChat's workers send none."""

    #: the sender's name
    node: str = ""
    #: random id of the sender's process
    instance: str = ""
    #: of the sender's release
    version: str = ""
    #: id of the sender's sources; "" from a release that does not send it
    build: str = ""
    #: name of the sender's dispatch policy, for `hierarchy why`
    dispatch: str = ""
    #: number of this message, so that one that arrives late is dropped
    seq: int = 0
    #: the highest x-hierarchy-seq that the sender has received from this parent
    seen: int = 0
    #: instances of the sender and of all nodes below it, to detect loops
    path: list[str] = []
    #: status of each model; None from a FastChat worker
    models: list[ModelStatus] | None = None
    #: subtree for `/tree`: in a registration all of it, in a report an RFC 7396 merge patch
    children: dict[str, Any] | None = None
    #: proposed time between two reports, in seconds
    interval_s: float = 1.0
    #: it accepts no new requests; it then lists no models, so that parents that do not know this field send none
    draining: bool = False
    #: it may not know all models below it yet: it has just started, or a child of it has not named its models
    incomplete: bool = False
    #: what is wrong with the sender, for `/tree` and `check --live`
    warnings: list[str] = []
    #: which labels can be required of the engines below it; in a registration None: the sender says nothing, in a
    #: report: the same as before
    labels: list[Offer] | None = None

    @property
    def names(self) -> Names:
        """The fields that hardly ever change from one report to the next."""
        return self.node, self.instance, self.version, self.build, self.dispatch, self.path

    def check_node_fields(self, limits: ChildLimits, checked: Names | None = None, *, below: bool = True) -> None:
        """Raise `InvalidField` for the first value that is not allowed.

        checked: names that were checked before. below: check `children`, too.
        """
        if self.names != checked:
            self._check_names(limits)
        check_sequence("seq", self.seq)
        check_sequence("seen", self.seen)
        check_interval("interval_s", self.interval_s)
        if below:
            check_subtree("children", self.children)
        if self.warnings:
            check_warnings("warnings", self.warnings)
        if self.labels:
            check_offers("labels", self.labels, limits)

    def _check_names(self, limits: ChildLimits) -> None:
        check_path(self.path, limits)
        if self.node:
            check_node_name("node", self.node)
        for field in ("instance", "version", "build", "dispatch"):
            if name := getattr(self, field):
                check_name(field, name)


class Registration(NodeFields, frozen=True, kw_only=True):
    """`POST /register_worker`."""

    #: the URL at which the parent reaches the child
    worker_name: str
    #: whether the parent drops the child after a time without a heartbeat
    check_heart_beat: bool
    #: None: the parent requests it from the worker
    worker_status: WorkerStatus | None = None
    #: a FastChat worker accepts images
    multimodal: bool = False
    #: the parent shows it in each request, so that the child believes its x-hierarchy-* fields
    secret: str = ""
    #: random and known to the sender's process and its parents only, the same for all of them: with it the process may
    #: show its join token to each instance of its parent
    process: str = ""
    #: who dials; `auto` leaves it to the parent, which returns its choice in `Accepted`
    link: RequestedLink = "direct"
    #: it is one of several nodes with this name and the same children, whose capacity counts once
    replica: bool = False
    #: it reads `x-hierarchy-prefix`
    reads_prefix: bool = False

    def check(self, max_speed: float, limits: ChildLimits = DEFAULT, *, below: bool = True) -> NodeStatus | None:
        """Check every value; return the declared status, or None if FastChat's `worker_status` is null.

        below: check `children`, too, which `large.decode_steps` has checked already.

        Raises:
            InvalidField: the first field whose value is not allowed.
        """
        self.check_fields(limits, below=below)
        return at_once(self.status_steps(max_speed, limits))

    def check_fields(self, limits: ChildLimits, *, below: bool = True) -> None:
        """All but the status."""
        check_url("worker_name", self.worker_name)
        self.check_node_fields(limits, below=below)
        check_secret("secret", self.secret)
        check_secret("process", self.process)

    def status_steps(self, max_speed: float, limits: ChildLimits) -> Steps[NodeStatus | None]:
        """Check the status in steps, and return it."""
        if self.worker_status is None:
            return None
        yield from model_names_steps("worker_status.model_names", self.worker_status.model_names, limits)
        status = self._status(self.worker_status)
        yield from status_steps(status, max_speed, "worker_status.", limits)
        return status

    def _status(self, worker: WorkerStatus) -> NodeStatus:
        models = self.models
        if models is None:  # a FastChat worker: one GPU and one queue for all its models
            names = dict.fromkeys(worker.model_names)
            models = [ModelStatus(name, "fastchat", worker.speed, worker.queue_length) for name in names]
        return NodeStatus(tuple(models), worker.speed, worker.queue_length)


class HeartBeat(NodeFields, frozen=True, kw_only=True):
    """`POST /receive_heart_beat`: a node's report, or the heartbeat of a FastChat worker."""

    #: as in the registration
    worker_name: str
    #: requests running plus waiting
    queue_length: int
    #: capacity weight; None from a FastChat worker
    speed: float | None = None
    #: records for other instances of the parent, and of the sender
    shared: list[Record] = []

    def check(
        self, max_speed: float, limits: ChildLimits = DEFAULT, checked: Names | None = None, *, below: bool = True
    ) -> NodeStatus | None:
        """Check every value; return the status of a node's report, or None for a FastChat worker's heartbeat.

        checked: names that were checked before, and need not be again. below: as in a registration.

        Raises:
            InvalidField: the first field whose value is not allowed.
        """
        self.check_fields(limits, checked, below=below)
        return at_once(self.status_steps(max_speed, limits))

    def check_fields(self, limits: ChildLimits, checked: Names | None = None, *, below: bool = True) -> None:
        """All but the status."""
        self.check_node_fields(limits, checked, below=below)
        check_count("queue_length", self.queue_length)

    def status_steps(self, max_speed: float, limits: ChildLimits) -> Steps[NodeStatus | None]:
        """Check the status in steps, and return it."""
        if self.models is None:
            return None
        if self.speed is None:
            raise InvalidField("speed", "is missing, but `models` is there; send both")
        status = NodeStatus(tuple(self.models), self.speed, self.queue_length)
        yield from status_steps(status, max_speed, limits=limits)
        return status


class Deregistration(msgspec.Struct, frozen=True):
    """`POST /deregister_worker`, not in FastChat: the child leaves."""

    worker_name: str
    #: random id of the child's process, so that a message that arrives late does no harm to the next process
    instance: str = ""
    #: the child's name, since several children behind reverse links may have one URL
    node: str = ""


class Revocation(msgspec.Struct, frozen=True):
    """`POST /admin/revoke`, not in FastChat: all credentials of the child `node` become void."""

    node: str


class ModelRequest(msgspec.Struct, frozen=True):
    """`POST /get_worker_address`."""

    model: str


class Accepted(msgspec.Struct, frozen=True):
    """The response to a node's registration (a FastChat worker gets `null`)."""

    #: the parent's name
    node: str = ""
    #: random id of the parent's process
    instance: str = ""
    #: of the parent's release
    version: str = ""
    #: seconds between two reports; longer than proposed when the parent is busy
    interval_s: float = 1.0
    #: who dials
    link: Link = "direct"
    #: how many reverse links the child may open each second
    links_per_s: float = 0.0
    #: requests that wait for a reverse link now
    wanted: int = 0
    #: what the child shows from now on; "": what it showed this time
    credential: str = ""
    #: with which the fingerprints of prompts are taken in this tree, in hexadecimal; "": with the fixed one; None: the
    #: parent's release takes none
    prefix_key: str | None = None


def is_prefix_key(value: object) -> bool:
    """Is it a key for the fingerprints of prompts?"""
    return isinstance(value, str) and len(value) <= MAX_PREFIX_KEY and all(one in hexdigits for one in value)


M = TypeVar("M")


def decode(body: bytes | bytearray, kind: type[M], max_values: int = DEFAULT.message_values) -> M:
    """Decode one message. max_values: of JSON, each of which takes far more memory than bytes of the body.

    Raises:
        BodyTooLarge: it has more values.
        BadRequest: not JSON at all.
        InvalidField: a missing key or a wrong type, with the field's name.
    """
    if len(body) > SMALL and values_in(body) > max_values:
        raise BodyTooLarge(f"the body has more than {max_values} values, the limit of this node")
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        pass  # decoded again, slowly, to find the field: msgspec does not name the one that is NaN
    try:
        data = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"the body is not JSON: {error}") from None
    return convert(data, kind)


def convert(data: Any, kind: type[M]) -> M:
    """Like `decode`, from an object that is already decoded. Raises `InvalidField`."""
    try:
        return msgspec.convert(data, kind)
    except msgspec.ValidationError as error:
        raise invalid_field(error) from None
    except (OverflowError, RecursionError):
        raise InvalidField("body", "contains a number that is too large, or values that are nested too deep") from None
    except UnicodeEncodeError:
        raise InvalidField("body", "contains half of a surrogate pair, which is not text") from None


def invalid_field(error: msgspec.ValidationError) -> InvalidField:
    """The error of a field with a wrong type."""
    return InvalidField(*_field_and_reason(str(error)))


def _field_and_reason(message: str) -> tuple[str, str]:
    """msgspec's "Expected `int`, got `str` - at `$.queue_length`" as (field, reason)."""
    reason, _, where = message.partition(" - at ")
    field = where.strip("`").removeprefix("$").removeprefix(".")
    missing = re.search(r"missing required field `(\w+)`", reason)
    if missing:
        return f"{field}.{missing[1]}" if field else missing[1], "is missing"
    return field or "body", reason[0].lower() + reason[1:]
