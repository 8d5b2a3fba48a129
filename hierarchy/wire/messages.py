"""The messages between a child and its parent, and what makes one acceptable.

A registration or report is FastChat's own object with our fields beside it (docs/reference/protocol.md). Unknown
fields are ignored, so that releases can differ within one tree. Everything here came over a network: `decode` checks
types, `Registration.check` and `HeartBeat.check` check values, and both raise `InvalidField` naming the field.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit

import msgspec

from hierarchy.errors import BadRequest, InvalidField
from hierarchy.names import MAX_NAME, is_node_name, is_printable_name
from hierarchy.wire import subtree
from hierarchy.wire.status import MAX_QUEUE, ModelStatus, NodeStatus

Names = tuple[str, str, str, str, list[str]]
LinkWish = Literal["direct", "reverse", "auto"]


class Identity(msgspec.Struct, frozen=True):
    """Who a node is: its name, the URL it advertises, the random id of this process; dispatch: its policy.

    replica: others may have the same name, and stand before the same children.
    """

    name: str
    url: str
    instance: str
    version: str = ""
    dispatch: str = ""
    replica: bool = False


class WorkerStatus(msgspec.Struct, frozen=True):
    """FastChat's `worker_status`: totals over all the worker's models."""

    model_names: list[str]
    speed: float = 1.0
    queue_length: int = 0


class NodeFields(msgspec.Struct, frozen=True, kw_only=True):
    """What our nodes send beside FastChat's fields, in registrations and reports alike.

    node: the sender's name. instance: random id of its process. version: of its release. seq: number of this
    message, so that late ones are dropped. seen: the highest x-hierarchy-seq it has received from this parent.
    path: instances of all nodes below, itself included (loops). models: status per model. children: its subtree for
    `/tree`, whole in a registration and an RFC 7396 merge patch in a report. dispatch: the name of its policy, so that
    whoever is asked why can say how it chooses. draining: it finishes what it has and takes nothing new; it then lists
    no models, so that parents that do not know this field send it nothing either.
    """

    node: str = ""
    instance: str = ""
    version: str = ""
    dispatch: str = ""
    seq: int = 0
    seen: int = 0
    path: list[str] = []
    models: list[ModelStatus] | None = None
    children: dict[str, Any] | None = None
    interval_s: float = 1.0
    draining: bool = False

    @property
    def names(self) -> Names:
        """What hardly ever changes from one report to the next."""
        return self.node, self.instance, self.version, self.dispatch, self.path


class Registration(NodeFields, frozen=True, kw_only=True):
    """`POST /register_worker`. `worker_name` is the URL at which the parent reaches the child.

    link: who shall dial; `auto` leaves it to the parent, which says in `Accepted` what it chose.
    replica: it is one of several instances under its name, whose capacity counts once.
    """

    worker_name: str
    check_heart_beat: bool
    worker_status: WorkerStatus | None = None
    multimodal: bool = False
    secret: str = ""
    link: LinkWish = "direct"
    replica: bool = False

    def check(self, max_speed: float) -> NodeStatus | None:
        """Check every value; return the status it declares, or None where FastChat's `worker_status` is null.

        Raises:
            InvalidField: the first field whose value is not allowed.
        """
        check_url("worker_name", self.worker_name)
        _check_node_fields(self)
        # It goes into the heads of requests as it is: a line break in it would forge the rest of the head.
        if len(self.secret) > MAX_NAME or not (self.secret.isascii() and self.secret.isprintable()):
            raise InvalidField("secret", f"must be at most {MAX_NAME} printable ASCII characters")
        if self.worker_status is None:
            return None
        worker = self.worker_status
        return check_status(
            "worker_status.", worker.model_names, worker.speed, worker.queue_length, self.models, max_speed
        )


class HeartBeat(NodeFields, frozen=True, kw_only=True):
    """`POST /receive_heart_beat`. From a FastChat worker only the first two fields."""

    worker_name: str
    queue_length: int
    speed: float | None = None

    def check(self, max_speed: float, known: Names | None = None) -> NodeStatus | None:
        """Check every value; return the whole status if it carries one (a node's report), else None.

        known: names that were checked before, and need not be again.
        """
        _check_node_fields(self, known)
        _check_queue("queue_length", self.queue_length)
        if self.models is None:
            return None
        if self.speed is None:
            raise InvalidField("speed", "is missing, but `models` is there; send both")
        return check_status("", (), self.speed, self.queue_length, self.models, max_speed)


class Deregistration(msgspec.Struct, frozen=True):
    """`POST /deregister_worker` (ours): the child is going. `instance` guards against a late one.

    node: its name, since those behind reverse links may have one URL.
    """

    worker_name: str
    instance: str = ""
    node: str = ""


class Revocation(msgspec.Struct, frozen=True):
    """`POST /admin/revoke` (ours): nothing that was issued to the child `node` holds any more."""

    node: str


class ModelRequest(msgspec.Struct, frozen=True):
    """`POST /get_worker_address`."""

    model: str


class Accepted(msgspec.Struct, frozen=True):
    """Our answer to one of our nodes that registered (a FastChat worker gets `null`).

    interval_s: how often the child shall report; longer than it proposed when the parent is busy. link: who dials.
    links_per_s: how fast the child may fill its reserve of links. wanted: requests that wait for a link now.
    credential: what the child shall show from now on; "" for what it showed this time.
    """

    node: str = ""
    instance: str = ""
    version: str = ""
    interval_s: float = 1.0
    link: Literal["direct", "reverse"] = "direct"
    links_per_s: float = 0.0
    wanted: int = 0
    credential: str = ""


M = TypeVar("M")


def decode(body: bytes, kind: type[M]) -> M:
    """Decode one message.

    Raises:
        BadRequest: not JSON at all.
        InvalidField: a missing key or a wrong type, by its name.
    """
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        pass  # again, in the slow way that can tell where: msgspec stops at a NaN without naming its field
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
        raise InvalidField(*_field_of(str(error))) from None
    except UnicodeEncodeError:
        raise InvalidField("body", "holds one half of a surrogate pair, which is no text") from None


def check_url(field: str, url: str) -> None:
    """Raise `InvalidField` unless `url` is http(s) with a host and, if any, a valid port and a path.

    With a query or fragment, the paths that we append would not be part of the path: any URL could be called.
    """
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good or len(url) > 2048 or not url.isascii() or not url.isprintable() or set(url) & set(" ?#@\\"):
        raise InvalidField(field, f"{url[:100]!r} is no URL of the form http://host:port")


def _field_of(message: str) -> tuple[str, str]:
    """msgspec's "Expected `int`, got `str` - at `$.queue_length`" as (field, reason)."""
    reason, _, where = message.partition(" - at ")
    field = where.strip("`").removeprefix("$").removeprefix(".")
    missing = re.search(r"missing required field `(\w+)`", reason)
    if missing:
        return f"{field}.{missing[1]}" if field else missing[1], "is missing"
    return field or "body", reason[0].lower() + reason[1:]


def _check_node_fields(message: NodeFields, known: Names | None = None) -> None:
    if known is None or message.names != known:
        _check_names(message)
    for field, count in (("seq", message.seq), ("seen", message.seen)):
        if not 0 <= count < 2**63:
            raise InvalidField(field, "must lie between 0 and 2**63")
    if not (math.isfinite(message.interval_s) and 0 < message.interval_s <= 3600):
        raise InvalidField("interval_s", "must lie between 0 and 3600 seconds")
    reason = subtree.rejection_reason(message.children)
    if reason:
        raise InvalidField("children", reason)


def _check_names(message: NodeFields) -> None:
    if message.node and not is_node_name(message.node):
        allowed = f"1 to {MAX_NAME} letters, digits, '.', '_' and '-', the first a letter or digit"
        raise InvalidField("node", f"{message.node[:40]!r} is not the name of a node: {allowed}")
    for field, name in (
        ("node", message.node),
        ("instance", message.instance),
        ("version", message.version),
        ("dispatch", message.dispatch),
    ):
        if name and not is_printable_name(name):
            raise _no_name(field, name)
    for number, hop in enumerate(message.path):
        if not is_printable_name(hop):
            raise _no_name(f"path[{number}]", hop)


def _no_name(field: str, name: str) -> InvalidField:
    return InvalidField(field, f"{name[:40]!r} is no name: 1 to {MAX_NAME} printable characters")


def check_status(
    where: str,
    names: Iterable[str],
    speed: float,
    queue_length: int,
    models: list[ModelStatus] | None,
    max_speed: float,
) -> NodeStatus:
    """Check the values of a status; `where` stands before the names of its fields. Raises `InvalidField`."""
    names = list(names)
    for number, name in enumerate(names):
        if not is_printable_name(name):
            raise _no_name(f"{where}model_names[{number}]", name)
    _check_speed(f"{where}speed", speed, max_speed, zero=not (names or models))
    _check_queue(f"{where}queue_length", queue_length)
    if models is None:  # a FastChat worker: one GPU, one queue, whatever the model
        models = [ModelStatus(name, "fastchat", speed, queue_length) for name in dict.fromkeys(names)]
    seen = set()
    for number, model in enumerate(models):
        if not _is_good(model, max_speed):
            _check_model(f"models[{number}]", model, max_speed)
        key = model.name, model.api
        if key in seen:
            raise InvalidField(f"models[{number}]", f"{model.name!r} is listed twice for api {model.api!r}")
        seen.add(key)
    return NodeStatus(tuple(models), speed, queue_length)


def _is_good(model: ModelStatus, max_speed: float) -> bool:
    """As `_check_model`, at once: a node hears a thousand of these a second."""
    return (
        is_printable_name(model.name)
        and 0 < model.speed <= max_speed
        and 0 <= model.queue_length <= MAX_QUEUE
        and 0 <= model.slots <= MAX_QUEUE
    )


def _check_model(field: str, model: ModelStatus, max_speed: float) -> None:
    if not is_printable_name(model.name):
        raise _no_name(f"{field}.name", model.name)
    _check_speed(f"{field}.speed", model.speed, max_speed)
    _check_queue(f"{field}.queue_length", model.queue_length)
    _check_queue(f"{field}.slots", model.slots)


def _check_speed(field: str, speed: float, max_speed: float, *, zero: bool = False) -> None:
    if 0 < speed <= max_speed or (zero and speed == 0):  # NaN is in neither
        return
    raise InvalidField(field, f"{speed} is not allowed: it must be above 0 and at most {max_speed:g}")


def _check_queue(field: str, queue_length: int) -> None:
    if not 0 <= queue_length <= MAX_QUEUE:
        raise InvalidField(field, f"must lie between 0 and {MAX_QUEUE}")
