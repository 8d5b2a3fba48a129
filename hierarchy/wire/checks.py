"""Checks of values that came over a network. Each function raises `InvalidField`, which names the field, or returns.

Types were checked before, when the message was decoded. `field` is the name in the message, such as `models[0].speed`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from urllib.parse import urlsplit

from hierarchy.errors import InvalidField
from hierarchy.names import MAX_NAME, is_node_name, is_printable_name
from hierarchy.runtime.steps import Steps, at_once
from hierarchy.wire.limits import DEFAULT, MODEL_BYTES, NAMED, ChildLimits, text_bytes
from hierarchy.wire.status import MAX_QUEUE, MAX_RATE, ModelKey, ModelStatus, NodeStatus
from hierarchy.wire.subtree import rejection_reason

MAX_URL = 2048  # characters
MAX_INTERVAL_S = 3600.0
AT_ONCE = 500  # models that are checked in one step
MAX_LOAD_S = 3600.0  # for a model to be loaded
MAX_WARNINGS, MAX_WARNING = 16, 1000  # lines, and characters of each
_SHOWN = 40  # characters of a refused value, in the error


def check_url(field: str, url: str) -> None:
    """An http or https URL with a host and, if it has them, a valid port and a path.

    A query or fragment is refused: the paths that this node appends would become part of it, so a child could make
    this node request any URL.
    """
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good or len(url) > MAX_URL or not url.isascii() or not url.isprintable() or set(url) & set(" ?#@\\"):
        raise InvalidField(field, f"{url[:100]!r} is not a URL of the form http://host:port")


def check_name(field: str, name: str) -> None:
    """1 to `MAX_NAME` printable characters."""
    if not is_printable_name(name):
        raise InvalidField(field, f"{name[:_SHOWN]!r} is not a name: use 1 to {MAX_NAME} printable characters")


def check_node_name(field: str, name: str) -> None:
    """A name that the configuration allows for a node; a FastChat worker's URL never is."""
    if not is_node_name(name):
        rule = f"use at most {MAX_NAME} letters, digits, '.', '_' and '-', and begin with a letter or a digit"
        raise InvalidField(field, f"{name[:_SHOWN]!r} is not a node's name: {rule}")


def check_secret(field: str, secret: str) -> None:
    """At most `MAX_NAME` characters, as `check_printable`."""
    check_printable(field, secret, MAX_NAME)


def check_printable(field: str, text: str, limit: int) -> None:
    """Printable ASCII: it is sent in the heads of requests, where a line break would forge the rest of the head."""
    if len(text) > limit or not (text.isascii() and text.isprintable()):
        raise InvalidField(field, f"must be at most {limit} printable ASCII characters")


def check_sequence(field: str, number: int) -> None:
    """A sequence number."""
    if not 0 <= number < 2**63:
        raise InvalidField(field, "must be between 0 and 2**63")


def check_interval(field: str, seconds: float) -> None:
    """A time between two reports."""
    if not (math.isfinite(seconds) and 0 < seconds <= MAX_INTERVAL_S):
        raise InvalidField(field, f"must be above 0 and at most {MAX_INTERVAL_S:g} seconds")


def check_count(field: str, count: int) -> None:
    """A number of requests."""
    if not 0 <= count <= MAX_QUEUE:
        raise InvalidField(field, f"must be between 0 and {MAX_QUEUE}")


def check_speed(field: str, speed: float, max_speed: float, *, zero: bool = False) -> None:
    """A capacity weight. zero: it may be 0, of a child that serves no model."""
    if not (0 < speed <= max_speed or (zero and speed == 0)):  # NaN fails both comparisons
        raise InvalidField(field, f"{speed} is not allowed: it must be above 0 and at most {max_speed:g}")


def check_load_time(field: str, seconds: float) -> None:
    """How long a model takes to be loaded."""
    if not 0 <= seconds <= MAX_LOAD_S:  # NaN fails both comparisons
        raise InvalidField(field, f"{seconds} is not allowed: it must be between 0 and {MAX_LOAD_S:g} seconds")


def check_rate(field: str, rate: float) -> None:
    """Tokens a second."""
    if not 0 <= rate <= MAX_RATE:  # NaN fails both comparisons
        raise InvalidField(field, f"must be between 0 and {MAX_RATE:g}")


