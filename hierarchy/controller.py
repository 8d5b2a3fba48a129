"""The Python API of FastChat's controller, with this package's registry and policies.

It is synchronous and needs no server; `hierarchy serve` offers the same over HTTP, without blocking. Methods have the
original names and arguments. Source: FastChat's `fastchat/serve/controller.py` and TinyChat's copy of it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from random import Random
from typing import Any

import httpx
import msgspec

from hierarchy.balancing.dispatch import Dispatch
from hierarchy.balancing.policy import POLICIES
from hierarchy.errors import (
    BadRequest,
    ChildFailed,
    DeadlinePassed,
    InvalidField,
    NotJson,
    RequestError,
    UnknownDispatchMethod,
    describe,
)
from hierarchy.registry import Registry
from hierarchy.registry.child import Child
from hierarchy.registry.public_name import said_of
from hierarchy.runtime.fetch import fetch_now
from hierarchy.wire.messages import HeartBeat, Identity, Registration, convert

STATUS_TIMEOUT_S = 5.0  # for a worker's status
STREAM_TIMEOUT_S = 100.0  # for each read of a worker's stream; FastChat's WORKER_API_TIMEOUT
log = logging.getLogger(__name__)


class DispatchMethod(Enum):
    """The policies; each value is the name on the command line."""

    LOTTERY = "lottery"
    SHORTEST_QUEUE = "shortest_queue"
    P2C = "p2c"
    ROUND_ROBIN = "round_robin"
    PREFIX = "prefix"

    @classmethod
    def from_str(cls, name: str) -> DispatchMethod:
        """The method of that name.

        Raises:
            UnknownDispatchMethod: a `ValueError`, as in FastChat; there is no such method.
        """
        try:
            return cls(name)
        except ValueError:
            known = ", ".join(POLICIES)
            raise UnknownDispatchMethod(f"unknown dispatch method {name!r}; choose one of {known}") from None


@dataclass(frozen=True)
class WorkerInfo:
    """A worker, in FastChat's fields."""

    model_names: list[str]
    speed: float  #: capacity relative to other workers
    queue_length: int  #: requests running or waiting
    check_heart_beat: bool  #: whether it expires when it falls silent
    last_heart_beat: str  #: local time, `2026-01-31 12:00:00`


