"""What the adapters share: asking an engine, and taking apart what came back.

Engines are other people's programs: everything here either gives a checked value or raises `EngineUnreadable`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any, NamedTuple, Protocol

import httpx
import msgspec
from prometheus_client.parser import text_string_to_metric_families

from hierarchy.errors import EngineUnreadable
from hierarchy.names import is_printable_name
from hierarchy.wire.status import MAX_QUEUE, Api, ModelStatus, NodeStatus

MAX_ANSWER_BYTES = 8 * 1024 * 1024  # a vLLM with many histograms sends some 100 kB


class Adapter(Protocol):
    """How to read one kind of engine."""

    @property
    def kind(self) -> str:
        """Its name in the configuration."""

    async def read(self, http: httpx.AsyncClient, url: str, speed: float) -> NodeStatus:
        """Ask the engine at `url` for its models and load; `speed` is its declared capacity weight.

        An engine without models has speed 0. Where it does not tell its models' queues apart, each has the whole
        queue: they wait for the same GPU.

        Raises:
            EngineUnreadable: it answered, but not as its kind does, or said that it is not ready.
            httpx.HTTPError: it did not answer.
        """


class Answer(NamedTuple):
    url: str
    status: int
    body: bytes

    def ok(self) -> Answer:
        """Itself, if the status is 200; else `EngineUnreadable` with what the engine said."""
        if self.status == HTTPStatus.OK:
            return self
        said = " ".join(self.body[:200].decode(errors="replace").split())
        raise EngineUnreadable(f"{self.url} answered {self.status}" + (f": {said}" if said else ""))

    def json(self) -> Any:
        try:
            return msgspec.json.decode(self.body)
        except (msgspec.DecodeError, RecursionError) as error:
            raise EngineUnreadable(f"{self.url} did not send JSON: {error}") from None

    def samples(self, *names: str) -> list[Sample]:
        """The samples of these Prometheus metrics; none if the engine has no metrics, or this is no such text.

        Only the lines wanted are parsed: whole, a vLLM's page would hold up the event loop for many milliseconds.
        """
        if self.status != HTTPStatus.OK:
            return []
        wanted = tuple(f"{name}{end}" for name in names for end in "{ \t")
        lines = [line for line in self.body.decode(errors="replace").splitlines() if line.startswith(wanted)]
        try:
            families = list(text_string_to_metric_families("\n".join(lines) + "\n"))
        except (ValueError, IndexError, KeyError) as error:
            raise EngineUnreadable(f"{self.url} is no Prometheus text: {error}") from None
        return [
            Sample(sample.name, sample.labels, min(math.ceil(sample.value), MAX_QUEUE))
            for family in families
            for sample in family.samples
            if math.isfinite(sample.value) and sample.value >= 0
        ]


class Sample(NamedTuple):
    name: str
    labels: dict[str, str]
    value: int


async def get(http: httpx.AsyncClient, url: str, path: str) -> Answer:
    return await _ask(http, "GET", url, path)


async def post(http: httpx.AsyncClient, url: str, path: str) -> Answer:
    return await _ask(http, "POST", url, path)


async def _ask(http: httpx.AsyncClient, method: str, url: str, path: str) -> Answer:
    where = url.rstrip("/") + path
    body = bytearray()
    async with http.stream(method, where) as response:
        async for piece in response.aiter_bytes():
            body += piece
            if len(body) > MAX_ANSWER_BYTES:
                raise EngineUnreadable(f"{where} sent more than {MAX_ANSWER_BYTES} bytes")
        return Answer(where, response.status_code, bytes(body))


async def openai_models(http: httpx.AsyncClient, url: str) -> list[str]:
    """The model ids of `GET /v1/models`, in the engine's order; entries without a usable id are left out."""
    answer = (await get(http, url, "/v1/models")).ok()
    payload = answer.json()
    entries = payload.get("data") if isinstance(payload, dict) else None
    if not isinstance(entries, list):
        raise EngineUnreadable(f'{answer.url} is no model list: it has no array "data"')
    if any(isinstance(entry, dict) and "served_by" in entry for entry in entries):
        # Taken for an engine, a node could be given its own answers back, and a request would go round for ever.
        raise EngineUnreadable(f"{url} is a node, not an engine: start it with --parent, or with `parent` in the YAML")
    return model_names(entry.get("id") for entry in entries if isinstance(entry, dict))


def model_names(names: Iterable[object]) -> list[str]:
    """Those that can name a model, each once."""
    usable = (name for name in names if isinstance(name, str) and is_printable_name(name))
    return list(dict.fromkeys(usable))


def engine_status(
    names: Iterable[str],
    speed: float,
    queue_length: int,
    *,
    queues: dict[str, int] | None = None,
    slots: int = 0,
    apis: tuple[Api, ...] = ("openai",),
) -> NodeStatus:
    """One engine's status: all its models share its speed and slots, and its queue unless `queues` counts theirs."""
    queues = queues or {}
    models = tuple(
        ModelStatus(name, api, speed, queues.get(name, queue_length), slots) for name in names for api in apis
    )
    return NodeStatus(models, speed if models else 0.0, queue_length)


def serve_as(status: NodeStatus, models: Mapping[str, str]) -> tuple[NodeStatus, list[str]]:
    """An engine's status with only the models that `models` names, under the names that it gives them.

    Returns it with the engine's names that it does not list. No `models`: the status as it is.
    """
    if not models:
        return status, []
    served = tuple(
        msgspec.structs.replace(model, name=name)
        for name, own in models.items()
        for model in status.models
        if model.name == own
    )
    missing = sorted(set(models.values()) - set(status.model_names))
    return NodeStatus(served, status.speed if served else 0.0, status.queue_length), missing