def check_subtree(field: str, subtree: object) -> None:
    """JSON that this node can keep and send on."""
    if reason := rejection_reason(subtree):
        raise InvalidField(field, reason)


def check_warnings(field: str, warnings: Sequence[str]) -> None:
    """A few lines for operators."""
    if len(warnings) > MAX_WARNINGS or any(len(text) > MAX_WARNING for text in warnings):
        raise InvalidField(field, f"has more than {MAX_WARNINGS} lines or {MAX_WARNING} characters in one")


def check_path(path: Sequence[str], limits: ChildLimits) -> None:
    """The instances below a node, itself included."""
    if len(path) > limits.instances or text_bytes(path) > limits.path_bytes:
        reason = f"has {len(path)} instances; it may have {limits.instances}, of {limits.path_bytes} bytes in all"
        raise InvalidField("path", f"{reason}; the limit grows with `max_body_bytes`")
    for number, instance in enumerate(path):
        check_name(f"path[{number}]", instance)


def model_names_steps(field: str, names: Sequence[str], limits: ChildLimits) -> Steps[None]:
    """Check the names of a child's models, in steps."""
    _check_size(field, len(names), text_bytes(names), limits)
    for begin in range(0, len(names), AT_ONCE):
        for number, name in enumerate(names[begin : begin + AT_ONCE], begin):
            if not is_printable_name(name):
                check_name(f"{field}[{number}]", name)
        yield


def _check_size(field: str, count: int, name_bytes: int, limits: ChildLimits) -> None:
    """This node's own report repeats all models, and its parent must be able to accept it."""
    if NAMED * name_bytes + MODEL_BYTES * count > limits.model_bytes:
        reason = f"lists {count} models, more than fit into {limits.model_bytes} bytes of this node's own report"
        raise InvalidField(field, f"{reason}; the limit grows with `max_body_bytes`")


def models_steps(field: str, models: Sequence[ModelStatus], max_speed: float, limits: ChildLimits) -> Steps[None]:
    """Check the status of each model, in steps; no pair of model and API family twice."""
    _check_size(field, len(models), text_bytes([model.name for model in models]), limits)
    seen = set[ModelKey]()
    for begin in range(0, len(models), AT_ONCE):
        for number, model in enumerate(models[begin : begin + AT_ONCE], begin):
            key = model.name, model.api
            # A node checks thousands of models a second, so what is wrong is looked for only where something is.
            if not (
                is_printable_name(model.name)
                and 0 < model.speed <= max_speed
                and 0 <= model.queue_length <= MAX_QUEUE
                and 0 <= model.slots <= MAX_QUEUE
                and 0.0 <= model.load_s <= MAX_LOAD_S
                and 0.0 <= model.prefill <= MAX_RATE
                and 0.0 <= model.decode <= MAX_RATE
            ):
                _refuse(f"{field}[{number}]", model, max_speed)
            if key in seen:
                raise InvalidField(f"{field}[{number}]", f"{model.name!r} is listed twice for api {model.api!r}")
            seen.add(key)
        yield


def _refuse(field: str, model: ModelStatus, max_speed: float) -> None:
    """Raise `InvalidField` for the value that is not allowed."""
    check_name(f"{field}.name", model.name)
    check_speed(f"{field}.speed", model.speed, max_speed)
    check_count(f"{field}.queue_length", model.queue_length)
    check_count(f"{field}.slots", model.slots)
    check_load_time(f"{field}.load_s", model.load_s)
    check_rate(f"{field}.prefill", model.prefill)
    check_rate(f"{field}.decode", model.decode)


def check_status(status: NodeStatus, max_speed: float, prefix: str = "", limits: ChildLimits = DEFAULT) -> None:
    """A child's whole status. prefix: is put before the names of the totals' fields."""
    at_once(status_steps(status, max_speed, prefix, limits))


def status_steps(status: NodeStatus, max_speed: float, prefix: str = "", limits: ChildLimits = DEFAULT) -> Steps[None]:
    """`check_status` in steps."""
    check_speed(f"{prefix}speed", status.speed, max_speed, zero=not status.models)
    check_count(f"{prefix}queue_length", status.queue_length)
    yield from models_steps("models", status.models, max_speed, limits)
