"""The Python API of FastChat's controller: its example, unchanged, and every method."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime
from random import Random
from types import MappingProxyType
from typing import Any

import httpx
import pytest

from hierarchy import Controller, DispatchMethod, WorkerInfo
from hierarchy.balancing.policy import POLICIES
from hierarchy.engines.simulated.app import create_app
from hierarchy.engines.simulated.options import SimulatedOptions
from hierarchy.errors import UsageError
from tests.clocks import Clock
from tests.mock_transport import MockTransport
from tests.support import free_port, running_app

W1, W2 = "http://localhost:21002", "http://localhost:21003"
STATUS = {"model_names": ["m"], "speed": 1, "queue_length": 0}
Handler = Callable[[httpx.Request], httpx.Response]


def refuse_connection(request: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("connection refused")


class Setup:
    """A controller with the test's clock and workers."""

    def __init__(self, method: str = "shortest_queue", workers: Handler = refuse_connection) -> None:
        self.workers = workers
        self.requests: list[httpx.Request] = []
        self.clock = Clock()
        http = httpx.Client(transport=MockTransport(self.handle))
        self.controller = Controller(method, http=http, clock=self.clock, rng=Random(7))

    def handle(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        return self.workers(request)

    def stream(self, **params: Any) -> list[dict[str, Any]]:
        frames = list(self.controller.worker_api_generate_stream({"model": "m", "prompt": "hi", **params}))
        assert all(frame.endswith(b"\0") and frame.count(b"\0") == 1 for frame in frames)
        return [json.loads(frame[:-1]) for frame in frames]

    @property
    def queue_length(self) -> int:
        return int(self.controller.worker_api_get_status()["queue_length"])


def test_the_original_example_runs_unchanged() -> None:
    controller = Controller(dispatch_method="shortest_queue")
    worker_status = {"model_names": ["llava-v1.5-7b-4bit-AWQ"], "speed": 1, "queue_length": 0}
    controller.register_worker("http://localhost:21002", True, worker_status)
    assert controller.get_worker_address("llava-v1.5-7b-4bit-AWQ") == "http://localhost:21002"
    assert controller.list_models() == ["llava-v1.5-7b-4bit-AWQ"]


def test_methods_are_named_and_an_unknown_name_is_a_value_error() -> None:
    assert {method.value for method in DispatchMethod} == set(POLICIES)
    assert DispatchMethod.from_str("lottery") is DispatchMethod.LOTTERY
    assert DispatchMethod.from_str("shortest_queue") is DispatchMethod.SHORTEST_QUEUE
    for name in ("LOTTERY", "", "random"):
        for create in (DispatchMethod.from_str, Controller):
            with pytest.raises(ValueError, match="unknown dispatch method") as raised:
                create(name)
            assert isinstance(raised.value, UsageError)


def test_a_worker_is_shown_in_fastchats_fields() -> None:
    setup = Setup()
    assert setup.controller.register_worker(W1, True, STATUS)
    setup.clock.tick(30)
    info = setup.controller.worker_info[W1]
    assert isinstance(info, WorkerInfo)
    assert (info.model_names, info.speed, info.queue_length, info.check_heart_beat) == (["m"], 1.0, 0, True)
    beat = datetime.strptime(info.last_heart_beat, "%Y-%m-%d %H:%M:%S").timestamp()
    assert abs(time.time() - 30 - beat) < 5


@pytest.mark.parametrize("status", [STATUS, MappingProxyType(STATUS)])
def test_a_status_may_be_any_mapping(status: Any) -> None:
    assert Setup().controller.register_worker(W1, True, status)


@pytest.mark.parametrize(
    ("worker_name", "status"),
    [
        (W1, {**STATUS, "speed": 0}),
        (W1, {**STATUS, "queue_length": -1}),
        (W1, {"speed": 1, "queue_length": 0}),
        (W1, []),
        ("not a url", STATUS),
        (7, STATUS),
    ],
)
def test_a_bad_registration_returns_false_and_registers_nothing(
    worker_name: Any, status: Any, caplog: pytest.LogCaptureFixture
) -> None:
    controller = Setup().controller
    assert not controller.register_worker(worker_name, True, status)
    assert (controller.worker_info, controller.list_models()) == ({}, [])
    assert "refused" in caplog.text


def test_without_a_status_it_is_requested_from_the_worker() -> None:
    setup = Setup(workers=lambda request: httpx.Response(200, json={**STATUS, "queue_length": 3}))
    assert setup.controller.register_worker(f"{W1}/", True, None)
    assert [(request.method, str(request.url)) for request in setup.requests] == [("POST", f"{W1}/worker_get_status")]
    assert setup.controller.worker_api_get_status() == {"model_names": ["m"], "speed": 1.0, "queue_length": 3}


@pytest.mark.parametrize(
    "workers",
    [
        refuse_connection,
        lambda request: httpx.Response(500),
        lambda request: httpx.Response(200, text="<html>"),
        lambda request: httpx.Response(200, json=[]),
        lambda request: httpx.Response(200, text="null"),
    ],
)
def test_a_worker_without_a_status_is_not_registered(workers: Handler) -> None:
    setup = Setup(workers=workers)
    assert setup.controller.get_worker_status(W1) == {}
    assert not setup.controller.register_worker(W1, True, None)
    assert setup.controller.worker_info == {}


def test_an_address_that_cannot_be_dialled_is_an_error_frame() -> None:
    setup = Setup()
    odd = "http://1.2.3.999:1"
    assert setup.controller.get_worker_status(odd) == {}
    assert setup.controller.register_worker(odd, True, STATUS)
    assert [frame["error_code"] for frame in setup.stream()] == [50001]


@pytest.mark.parametrize("method", POLICIES)
def test_worker_addresses_are_spread_over_the_workers(method: str) -> None:
    """No lease shows how long an address is used, but they must not all be the same."""
    controller = Setup(method).controller
    for worker_name in (W1, W2):
        controller.register_worker(worker_name, True, STATUS)
    counts = Counter(controller.get_worker_address("m") for _ in range(100))
    assert counts.keys() == {W1, W2}
    assert min(counts.values()) > 25
    assert method not in ("shortest_queue", "round_robin") or counts == {W1: 50, W2: 50}
    assert controller.get_worker_address("nope") == ""


def test_the_next_heartbeat_corrects_the_queue_length() -> None:
    setup = Setup()
    setup.controller.register_worker(W1, True, STATUS)
    for _ in range(5):
        setup.controller.get_worker_address("m")
    assert setup.queue_length == 5
    assert setup.controller.receive_heart_beat(W1, 1)
    assert setup.queue_length == 1


def test_a_bad_heartbeat_changes_nothing_and_does_not_make_the_worker_register_again() -> None:
    setup = Setup()
    assert not setup.controller.receive_heart_beat(W1, 0)
    setup.controller.register_worker(W1, True, {**STATUS, "queue_length": 2})
    assert setup.controller.receive_heart_beat(W1, -1)
    assert setup.queue_length == 2


def test_workers_without_heartbeats_expire_if_they_are_checked() -> None:
    setup = Setup()
    setup.controller.register_worker(W1, True, STATUS)
    setup.controller.register_worker(W2, False, {**STATUS, "model_names": ["n"]})
    setup.clock.tick(89.9)
    setup.controller.remove_stable_workers_by_expiration()
    assert setup.controller.worker_info.keys() == {W1, W2}
    setup.clock.tick(0.1)
    assert (setup.controller.get_worker_address("m"), setup.controller.get_worker_address("n")) == ("", W2)
    setup.controller.remove_stable_workers_by_expiration()
    assert setup.controller.worker_info.keys() == {W2}
    assert not setup.controller.receive_heart_beat(W1, 0)


def test_a_worker_can_be_removed_twice() -> None:
    controller = Setup().controller
    controller.register_worker(W1, True, STATUS)
    for _ in range(2):
        controller.remove_worker(W1)
        assert controller.list_models() == []


def test_refreshing_removes_dead_workers_and_keeps_all_others_meanwhile() -> None:
    tables: list[set[str]] = []

    def workers(request: httpx.Request) -> httpx.Response:
        tables.append(set(setup.controller.worker_info))
        if request.url.port == 21003:
            raise httpx.ConnectError("connection refused")
        return httpx.Response(200, json={"model_names": ["new"], "speed": 2, "queue_length": 0})

    setup = Setup(workers=workers)
    for worker_name in (f"{W1}/", W2):
        setup.controller.register_worker(worker_name, False, STATUS)
    setup.controller.refresh_all_workers()
    assert tables == [{f"{W1}/", W2}] * 2
    assert setup.controller.list_models() == ["new"]  # and the model that it had before is gone
    assert not setup.controller.worker_info[f"{W1}/"].check_heart_beat


# -- streaming -------------------------------------------------------------------------------------------------------


class Chunks(httpx.SyncByteStream):
    """The body of a response in these reads, which may end in an error; records whether it was closed."""

    def __init__(self, *reads: bytes | Exception) -> None:
        self.reads = reads
        self.closed = False

    def __iter__(self) -> Iterator[bytes]:
        for read in self.reads:
            if isinstance(read, Exception):
                raise read
            yield read

    def close(self) -> None:
        self.closed = True


def streaming(chunks: Chunks) -> Setup:
    setup = Setup(workers=lambda request: httpx.Response(200, stream=chunks))
    assert setup.controller.register_worker(W1, True, STATUS)
    return setup


def test_frames_are_whole_however_they_were_read() -> None:
    setup = streaming(Chunks(b'{"text": "a", "er', b'ror_code": 0}\0\0{"text"', b': "ab"}\0{"text": "abc"}', b"\0"))
    assert [frame["text"] for frame in setup.stream(stop=None)] == ["a", "ab", "abc"]
    (request,) = setup.requests
    assert str(request.url) == f"{W1}/worker_generate_stream"
    assert json.loads(request.content) == {"model": "m", "prompt": "hi", "stop": None}


def test_a_stream_is_counted_while_it_runs_and_closed_when_its_reader_leaves() -> None:
    chunks = Chunks(b'{"text": "a"}\0', b'{"text": "ab"}\0')
    setup = streaming(chunks)
    frames = setup.controller.worker_api_generate_stream({"model": "m"})
    assert setup.queue_length == 0
    assert next(frames) == b'{"text": "a"}\0'
    assert (setup.queue_length, chunks.closed) == (1, False)
    frames.close()  # type: ignore[attr-defined]
    assert (setup.queue_length, chunks.closed) == (0, True)


@pytest.mark.parametrize(
    ("reads", "code", "message"),
    [
        ([httpx.ReadTimeout("")], 50006, "did not answer in time"),
        ([b'{"text": "a"}\0', httpx.ReadError("reset")], 50001, "failed: reset"),
        ([b'{"text": "a"}\0{"te'], 50001, "in the middle of a frame"),
    ],
)
def test_a_broken_stream_ends_in_one_error_frame(reads: list[bytes | Exception], code: int, message: str) -> None:
    setup = streaming(Chunks(*reads))
    *_, last = frames = setup.stream()
    assert sum(bool(frame.get("error_code")) for frame in frames) == 1
    assert last["error_code"] == code
    assert message in last["text"]
    assert setup.queue_length == 0


@pytest.mark.parametrize(
    ("params", "code"), [({"model": "nope"}, 50005), ({}, 40001), ({"model": 7}, 40001), ({"model": None}, 40001)]
)
def test_without_a_worker_there_is_one_error_frame_and_no_request(params: dict[str, Any], code: int) -> None:
    setup = streaming(Chunks())
    frames = list(setup.controller.worker_api_generate_stream(params))
    assert [json.loads(frame.rstrip(b"\0"))["error_code"] for frame in frames] == [code]
    assert setup.requests == []


def test_a_real_worker_sends_its_status_and_a_stream() -> None:
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    options = SimulatedOptions(models=("m",), address=address, decode_tokens_per_s=2000.0, prefill_tokens_per_s=1e6)
    with running_app(create_app(options), port):
        controller = Controller("lottery")
        assert controller.register_worker(address, True, None)
        assert controller.list_models() == ["m"]
        params = {"model": "m", "prompt": "hello", "max_new_tokens": 4}
        frames = [json.loads(frame[:-1]) for frame in controller.worker_api_generate_stream(params)]
        controller.refresh_all_workers()
        assert controller.list_models() == ["m"]
    assert len(frames) > 1
    assert all(frame["error_code"] == 0 for frame in frames)
    controller.refresh_all_workers()
    assert controller.list_models() == []
