"""FastChat's worker below a tree of three levels, and FastChat's API server and test client above it."""

from __future__ import annotations

import json
from typing import Any

import httpx
import openai
import pytest

from tests.cluster import wait_for_model
from tests.compat.conftest import Levels
from tests.compat.programs import Program, Programs, needs_fastchat
from tests.support import DEADLINE_S, eventually

pytestmark = needs_fastchat


@pytest.fixture(scope="module")
def worker(levels: Levels, programs: Programs) -> Program:
    """FastChat's worker, below the rack."""
    worker = programs.worker(levels.rack.url, "vicuna")
    wait_for_model(levels.root.url, "vicuna")
    return worker


@pytest.fixture(scope="module")
def api_server(levels: Levels, worker: Program, programs: Programs) -> Program:
    return programs.api_server(levels.root.url)


def chat(url: str, content: str = "red green blue", **fields: Any) -> httpx.Response:
    body = {"model": "vicuna", "messages": [{"role": "user", "content": content}], **fields}
    return httpx.post(f"{url}/v1/chat/completions", json=body, timeout=DEADLINE_S)


def text_of(response: httpx.Response) -> str:
    found: str = response.json()["choices"][0]["message"]["content"]
    return found


def test_fastchats_test_client_streams_through_three_levels(
    levels: Levels, worker: Program, programs: Programs
) -> None:
    output = programs.test_message(levels.root.url, "vicuna", "red green blue")
    assert "Models: ['vicuna']" in output
    assert f"worker_addr: {levels.root.url}" in output
    assert "you said red green blue" in output


def test_fastchats_api_server_works_through_three_levels(levels: Levels, api_server: Program) -> None:
    url = api_server.url
    assert [row["id"] for row in httpx.get(f"{url}/v1/models").json()["data"]] == ["vicuna"]
    assert text_of(chat(url)) == "you said red green blue"
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none") as client:
        stream = client.chat.completions.create(
            model="vicuna", messages=[{"role": "user", "content": "red green"}], stream=True
        )
        parts = [chunk.choices[0].delta.content or "" for chunk in stream]
        assert ("".join(parts), len(parts) > 3) == ("you said red green", True)
        completed = client.completions.create(model="vicuna", prompt="USER: a b ASSISTANT:", max_tokens=3)
        assert (completed.choices[0].text, completed.choices[0].finish_reason) == ("you said a", "length")
        embedded = client.embeddings.create(model="vicuna", input=["one", "three"], encoding_format="float")
        assert [row.embedding for row in embedded.data] == [[3.0, 1.0], [5.0, 1.0]]
    check = {"prompts": [{"model": "vicuna", "prompt": "one two three", "max_tokens": 9}]}
    checked = httpx.post(f"{url}/api/v1/token_check", json=check).json()["prompts"]
    assert checked == [{"fits": True, "contextLength": 2048, "tokenCount": 3}]
    assert all(child.in_flight == 0 for running in levels.nodes for child in running.node.registry)


def test_listing_models_refreshes_all_workers_and_never_empties_the_table(levels: Levels, api_server: Program) -> None:
    for _ in range(20):
        assert [row["id"] for row in httpx.get(f"{api_server.url}/v1/models").json()["data"]] == ["vicuna"]
        assert httpx.post(f"{levels.root.url}/list_models").json() == {"models": ["vicuna"]}


def test_a_stream_is_chunked_and_never_compressed(levels: Levels, worker: Program) -> None:
    """Otherwise `requests`, which FastChat's clients use, would return it in blocks of 512 bytes."""
    body = {"model": "vicuna", "prompt": "USER: a b ASSISTANT:", "echo": False}
    accepts = {"accept-encoding": "gzip, br"}
    with httpx.stream("POST", f"{levels.root.url}/worker_generate_stream", json=body, headers=accepts) as response:
        assert response.headers["transfer-encoding"] == "chunked"
        assert "content-encoding" not in response.headers
        assert "content-length" not in response.headers
        assert response.read().count(b"\0") == 4


def test_an_error_of_the_worker_reaches_the_api_servers_client(api_server: Program) -> None:
    assert chat(api_server.url, "FAIL").json()["message"] == "out of memory, says the worker"
    last = [
        line for line in chat(api_server.url, "FAIL", stream=True).text.split("\n\n") if line.startswith("data: {")
    ][-1]
    assert json.loads(last.removeprefix("data: "))["error_code"] == 50002


def test_openais_clients_reach_the_worker_through_three_levels(levels: Levels, worker: Program) -> None:
    with openai.OpenAI(base_url=f"{levels.root.url}/v1", api_key="none") as client:
        messages: Any = [{"role": "system", "content": "Be good."}, {"role": "user", "content": "red green"}]
        whole = client.chat.completions.create(model="vicuna", messages=messages)
        assert (whole.choices[0].message.content, whole.choices[0].finish_reason) == ("you said red green", "stop")
        assert whole.usage is not None
        assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (6, 4)  # with the words of the template
        stream = client.chat.completions.create(
            model="vicuna", messages=messages, stream=True, max_tokens=3, stream_options={"include_usage": True}
        )
        chunks = list(stream)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == "you said red"
        assert chunks[-2].choices[0].finish_reason == "length"
        assert chunks[-1].usage is not None
        completed = client.completions.create(model="vicuna", prompt="USER: a b c ASSISTANT:", stop=" b")
        assert completed.choices[0].text == "you said a"
        assert client.embeddings.create(model="vicuna", input="four").data[0].embedding[0] == 4.0
        with pytest.raises(openai.APIStatusError, match="out of memory, says the worker"):
            client.with_options(max_retries=0).chat.completions.create(
                model="vicuna", messages=[{"role": "user", "content": "FAIL"}]
            )
        with pytest.raises(openai.BadRequestError, match="2048 tokens"):
            client.completions.create(model="vicuna", prompt="word " * 3000)


def test_a_worker_that_dies_in_mid_stream_leaves_an_error_frame(levels: Levels, programs: Programs) -> None:
    programs.worker(levels.rack.url, "doomed")
    wait_for_model(levels.root.url, "doomed")
    body = {"model": "doomed", "prompt": "USER: DIE ASSISTANT:", "echo": False}
    response = httpx.post(f"{levels.root.url}/worker_generate_stream", json=body, timeout=DEADLINE_S)
    frames = [json.loads(frame) for frame in response.content.split(b"\0") if frame]
    assert frames[0]["text"] == "you"
    assert frames[-1]["error_code"] == 50001


def test_a_worker_of_two_models_registers_again(levels: Levels, programs: Programs) -> None:
    both = programs.worker(levels.rack.url, "one", "two")
    for model in ("one", "two"):
        wait_for_model(levels.root.url, model)
    levels.rack.node.registry.remove(both.url)  # as if the rack had been restarted

    def listed() -> bool:
        models: list[str] = httpx.post(f"{levels.root.url}/list_models").json()["models"]
        return {"one", "two"} <= set(models)

    eventually(lambda: not listed(), "both models to disappear")
    eventually(listed, "its next heartbeat, after which it registers again")
