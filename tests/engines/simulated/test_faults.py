"""Each fault, as a client sees it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from hierarchy.engines.simulated.app import create_app
from hierarchy.engines.simulated.faults import Fault, Faults, parse_faults
from hierarchy.engines.simulated.options import SimulatedOptions
from tests.support import eventually, running_app

HTTP = httpx.Client()  # shared: creating one takes longer than a test
INF = float("inf")
OPTIONS = SimulatedOptions(models=("m",), prefill_tokens_per_s=INF, decode_tokens_per_s=INF, slots=2)
CHAT = {"model": "m", "messages": [], "max_tokens": 9}


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with running_app(create_app(OPTIONS)) as url:
        yield url


@pytest.fixture
def url(server: str) -> Iterator[str]:
    yield server
    inject(server, [])
    eventually(lambda: counts(server)["running"] == 0)


def inject(url: str, faults: Any) -> None:
    HTTP.post(f"{url}/simulated/faults", json=faults).raise_for_status()


def counts(url: str) -> dict[str, Any]:
    return dict(HTTP.get(f"{url}/simulated").json())


def chat(url: str, *, stream: bool = False, timeout_s: float = 5) -> httpx.Response:
    return HTTP.post(f"{url}/v1/chat/completions", json={**CHAT, "stream": stream}, timeout=timeout_s)


def read_stream(url: str, timeout_s: float = 5) -> tuple[int, bytes, type[Exception] | None]:
    """(status, body, the error that ended it)"""
    body = bytearray()
    with HTTP.stream(
        "POST", f"{url}/v1/chat/completions", json={**CHAT, "stream": True}, timeout=timeout_s
    ) as response:
        try:
            for piece in response.iter_raw():
                body += piece
        except httpx.TransportError as error:
            return response.status_code, bytes(body), type(error)
    return response.status_code, bytes(body), None


def tokens_in(body: bytes) -> int:
    return sum(bool(event["choices"][0]["delta"].get("content")) for event in map(json.loads, data_of(body)))


def data_of(body: bytes) -> list[bytes]:
    return [line[6:] for line in body.splitlines() if line.startswith(b"data: {")]


def test_a_status_fault_applies_count_times(url: str) -> None:
    inject(url, {"status": 503, "count": 2})
    statuses = [chat(url).status_code, chat(url, stream=True).status_code, chat(url).status_code]
    assert statuses == [503, 503, 200]
    assert counts(url)["faults"] == []


def test_a_fault_without_a_count_applies_until_cleared(url: str) -> None:
    inject(url, [{"status": 500}])
    assert [chat(url).status_code for _ in range(3)] == [500] * 3
    inject(url, [])
    assert chat(url).status_code == 200


@pytest.mark.parametrize("tokens", [0, 1, 4, 9])
def test_a_stream_that_is_cut_has_no_end(url: str, tokens: int) -> None:
    inject(url, {"cut_after_tokens": tokens})
    status, body, broken = read_stream(url)
    assert (status, broken) == (200, httpx.RemoteProtocolError)
    assert tokens_in(body) == tokens
    assert b"[DONE]" not in body


def test_a_response_that_is_cut_is_shorter_than_its_content_length(url: str) -> None:
    inject(url, {"cut_after_tokens": 3})
    with pytest.raises(httpx.RemoteProtocolError):
        chat(url)


def test_a_hanging_request_sends_no_head_and_occupies_a_slot(url: str) -> None:
    inject(url, {"hang": True, "count": 1})
    for _ in range(2):  # the first request hangs, the second is served
        with contextlib.suppress(httpx.ReadTimeout):
            assert chat(url, stream=True, timeout_s=0.2).status_code == 200
    eventually(lambda: counts(url)["running"] == 0, "the slot to be free after the client disconnected")
    assert counts(url)["cancelled"] >= 1


def test_a_stream_that_hangs_after_some_tokens_sends_these(url: str) -> None:
    inject(url, {"hang_after_tokens": 2})
    status, body, broken = read_stream(url, timeout_s=0.2)
    assert (status, tokens_in(body), broken) == (200, 2, httpx.ReadTimeout)


def test_a_delay_follows_the_head(url: str) -> None:
    inject(url, {"delay_first_byte_s": 60})
    status, body, broken = read_stream(url, timeout_s=0.2)
    assert (status, body, broken) == (200, b"", httpx.ReadTimeout)


def test_faults_for_probes_apply_to_probes_only(url: str) -> None:
    inject(url, {"on": "probe", "status": 503, "count": 2})
    assert chat(url).status_code == 200
    assert HTTP.get(f"{url}/health").status_code == 503
    assert HTTP.post(f"{url}/worker_get_status").status_code == 503
    assert HTTP.get(f"{url}/v1/models").status_code == 200
    inject(url, {"on": "probe", "hang": True})
    with pytest.raises(httpx.ReadTimeout):
        HTTP.get(f"{url}/metrics", timeout=0.1)


def test_faults_from_the_options_are_active_at_the_start() -> None:
    options = SimulatedOptions(models=("m",), faults=(Fault(status=418),))
    with running_app(create_app(options)) as url:
        assert chat(url).status_code == 418
        assert counts(url)["faults"] == [{"on": "generate", "status": 418, "left": None}]


@pytest.mark.parametrize(
    ("malformed", "named"),
    [
        ('{"statu": 503}', "statu"),
        ('[{"status": 200}]', "status"),
        ('{"count": 0}', "count"),
        ('{"delay_first_byte_s": 1e400}', "delay_first_byte_s"),
        ("{", "JSON"),
        ('{"every": 0}', "every"),
        ('{"answer": "pdf"}', "answer"),
        ("", "JSON"),
    ],
)
def test_the_error_names_the_wrong_field_and_changes_nothing(url: str, malformed: str, named: str) -> None:
    inject(url, {"status": 599})
    response = HTTP.post(f"{url}/simulated/faults", content=malformed)
    assert response.status_code == 422
    assert named in response.json()["error"]
    assert counts(url)["faults"][0]["status"] == 599
    with pytest.raises(ValueError, match=named):
        parse_faults(malformed)


def test_faults_apply_in_order_each_to_its_kind_of_request() -> None:
    first, second, probe = Fault(status=500, count=1), Fault(status=501), Fault(on="probe", status=502, count=2)
    faults = Faults((first, probe, second))
    assert [faults.take("generate") for _ in range(3)] == [first, second, second]
    assert [faults.take("probe") for _ in range(3)] == [probe, probe, None]


def test_a_fault_of_one_model_leaves_the_others_alone() -> None:
    faults = Faults((Fault(model="a", status=500),))
    taken = [faults.take("generate", model) for model in ("a", "b", "a", None)]
    assert [fault.status if fault else None for fault in taken] == [500, None, 500, None]


def test_a_fault_can_affect_each_third_request_only() -> None:
    faults = Faults((Fault(status=500, every=3, count=2),))
    assert [faults.take("generate") is not None for _ in range(10)] == [False, False, True] * 2 + [False] * 4


def test_a_request_that_is_reset_gets_no_byte(url: str) -> None:
    inject(url, {"reset": True})
    for stream in (False, True):
        with pytest.raises(httpx.ReadError):  # as opposed to RemoteProtocolError, after a connection that was closed
            chat(url, stream=stream)
    inject(url, {"on": "probe", "reset": True})
    with pytest.raises(httpx.ReadError):
        HTTP.get(f"{url}/health")


def test_a_stream_that_is_reset_gets_no_end(url: str) -> None:
    inject(url, {"reset_after_tokens": 2})
    status, body, broken = read_stream(url)
    assert (status, broken) == (200, httpx.ReadError)
    assert b"[DONE]" not in body


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("answer", "type_"), [("html", "text/html"), ("garbage", ""), ("empty", "")])
def test_wrong_bodies_have_status_200_and_are_complete(url: str, answer: str, type_: str, stream: bool) -> None:
    inject(url, {"answer": answer})
    response = chat(url, stream=stream)
    usual = "text/event-stream" if stream else "application/json"
    assert (response.status_code, bool(response.content)) == (200, answer != "empty")
    assert response.headers["content-type"].startswith(type_ or usual)
    with pytest.raises(ValueError, match=r"Expecting value|codec can't decode"):
        response.json()


def test_an_error_inside_a_stream_precedes_its_end(url: str) -> None:
    inject(url, {"answer": "error"})
    status, body, broken = read_stream(url)
    assert (status, broken) == (200, None)
    assert [list(json.loads(event)) for event in data_of(body)][-1] == ["error"]
    assert body.endswith(b"data: [DONE]\n\n")
    assert list(chat(url).json()) == ["error"]


def test_a_truncated_answer_is_framed_as_complete(url: str) -> None:
    inject(url, {"answer": "truncated"})
    status, body, broken = read_stream(url)
    assert (status, broken) == (200, None)
    assert b"[DONE]" not in body
    with pytest.raises(json.JSONDecodeError):
        chat(url).json()


@pytest.mark.parametrize("streaming", [False, True])
def test_an_error_in_the_answer_of_a_worker_is_a_frame(url: str, streaming: bool) -> None:
    inject(url, {"answer": "error"})
    path = "/worker_generate_stream" if streaming else "/worker_generate"
    body = HTTP.post(url + path, json={"model": "m", "prompt": "x", "max_new_tokens": 9}).content
    last = body.rstrip(b"\0").split(b"\0")[-1]
    assert json.loads(last)["error_code"] == 50001


def test_a_frozen_engine_answers_no_probe_until_it_thaws(url: str) -> None:
    inject(url, {"freeze_s": 0.4, "count": 1})
    with pytest.raises(httpx.ReadTimeout):
        chat(url, timeout_s=0.1)
    with pytest.raises(httpx.ReadTimeout):
        HTTP.get(f"{url}/health", timeout=0.05)
    assert HTTP.get(f"{url}/health", timeout=5).status_code == 200


def test_metrics_that_lie(url: str) -> None:
    inject(url, {"on": "probe", "running": 99})
    metrics = HTTP.get(f"{url}/metrics").text
    assert 'vllm:num_requests_running{engine="0",model_name="m"} 99.0' in metrics
    assert 'vllm:num_requests_waiting{engine="0",model_name="m"} 0.0' in metrics


def test_a_sleeping_engine_answers_when_it_is_awake_again(url: str) -> None:
    asleep = 'vllm:engine_sleep_state{engine="0",model_name="m",sleep_state="weights_offloaded"} 1.0'
    assert HTTP.post(f"{url}/sleep?level=3").status_code == 400
    HTTP.post(f"{url}/sleep?level=1").raise_for_status()
    assert HTTP.get(f"{url}/is_sleeping").json() == {"is_sleeping": True}
    assert asleep in HTTP.get(f"{url}/metrics").text
    with pytest.raises(httpx.ReadTimeout):
        chat(url, timeout_s=0.1)
    HTTP.post(f"{url}/wake_up").raise_for_status()
    assert asleep not in HTTP.get(f"{url}/metrics").text
    assert chat(url).status_code == 200
