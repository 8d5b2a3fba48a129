"""Each injected fault as a client meets it."""

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

HTTP = httpx.Client()  # one for all: each makes a TLS context, which takes longer than a test
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


def ask(url: str, *, stream: bool = False, timeout_s: float = 5) -> httpx.Response:
    return HTTP.post(f"{url}/v1/chat/completions", json={**CHAT, "stream": stream}, timeout=timeout_s)


def stream_until_it_breaks(url: str, timeout_s: float = 5) -> tuple[int, bytes, type[Exception] | None]:
    """(status, what came, how it broke)"""
    body = bytearray()
    with HTTP.stream("POST", f"{url}/v1/chat/completions", json={**CHAT, "stream": True}, timeout=timeout_s) as answer:
        try:
            for piece in answer.iter_raw():
                body += piece
        except httpx.TransportError as error:
            return answer.status_code, bytes(body), type(error)
    return answer.status_code, bytes(body), None


def tokens_in(body: bytes) -> int:
    return sum(bool(event["choices"][0]["delta"].get("content")) for event in map(json.loads, data_of(body)))


def data_of(body: bytes) -> list[bytes]:
    return [line[6:] for line in body.splitlines() if line.startswith(b"data: {")]


def test_a_status_strikes_as_often_as_it_was_told(url: str) -> None:
    inject(url, {"status": 503, "count": 2})
    statuses = [ask(url).status_code, ask(url, stream=True).status_code, ask(url).status_code]
    assert statuses == [503, 503, 200]
    assert counts(url)["faults"] == []


def test_without_a_count_it_strikes_until_cleared(url: str) -> None:
    inject(url, [{"status": 500}])
    assert [ask(url).status_code for _ in range(3)] == [500] * 3
    inject(url, [])
    assert ask(url).status_code == 200


@pytest.mark.parametrize("tokens", [0, 1, 4, 9])
def test_a_cut_stream_ends_without_its_end(url: str, tokens: int) -> None:
    inject(url, {"cut_after_tokens": tokens})
    status, body, broken = stream_until_it_breaks(url)
    assert (status, broken) == (200, httpx.RemoteProtocolError)
    assert tokens_in(body) == tokens
    assert b"[DONE]" not in body


def test_a_cut_whole_answer_is_shorter_than_its_length(url: str) -> None:
    inject(url, {"cut_after_tokens": 3})
    with pytest.raises(httpx.RemoteProtocolError):
        ask(url)


def test_hanging_sends_not_even_a_head_and_keeps_a_slot(url: str) -> None:
    inject(url, {"hang": True, "count": 1})
    for _ in range(2):  # the second one is past the fault, beside the first
        with contextlib.suppress(httpx.ReadTimeout):
            assert ask(url, stream=True, timeout_s=0.2).status_code == 200
    eventually(lambda: counts(url)["running"] == 0, "the slot to be free once the client left")
    assert counts(url)["cancelled"] >= 1


def test_a_hanging_stream_keeps_what_it_sent(url: str) -> None:
    inject(url, {"hang_after_tokens": 2})
    status, body, broken = stream_until_it_breaks(url, timeout_s=0.2)
    assert (status, tokens_in(body), broken) == (200, 2, httpx.ReadTimeout)


def test_a_delay_comes_between_the_head_and_the_first_byte(url: str) -> None:
    inject(url, {"delay_first_byte_s": 60})
    status, body, broken = stream_until_it_breaks(url, timeout_s=0.2)
    assert (status, body, broken) == (200, b"", httpx.ReadTimeout)


def test_probes_have_faults_of_their_own(url: str) -> None:
    inject(url, {"on": "probe", "status": 503, "count": 2})
    assert ask(url).status_code == 200
    assert HTTP.get(f"{url}/health").status_code == 503
    assert HTTP.post(f"{url}/worker_get_status").status_code == 503
    assert HTTP.get(f"{url}/v1/models").status_code == 200
    inject(url, {"on": "probe", "hang": True})
    with pytest.raises(httpx.ReadTimeout):
        HTTP.get(f"{url}/metrics", timeout=0.1)


def test_faults_given_at_the_start_are_in_force() -> None:
    options = SimulatedOptions(models=("m",), faults=(Fault(status=418),))
    with running_app(create_app(options)) as url:
        assert ask(url).status_code == 418
        assert counts(url)["faults"] == [{"on": "generate", "status": 418, "left": None}]


@pytest.mark.parametrize(
    ("bad", "named"),
    [
        ('{"statu": 503}', "statu"),
        ('[{"status": 200}]', "status"),
        ('{"count": 0}', "count"),
        ('{"delay_first_byte_s": 1e400}', "delay_first_byte_s"),
        ("{", "JSON"),
        ("", "JSON"),
    ],
)
def test_a_bad_fault_is_named_and_changes_nothing(url: str, bad: str, named: str) -> None:
    inject(url, {"status": 599})
    answer = HTTP.post(f"{url}/simulated/faults", content=bad)
    assert answer.status_code == 422
    assert named in answer.json()["error"]
    assert counts(url)["faults"][0]["status"] == 599
    with pytest.raises(ValueError, match=named):
        parse_faults(bad)


def test_faults_strike_in_order_and_each_on_its_own_kind() -> None:
    first, second, probe = Fault(status=500, count=1), Fault(status=501), Fault(on="probe", status=502, count=2)
    faults = Faults((first, probe, second))
    assert [faults.take("generate") for _ in range(3)] == [first, second, second]
    assert [faults.take("probe") for _ in range(3)] == [probe, probe, None]
