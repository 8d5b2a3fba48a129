"""What the adapters share: the interface, requests to an engine, and checks of its responses.

Engines are other programs: each function here returns a checked value or raises `EngineUnreadable`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any, NamedTuple, Protocol

import httpx
import msgspec
from prometheus_client.parser import text_string_to_metric_families

from hierarchy.errors import EngineUnreadable, NotJson
from hierarchy.names import is_printable_name
from hierarchy.runtime import safe_json
from hierarchy.runtime.fetch import ResponseRefused, fetch
from hierarchy.wire.status import MAX_QUEUE, Api, ModelStatus, NodeStatus


class Adapter(Protocol):
    """Reads the models and load of one kind of engine."""

    @property
    def kind(self) -> str:
        """The kind's name in the configuration."""

    async def read(self, http: httpx.AsyncClient, url: str, speed: float) -> NodeStatus:
        """Read the models and load of the engine at `url`.

        An engine without models has speed 0. If it does not report a queue for each model, each has the whole queue,
        since all wait for the same GPU.

        Args:
            speed: the engine's capacity relative to others, from the configuration.

        Raises:
            EngineUnreadable: the response is not from an engine of this kind, or the engine is not ready.
            httpx.HTTPError: the engine did not respond.
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

        Only the lines of these metrics are parsed: all of a vLLM's would block the event loop for many milliseconds.

        Raises:
            EngineUnreadable: one of these lines is malformed.
        """
        if self.status != HTTPStatus.OK:
            return []
        prefixes = tuple(f"{name}{end}" for name in names for end in "{ \t")
        lines = [line for line in self.body.decode(errors="replace").splitlines() if line.startswith(prefixes)]
        try:
            families = list(text_string_to_metric_families("\n".join(lines) + "\n"))
        except (ValueError, IndexError, KeyError) as error:
            raise EngineUnreadable(f"{self.url} did not send Prometheus text: {error}") from None
        return [
            Sample(sample.name, sample.labels, min(math.ceil(sample.value), MAX_QUEUE))
            for family in families
            for sample in family.samples
            if math.isfinite(sample.value) and sample.value >= 0
        ]


async def get(http: httpx.AsyncClient, url: str, path: str) -> EngineResponse:
    """GET `path` of the engine at `url`. Raises `EngineUnreadable` if the response is too large or compressed."""
    return await _send(http, "GET", url, path)


async def post(http: httpx.AsyncClient, url: str, path: str) -> EngineResponse:
    """POST without a body to `path` of the engine at `url`. Raises as `get`."""
    return await _send(http, "POST", url, path)


async def _send(http: httpx.AsyncClient, method: str, url: str, path: str) -> EngineResponse:
    target = url.rstrip("/") + path
    try:
        response = await fetch(http, method, target, timeout_s=math.inf)  # a prober has its own limits
    except ResponseRefused as error:
        raise EngineUnreadable(f"{target}: {error}") from None
    return EngineResponse(target, response.status, response.body)


async def openai_model_names(http: httpx.AsyncClient, url: str) -> list[str]:
    """The model ids of `GET /v1/models`, in the engine's order; entries without a usable id are left out.

    Raises:
        EngineUnreadable: there is no model list, or it is from a node.
    """
    response = (await get(http, url, "/v1/models")).require_ok()
    page = response.json()
    entries = page.get("data") if isinstance(page, dict) else None
    if not isinstance(entries, list):
        raise EngineUnreadable(f'{response.url} is not a model list: it has no array "data"')
    if any(isinstance(entry, dict) and "served_by" in entry for entry in entries):
        # A node as an engine could list this node's own models, and requests would loop between the two.
        raise EngineUnreadable(f"{url} is a node, not an engine: start it with --parent, or with `parent` in the YAML")
    return usable_model_names(entry.get("id") for entry in entries if isinstance(entry, dict))


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
    apis: tuple[Api, ...] = ("openai",),
) -> NodeStatus:
    """The status of an engine. Each of its models has the speed and slots of the engine.

    Args:
        names: its models.
        queue_length: requests running plus waiting in the whole engine.
        queues: the same by model; models that are not in it have the whole queue.
        slots: requests that can run at the same time; 0 if unknown.
        apis: API families of each model.
    """
    queue_length = min(queue_length, MAX_QUEUE)
    queues = queues or {}
    models = tuple(
        ModelStatus(name, api, speed, min(queues.get(name, queue_length), MAX_QUEUE), slots)
        for name in names
        for api in apis
    )
    return NodeStatus(models, speed if models else 0.0, queue_length)


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
    selected = msgspec.structs.replace(status, models=served, speed=status.speed if served else 0.0)
    return selected, missing
