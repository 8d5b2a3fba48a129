"""What the adapters share: the interface, requests to an engine, and checks of its responses.

Engines are other programs: each function here returns a checked value or raises `EngineUnreadable`.
"""

from __future__ import annotations

import functools
import itertools
import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from http import HTTPStatus
from typing import Any, NamedTuple, Protocol

import msgspec
from prometheus_client.parser import text_string_to_metric_families

from hierarchy.errors import EngineUnreadable, NotJson
from hierarchy.names import is_printable_name
from hierarchy.runtime import safe_json
from hierarchy.wire.status import MAX_QUEUE, USUAL_LOAD_S, Api, ModelStatus, NodeStatus

MAX_LINES = 128 * 1024  # bytes of the metrics that are read: vLLM with 400 data-parallel ranks
MAX_CACHED = 2048  # bytes of such lines whose meaning is kept
MAX_COUNTS = 2048  # lines of one counter
_COUNT = re.compile(rb"[^{\s]+(?:\{(.*)\})?[ \t]+([0-9][0-9.]*(?:[eE][+-]?[0-9]+)?)\s").match
_MODEL = re.compile(rb'(?:^|,)\s*model_name="((?:[^"\\]|\\.)*)"').search
_ESCAPE = re.compile(r"\\(.)", re.DOTALL).sub


class EngineHttp(Protocol):
    """Sends requests to one engine."""

    @property
    def url(self) -> str:
        """The engine's, without a slash at the end."""

    async def ask(self, method: str, path: str) -> EngineResponse:
        """Send a request without a body, and read its response.

        Raises:
            EngineUnreadable: the response is not HTTP, too large, or compressed.
            OSError: there is no connection, or it broke.
        """


class Adapter(Protocol):
    """Reads the models and load of one kind of engine."""

    @property
    def kind(self) -> str:
        """The kind's name in the configuration."""

    async def read(self, http: EngineHttp, speed: float) -> NodeStatus:
        """Read the engine's models and load.

        An engine without models has speed 0. If it does not report a queue for each model, each has the whole queue,
        since all wait for the same GPU.

        Args:
            speed: the engine's capacity relative to others, from the configuration.

        Raises:
            EngineUnreadable: the response is not from an engine of this kind, or the engine is not ready.
            OSError: the engine did not respond.
        """


class Sample(NamedTuple):
    """One value of a Prometheus metric."""

    name: str
    labels: dict[str, str]
    value: int  # rounded up, 0 to MAX_QUEUE


class EngineResponse(NamedTuple):
    """An engine's complete response."""

    url: str  # of the request
    status: int
    body: bytes

    def require_ok(self) -> EngineResponse:
        """This response if its status is 200. Raises `EngineUnreadable` with the beginning of its body otherwise."""
        if self.status == HTTPStatus.OK:
            return self
        text = " ".join(self.body[:200].decode(errors="replace").split())
        raise EngineUnreadable(f"{self.url} answered {self.status}" + (f": {text}" if text else ""))

    def json(self) -> Any:
        """The decoded body. Raises `EngineUnreadable` if it is not JSON."""
        try:
            return safe_json.decode(self.body)
        except NotJson as error:
            raise EngineUnreadable(f"{self.url} did not send JSON: {error}") from None

    def samples(self, *names: str) -> list[Sample]:
        """The samples of some Prometheus metrics; none if the engine has no metrics. Negative and infinite values are
        left out.

        Only the lines of these metrics are parsed: all of a vLLM's would block the event loop for many milliseconds,
        and even to split its 40 kB into lines takes longer than everything else in a probe.

        Raises:
            EngineUnreadable: one of these lines is malformed, or they are too many.
        """
        if self.status != HTTPStatus.OK:
            return []
        body = b"\n" + self.body
        text = b"".join(line for name in names for line in _lines_of(name.encode(), body))
        if len(text) > MAX_LINES:
            raise EngineUnreadable(f"{self.url} has more than {MAX_LINES} bytes of {names[0]} and the like")
        try:
            return list(_parse_again(text) if len(text) <= MAX_CACHED else _parse(text))
        except (ValueError, IndexError, KeyError) as error:
            raise EngineUnreadable(f"{self.url} did not send Prometheus text: {error}") from None

    def counts(self, name: str) -> dict[str, float]:
        """The values of a Prometheus metric by `model_name` ("" without one), those of all ranks and sources added.

        Not as `samples` reads it: counters differ each time, so what was parsed before is of no use.
        """
        found: dict[str, float] = {}
        if self.status == HTTPStatus.OK:
            for line in itertools.islice(_lines_of(name.encode(), b"\n" + self.body), MAX_COUNTS):
                match = _COUNT(line)
                if match is not None and math.isfinite(value := float(match[2])):
                    model = _model_of(match[1] or b"")
                    found[model] = found.get(model, 0.0) + value
        return found

    def has_metric(self, name: str) -> bool:
        """Does the engine know a metric? It may have no value of it yet."""
        return self.status == HTTPStatus.OK and b"# TYPE %b " % name.encode() in self.body


def _model_of(labels: bytes) -> str:
    match = _MODEL(labels)
    return "" if match is None else _ESCAPE(_unescaped, match[1].decode(errors="replace"))


def _unescaped(match: re.Match[str]) -> str:
    return "\n" if match[1] == "n" else match[1]