class Controller:
    """Registers workers, and chooses one for each request.

    Args:
        dispatch_method: name of a policy.
        http: client for requests to workers; injected by tests, as are `clock` and `rng`.
        clock: monotonic seconds.
        rng: randomness of the policies.

    Raises:
        UnknownDispatchMethod: a `ValueError`; there is no such method.
    """

    def __init__(
        self,
        dispatch_method: str = "shortest_queue",
        *,
        http: httpx.Client | None = None,
        clock: Callable[[], float] = time.monotonic,
        rng: Random | None = None,
    ) -> None:
        self.dispatch_method = DispatchMethod.from_str(dispatch_method)
        self._http = http or httpx.Client(trust_env=False)  # workers are not behind a proxy to the internet
        self._clock = clock
        self._registry = Registry(Identity("controller", "", "controller"), clock)
        self._dispatch = Dispatch(self._registry, self.dispatch_method.value, rng or Random())

    @property
    def worker_info(self) -> dict[str, WorkerInfo]:
        """All workers by name, which is their URL."""
        return {child.name: self._info(child) for child in self._registry}

    def register_worker(
        self, worker_name: str, check_heart_beat: bool, worker_status: Mapping[str, Any] | None
    ) -> bool:
        """Register a worker. Returns False, and logs why, if it is refused.

        Args:
            worker_name: URL of the worker.
            check_heart_beat: whether the worker expires after 90 s without a heartbeat.
            worker_status: `{model_names, speed, queue_length}`; None to request it from the worker.
        """
        requested = worker_status is None
        if worker_status is None:
            worker_status = self.get_worker_status(worker_name) or None
            if worker_status is None:
                return False
        fields = {"worker_name": worker_name, "check_heart_beat": check_heart_beat, "worker_status": worker_status}
        try:
            message = convert(fields, Registration)
            child = self._registry.register(message)
            status = message.check(self._registry.max_speed)
            if requested and status is not None:  # this status is complete: the worker lost models that are not in it
                self._registry.report(child, status)
        except RequestError as error:
            log.warning("registration of %r refused: %s", worker_name, error)
            return False
        return True

    def get_worker_status(self, worker_name: str) -> dict[str, Any]:
        """A worker's `{model_names, speed, queue_length}`, requested from it; `{}` if it does not respond."""
        try:
            url = f"{worker_name.rstrip('/')}/worker_get_status"
            response = fetch_now(self._http, "POST", url, timeout_s=STATUS_TIMEOUT_S)
            status = response.json() if response.is_ok else None
        except (httpx.HTTPError, httpx.InvalidURL, UnicodeError, NotJson) as error:
            log.warning("no status from %r: %s", worker_name, describe(error))
            return {}
        if not response.is_ok:
            log.warning("no status from %r: it answered %d", worker_name, response.status)
        return status if isinstance(status, dict) else {}

    def remove_worker(self, worker_name: str) -> None:
        """Remove a worker, if it is registered."""
        child = self._registry.find(worker_name)
        if child is not None:
            self._registry.remove(child.name)

    def refresh_all_workers(self) -> None:
        """Request the status of every worker again, and remove those that do not respond.

        Meanwhile all workers stay registered.
        """
        for child in list(self._registry):
            if not self.register_worker(child.name, child.check_heart_beat, None):
                self._registry.remove(child.name)

    def list_models(self) -> list[str]:
        """Sorted names of all models that the workers serve."""
        return list(self._registry.model_names())

    def get_worker_address(self, model_name: str) -> str:
        """The URL of the worker for the next request to a model; "" if there is none."""
        try:
            return self._dispatch.hand_out(model_name).child.url
        except RequestError:
            return ""

    def receive_heart_beat(self, worker_name: str, queue_length: int) -> bool:
        """Record a worker's heartbeat. Returns False if the worker is not registered and must register again."""
        try:
            message = convert({"worker_name": worker_name, "queue_length": queue_length}, HeartBeat)
            return self._registry.heart_beat(message)
        except InvalidField as error:
            log.warning("heartbeat of %r refused: %s", worker_name, error)
            return self._registry.find(worker_name) is not None

    def remove_stable_workers_by_expiration(self) -> None:
        """Remove the workers that sent no heartbeat for 90 s. (The name is FastChat's.)"""
        for child in self._registry.sweep():
            log.info("worker %s expired", child.name)

    def worker_api_generate_stream(self, params: Mapping[str, Any]) -> Iterator[bytes]:
        """Send a generate request to a worker, and yield its frames, each `JSON\\0`. An error is a frame too."""
        model = params.get("model")
        try:
            if not isinstance(model, str):
                raise BadRequest("the request has no 'model'; name one of list_models()", param="model")
            lease = self._dispatch.lease((model, "fastchat"))
        except RequestError as error:
            yield _frame(error)
            return
        try:
            yield from self._frames(lease.share.child, params)
        finally:
            lease.release()

    def _frames(self, child: Child, params: Mapping[str, Any]) -> Iterator[bytes]:
        rest = b""
        try:
            with self._http.stream(
                "POST", f"{child.url}/worker_generate_stream", json=dict(params), timeout=STREAM_TIMEOUT_S
            ) as response:
                for data in response.iter_raw():
                    *frames, rest = (rest + data).split(b"\0")
                    yield from (frame + b"\0" for frame in frames if frame)
        except httpx.TimeoutException:
            yield _frame(DeadlinePassed(f"worker {said_of(child, 'did not answer in time')}"))
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            yield _frame(ChildFailed(f"worker {said_of(child, f'failed: {describe(error)}')}"))
        else:
            if rest:
                yield _frame(ChildFailed(f"worker {said_of(child, 'ended in the middle of a frame')}"))

    def worker_api_get_status(self) -> dict[str, Any]:
        """`{model_names, speed, queue_length}` of this controller as a worker: the sums over its workers."""
        return self._registry.status().fastchat()

    def _info(self, child: Child) -> WorkerInfo:
        status = child.current(self._clock())
        ago = self._clock() - (child.last_seen if child.last_seen is not None else self._clock())
        beat = datetime.fromtimestamp(time.time() - ago, UTC).astimezone()
        return WorkerInfo(
            status.model_names, status.speed, status.queue_length, child.check_heart_beat, f"{beat:%Y-%m-%d %H:%M:%S}"
        )


def _frame(error: RequestError) -> bytes:
    return msgspec.json.encode(error.fastchat()) + b"\0"
