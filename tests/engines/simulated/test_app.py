"""The simulated engine on real sockets: formats, timing, its queue, and slots that disconnected clients free."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import httpx
import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hierarchy.engines.kinds import ADAPTERS
from hierarchy.engines.probe_client import ProbeClient
from hierarchy.engines.simulated.app import create_app
from hierarchy.engines.simulated.engine import answer_text
from hierarchy.engines.simulated.options import SimulatedOptions
from hierarchy.engines.simulated.slots import Slots
from hierarchy.runtime.resolver import Resolver
from hierarchy.wire.status import NodeStatus
from tests.support import eventually, running_app

HTTP = httpx.Client()  # shared: creating one takes longer than a test
QUICK = SimulatedOptions(models=("m", "n"), prefill_tokens_per_s=float("inf"), decode_tokens_per_s=float("inf"))
SLOW = SimulatedOptions(models=("m", "n"), decode_tokens_per_s=0.1, slots=2)


@pytest.fixture(scope="module")
def quick() -> Iterator[str]:
    with running_app(create_app(QUICK)) as url:
        yield url


@pytest.fixture
def slow() -> Iterator[str]:
    with running_app(create_app(SLOW)) as url:
        yield url


def chat(**fields: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": "x" * 40}], **fields}


def frames(body: bytes) -> list[dict[str, Any]]:
    assert body.endswith(b"\0")
    return [json.loads(frame) for frame in body[:-1].split(b"\0")]


@contextlib.contextmanager
def open_request(url: str, path: str, body: dict[str, Any]) -> Iterator[socket.socket]:
    """A request on a raw socket whose response is not read."""
    payload = json.dumps(body).encode()
    with socket.create_connection((urlsplit(url).hostname, urlsplit(url).port)) as client:
        client.sendall(f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(payload)}\r\n\r\n".encode() + payload)
        yield client


def state(url: str) -> dict[str, Any]:
    return dict(HTTP.get(f"{url}/simulated").json())


def load(url: str) -> tuple[int, int]:
    counts = state(url)
    return counts["running"], counts["waiting"]


# OpenAI


def test_responses_for_the_openai_package(quick: str) -> None:
    client = openai.OpenAI(base_url=f"{quick}/v1", api_key="none")
    assert [model.id for model in client.models.list()] == ["m", "n"]
    response = client.chat.completions.create(**chat(max_tokens=7))
    assert response.choices[0].message.content == answer_text(7)
    assert response.choices[0].finish_reason == "length"
    assert response.usage is not None
    assert (response.usage.prompt_tokens, response.usage.completion_tokens, response.usage.total_tokens) == (10, 7, 17)
    assert response.system_fingerprint == "hierarchy-simulated"
    completion = client.completions.create(model="n", prompt="x", max_tokens=3)
    assert (completion.model, completion.choices[0].text) == ("n", answer_text(3))
    vectors = client.embeddings.create(model="m", input=["a", "b", "a"]).data
    assert vectors[0].embedding == vectors[2].embedding != vectors[1].embedding


def test_streams_for_the_openai_package(quick: str) -> None:
    client = openai.OpenAI(base_url=f"{quick}/v1", api_key="none")
    chunks = list(
        client.chat.completions.create(**chat(max_tokens=7, stream=True, stream_options={"include_usage": True}))
    )
    choices = [chunk.choices[0] for chunk in chunks if chunk.choices]
    assert choices[0].delta.role == "assistant"
    assert "".join(choice.delta.content or "" for choice in choices) == answer_text(7)
    assert [choice.finish_reason for choice in choices] == [None] * 8 + ["length"]
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 7
    stream = client.completions.create(model="m", prompt="x", max_tokens=3, stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == answer_text(3)


def test_the_length_of_an_answer(quick: str) -> None:
    def tokens(**fields: Any) -> tuple[int, str]:
        response = HTTP.post(f"{quick}/v1/chat/completions", json=chat(**fields)).json()
        return response["usage"]["completion_tokens"], response["choices"][0]["finish_reason"]

    assert tokens() == (64, "stop")
    assert tokens(max_tokens=100) == (64, "stop")
    assert tokens(max_completion_tokens=5) == (5, "length")
    assert tokens(max_tokens=100, ignore_eos=True) == (100, "length")


@pytest.mark.parametrize(
    ("path", "body", "status", "param"),
    [
        ("chat/completions", b"{", 400, None),
        ("chat/completions", b"[]", 400, "model"),
        ("chat/completions", {"model": 3}, 400, "model"),
        ("chat/completions", {"model": "m"}, 400, "messages"),
        ("chat/completions", chat(model="unknown"), 404, "model"),
        ("chat/completions", chat(max_tokens=0), 400, "max_tokens"),
        ("chat/completions", chat(max_tokens="7"), 400, "max_tokens"),
        ("chat/completions", chat(n=2), 400, "n"),
        ("completions", {"model": "m"}, 400, "prompt"),
        ("embeddings", {"model": "m"}, 400, "input"),
    ],
)
def test_errors_have_vllms_format(quick: str, path: str, body: Any, status: int, param: str | None) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    response = HTTP.post(f"{quick}/v1/{path}", content=content)
    assert response.status_code == status
    assert (response.json()["error"]["code"], response.json()["error"]["param"]) == (status, param)


# FastChat


def test_fastchat_frames_have_the_text_so_far(quick: str) -> None:
    body = {"model": "m", "prompt": "Hello", "max_new_tokens": 3, "echo": False}
    texts = [frame["text"] for frame in frames(HTTP.post(f"{quick}/worker_generate_stream", json=body).content)]
    assert texts == [answer_text(1), answer_text(2), answer_text(3), answer_text(3)]
    echoed = frames(HTTP.post(f"{quick}/worker_generate_stream", json={**body, "echo": True}).content)[-1]
    assert echoed == {
        "text": "Hello" + answer_text(3),
        "error_code": 0,
        "usage": {"prompt_tokens": 1, "completion_tokens": 3, "total_tokens": 4},
        "finish_reason": "length",
    }
    assert HTTP.post(f"{quick}/worker_generate", json={**body, "echo": True}).json() == echoed


def test_fastchat_errors_are_frames_with_status_200(quick: str) -> None:
    response = HTTP.post(f"{quick}/worker_generate_stream", json={"prompt": "x", "max_new_tokens": -1})
    assert (response.status_code, frames(response.content)[0]["error_code"]) == (200, 50001)


def test_other_fastchat_paths(quick: str) -> None:
    def post(path: str, **body: Any) -> Any:
        return HTTP.post(f"{quick}/{path}", json=body).raise_for_status().json()

    assert post("worker_get_status") == {"model_names": ["m", "n"], "speed": 1.0, "queue_length": 0}
    assert post("count_token", model="m", prompt="x" * 40) == {"count": 10, "error_code": 0}
    assert post("model_details", model="m")["context_length"] > 0
    assert post("worker_get_conv_template", model="m")["conv"]["roles"] == ["Human", "Assistant"]
    embedded = post("worker_get_embeddings", model="m", input=["a", "b"])
    assert (len(embedded["embedding"]), embedded["token_num"]) == (2, 2)


# its status


def test_its_responses_show_that_it_is_simulated(quick: str) -> None:
    assert HTTP.get(f"{quick}/version").json() == {"version": "hierarchy-simulated"}
    assert HTTP.get(f"{quick}/v1/models").json()["data"][0]["owned_by"] == "hierarchy-simulated"
    assert state(quick)["simulated"] is True
    assert HTTP.get(f"{quick}/health").content == b""


def read(url: str) -> NodeStatus:
    async def run() -> NodeStatus:
        return await ADAPTERS["simulated"].read(ProbeClient(url, time.monotonic, Resolver()), 2.0)

    return asyncio.run(run())


def has_requests(url: str, count: int) -> bool:
    """True while exactly that many requests run or wait there."""
    return sum(load(url)) == count


def test_its_adapter_reads_running_and_waiting_requests_by_model(slow: str) -> None:
    with contextlib.ExitStack() as stack:
        for number, model in enumerate("mmmn", start=1):
            stack.enter_context(open_request(slow, "/v1/chat/completions", chat(model=model)))
            eventually(partial(has_requests, slow, number))
        status = read(slow)
    assert (status.queue_length, status.speed) == (4, 2.0)
    assert {model.key: (model.queue_length, model.slots) for model in status.models} == {
        ("m", "openai"): (3, 2),
        ("m", "fastchat"): (3, 2),
        ("n", "openai"): (1, 2),
        ("n", "fastchat"): (1, 2),
    }


def test_its_models_can_change(quick: str) -> None:
    with running_app(create_app(QUICK)) as url:
        assert HTTP.post(f"{url}/simulated/models", json={"models": ["z"]}).json()["models"] == ["z"]
        assert read(url).model_names == ["z"]
        assert HTTP.post(f"{url}/v1/chat/completions", json=chat()).status_code == 404
        no_lists: list[Any] = [{"models": [3]}, {"models": [""]}, {}, []]
        for bad in no_lists:
            assert HTTP.post(f"{url}/simulated/models", json=bad).status_code == 422
        HTTP.post(f"{url}/simulated/models", json={"models": []})
        assert read(url) == NodeStatus()
        assert frames(HTTP.post(f"{url}/worker_generate_stream", json={}).content)[0]["error_code"] == 50001


# timing, slots and disconnection


def test_the_duration_of_prefill_and_decode() -> None:
    options = SimulatedOptions(models=("m",), prefill_tokens_per_s=200, decode_tokens_per_s=100)
    with running_app(create_app(options)) as url, httpx.Client() as client:
        start = time.monotonic()
        with client.stream("POST", f"{url}/v1/chat/completions", json=chat(max_tokens=11, stream=True)) as response:
            head_s = time.monotonic() - start
            pieces = response.iter_raw()
            next(pieces)
            first_s = time.monotonic() - start
            for _ in pieces:
                pass
            whole_s = time.monotonic() - start
    # 10 prompt tokens at 200/s, then ten more tokens at 100/s. Only lower bounds: a busy machine takes longer.
    assert head_s < 0.05 <= first_s, "the head must not wait for the first token"
    assert whole_s >= 0.15


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", chat(stream=True)),
        ("/v1/chat/completions", chat()),
        ("/v1/completions", {"model": "m", "prompt": "x", "stream": True}),
        ("/worker_generate_stream", {"model": "m", "prompt": "x"}),
        ("/worker_generate", {"model": "m", "prompt": "x"}),
    ],
)
def test_a_disconnected_client_frees_its_slot_or_place_in_the_queue(slow: str, path: str, body: dict[str, Any]) -> None:
    with contextlib.ExitStack() as running, contextlib.ExitStack() as waiting:
        for _ in range(2):
            running.enter_context(open_request(slow, path, body))
        eventually(lambda: load(slow) == (2, 0))
        waiting.enter_context(open_request(slow, path, body))
        eventually(lambda: load(slow) == (2, 1))
        waiting.close()
        eventually(lambda: load(slow) == (2, 0), "the queue to be empty")
        running.close()
        eventually(lambda: load(slow) == (0, 0), "the slots to be free")
    assert (state(slow)["cancelled"], state(slow)["served"]) == (3, 0)


def test_a_client_that_disconnects_in_prefill_frees_its_slot() -> None:
    with running_app(create_app(SimulatedOptions(models=("m",), prefill_tokens_per_s=0.01))) as url:
        with open_request(url, "/v1/chat/completions", chat(stream=True)):
            eventually(lambda: load(url) == (1, 0))
        eventually(lambda: load(url) == (0, 0))


def test_the_queue_is_first_come_first_served() -> None:
    options = SimulatedOptions(models=("m",), decode_tokens_per_s=100, slots=1)
    ended: list[int] = []

    def complete(url: str, number: int) -> None:
        HTTP.post(f"{url}/v1/chat/completions", json=chat(max_tokens=6 if number else 40))
        ended.append(number)

    with running_app(create_app(options)) as url:
        threads = []
        for number in range(5):
            threads.append(threading.Thread(target=complete, args=(url, number)))
            threads[-1].start()
            eventually(lambda: sum(load(url)) + len(ended) == len(threads))
        for thread in threads:
            thread.join()
    assert ended == [0, 1, 2, 3, 4]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=12), st.integers(1, 3))
def test_all_slots_are_free_however_their_holders_are_cancelled(plan: list[tuple[int, int]], capacity: int) -> None:
    async def run() -> None:
        slots = Slots(capacity)

        async def work(turns: int) -> None:
            async with slots.hold("m"):
                assert 0 < slots.running["m"] <= capacity
                for _ in range(turns):
                    await asyncio.sleep(0)

        async def one(turns: int, cancel_after: int) -> None:
            task = asyncio.ensure_future(work(turns))
            for _ in range(cancel_after):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait((task,))

        await asyncio.gather(*(one(*item) for item in plan))
        assert slots.queue_length == 0
        async with contextlib.AsyncExitStack() as stack, asyncio.timeout(1):
            for _ in range(capacity):  # all of them are available
                await stack.enter_async_context(slots.hold("m"))
            assert repr(slots) == f"<Slots {capacity}/{capacity} running, 0 waiting>"

    asyncio.run(run())