def _lines_of(metric: bytes, body: bytes) -> Iterator[bytes]:
    """The lines of a metric in Prometheus's text format, each with its end. body: begins with a line's end."""
    searched = b"\n" + metric  # with the end of the line before it, which is found three times faster
    at = body.find(searched)
    while at >= 0:
        after = at + len(searched)
        end = body.find(b"\n", after)
        end = len(body) if end < 0 else end
        if body[after : after + 1] in (b"{", b" ", b"\t"):
            yield body[at + 1 : end] + b"\n"
        at = body.find(searched, end)


def _parse(text: bytes) -> tuple[Sample, ...]:
    """The samples of some lines; negative and infinite ones are left out."""
    return tuple(
        Sample(sample.name, sample.labels, min(math.ceil(sample.value), MAX_QUEUE))
        for family in text_string_to_metric_families(text.decode(errors="replace"))
        for sample in family.samples
        if math.isfinite(sample.value) and sample.value >= 0
    )


_parse_again = functools.lru_cache(maxsize=1024)(_parse)  # engines that have nothing to do send the same again


async def get(http: EngineHttp, path: str) -> EngineResponse:
    """GET a path. Raises as `EngineHttp.ask`."""
    return await http.ask("GET", path)


async def post(http: EngineHttp, path: str) -> EngineResponse:
    """POST to a path, without a body. Raises as `EngineHttp.ask`."""
    return await http.ask("POST", path)


async def openai_model_names(http: EngineHttp) -> list[str]:
    """The model ids of `GET /v1/models`, in the engine's order; entries without a usable id are left out.

    Raises:
        EngineUnreadable: there is no model list, or it is from a node.
    """
    return usable_model_names(entry.get("id") for entry in await openai_models(http))


async def openai_models(http: EngineHttp) -> list[dict[str, Any]]:
    """The entries of `GET /v1/models`. Raises as `openai_model_names`."""
    response = (await get(http, "/v1/models")).require_ok()
    page = response.json()
    entries = page.get("data") if isinstance(page, dict) else None
    if not isinstance(entries, list):
        raise EngineUnreadable(f'{response.url} is not a model list: it has no array "data"')
    if any(isinstance(entry, dict) and "served_by" in entry for entry in entries):
        # A node as an engine could list this node's own models, and requests would loop between the two.
        hint = "start it with --parent, or with `parent` in the YAML"
        raise EngineUnreadable(f"{http.url} is a node, not an engine: {hint}")
    return [entry for entry in entries if isinstance(entry, dict)]


def usable_model_names(names: Iterable[object]) -> list[str]:
    """The values that can be names of models, without duplicates."""
    usable = (name for name in names if isinstance(name, str) and is_printable_name(name))
    return list(dict.fromkeys(usable))


def status_of_engine(
    names: Iterable[str],
    speed: float,
    queue_length: int,
    *,
    queues: Mapping[str, int] | None = None,
    slots: int = 0,
    cold: Collection[str] = (),
    waiting: int = -1,
    apis: tuple[Api, ...] = ("openai",),
) -> NodeStatus:
    """The status of an engine. Each of its models has the speed and slots of the engine.

    Args:
        names: its models.
        queue_length: requests running plus waiting in the whole engine.
        queues: the same by model; models that are not in it have the whole queue.
        slots: requests that can run at the same time; 0 if unknown.
        waiting: requests of `queue_length` that do not run yet; -1 if unknown.
        cold: models that the engine loads when a request comes; how long that takes is measured elsewhere.
        apis: API families of each model.
    """
    queue_length = min(queue_length, MAX_QUEUE)
    queues = queues or {}
    models = tuple(
        ModelStatus(
            name,
            api,
            speed,
            min(queues.get(name, queue_length), MAX_QUEUE),
            slots,
            load_s=USUAL_LOAD_S if name in cold else 0.0,
        )
        for name in names
        for api in apis
    )
    return NodeStatus(models, speed if models else 0.0, queue_length, waiting=min(waiting, queue_length))


def load_of(samples: Iterable[Sample], *waiting: str) -> tuple[int, int]:
    """All requests, and those of the metrics `waiting`, which is -1 if there are no samples of them."""
    queue_length, waits = 0, -1
    for sample in samples:
        queue_length += sample.value
        if sample.name in waiting:
            waits = max(waits, 0) + sample.value
    return queue_length, waits


def prompt_tokens(cached: Mapping[str, float], whole: Mapping[str, float]) -> dict[str, tuple[float, float]]:
    """`NodeStatus.prompt_tokens` of two counters by model. A model without a hit, or a prompt, may be missing there."""
    found = {model: (cached.get(model, 0.0), count) for model, count in whole.items()}
    found[""] = sum(cached.values(), 0.0), sum(whole.values(), 0.0)
    return found


def select_models(status: NodeStatus, models: Mapping[str, str]) -> tuple[NodeStatus, list[str]]:
    """Select and rename the models of an engine's status.

    Args:
        models: the name under which a model is served, to the engine's own name for it. Empty: all as they are.

    Returns:
        The status with the selected models, and the engine's names in `models` that it does not list.
    """
    if not models:
        return status, []
    served = tuple(
        msgspec.structs.replace(model, name=name)
        for name, own_name in models.items()
        for model in status.models
        if model.name == own_name
    )
    missing = sorted(set(models.values()) - set(status.model_names))
    tokens = status.prompt_tokens
    if tokens:
        renamed = {name: tokens[own_name] for name, own_name in models.items() if own_name in tokens}
        tokens = {**renamed, "": tokens[""]} if "" in tokens else renamed
    speed = status.speed if served else 0.0
    selected = msgspec.structs.replace(status, models=served, speed=speed, prompt_tokens=tokens)
    return selected, missing
