"""Streams through three levels: unchanged, ended with an error when cut, and cancelled at the engine."""

from __future__ import annotations

import asyncio

import httpx
import openai
import pytest

from tests.cluster import Cluster, Running, chat, counters, wait_for_model
from tests.support import eventually

REQUEST = {"model": "simulated", "messages": [{"role": "user", "content": "hello"}], "stream": True}


@pytest.fixture
def engine(cluster: Cluster) -> Running:
    return cluster.engine(slots=4)


@pytest.fixture
def root(cluster: Cluster, engine: Running) -> Running:
    root = cluster.node("root")
    site = cluster.node("site", parents=(root.url,))
    cluster.node("rack", parents=(site.url,), engines=(engine.url,))
    wait_for_model(root.url, "simulated")
    return root


def test_the_openai_package_works(root: Running) -> None:
    client = openai.OpenAI(base_url=f"{root.url}/v1", api_key="none", max_retries=0)
    assert [model.id for model in client.models.list()] == ["simulated"]
    whole = client.chat.completions.create(
        model="simulated", messages=[{"role": "user", "content": "hello"}], max_tokens=8
    )
    streamed = client.chat.completions.create(
        model="simulated", messages=[{"role": "user", "content": "hello"}], max_tokens=8, stream=True
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in streamed if chunk.choices)
    assert text == whole.choices[0].message.content
    with pytest.raises(openai.NotFoundError, match="no child serves model 'nope'"):
        client.chat.completions.create(model="nope", messages=[])


def test_the_engines_bytes_pass_unchanged(root: Running, engine: Running) -> None:
    def body(url: str) -> list[bytes]:
        response = httpx.post(f"{url}/v1/completions", json={"model": "simulated", "prompt": "x", "stream": True})
        assert response.headers["content-type"].startswith("text/event-stream")
        # Ids and times differ by request; everything else must be the same.
        return [line.split(b'"choices"')[-1] for line in response.content.split(b"\n") if line]

    through, direct = body(root.url), body(engine.url)
    assert through == direct
    assert through[-1] == b"data: [DONE]"


def test_a_stream_that_is_cut_ends_in_an_error_event(root: Running, engine: Running) -> None:
    httpx.post(f"{engine.url}/simulated/faults", json={"cut_after_tokens": 3}).raise_for_status()
    response = httpx.post(f"{root.url}/v1/chat/completions", json=REQUEST)  # raises if it is not complete
    assert response.status_code == 200
    assert b"event: error\ndata: " in response.content
    assert b"rack-1 closed the connection" in response.content or b"rack-1 broke the connection" in response.content
    assert b"[DONE]" not in response.content
    assert response.content.count(b"event: error") == 1


def test_the_openai_package_sees_a_cut_stream_as_an_error(root: Running, engine: Running) -> None:
    httpx.post(f"{engine.url}/simulated/faults", json={"cut_after_tokens": 3}).raise_for_status()
    client = openai.OpenAI(base_url=f"{root.url}/v1", api_key="none", max_retries=0)
    stream = client.chat.completions.create(model="simulated", messages=[], stream=True)
    with pytest.raises(openai.APIError, match="connection"):
        list(stream)


def test_a_fastchat_stream_that_is_cut_ends_in_an_error_frame(root: Running, engine: Running) -> None:
    httpx.post(f"{engine.url}/simulated/faults", json={"cut_after_tokens": 3}).raise_for_status()
    response = httpx.post(f"{root.url}/worker_generate_stream", json={"model": "simulated", "prompt": "x"})
    assert response.status_code == 200
    assert b'"error_code": 50001' in [frame for frame in response.content.split(b"\0") if frame][-1]


def test_a_client_that_disconnects_frees_the_engine(cluster: Cluster, root: Running) -> None:
    httpx_client = httpx.Client()
    slow = cluster.engine(models=("slow",), decode_tokens_per_s=1.0)
    cluster.node("other", parents=(root.url,), engines=(slow.url,))
    wait_for_model(root.url, "slow")
    with httpx_client.stream("POST", f"{root.url}/v1/chat/completions", json={**REQUEST, "model": "slow"}) as response:
        assert response.status_code == 200
        eventually(lambda: counters(slow)["running"] == 1, "the engine to be busy")
    httpx_client.close()
    eventually(lambda: counters(slow)["running"] == 0, "the engine to be free")
    assert counters(slow)["cancelled"] == 1
    eventually(lambda: all(child.in_flight == 0 for child in root.node.registry), "the leases to be released")


def test_an_engine_that_refuses_connections_is_replaced(cluster: Cluster, engine: Running, root: Running) -> None:
    dying = cluster.engine(models=("m",))
    living = cluster.engine(models=("m",))
    pair = cluster.node("pair", engines=(dying.url, living.url))
    wait_for_model(pair.url, "m", 2)
    cluster.stop(dying)
    paths = [chat(pair.url, "m").headers["x-hierarchy-path"] for _ in range(10)]
    assert set(paths) == {"pair-2"}


def test_sigterm_finishes_running_streams(cluster: Cluster) -> None:
    engine = cluster.engine(decode_tokens_per_s=20.0)
    root = cluster.node("root")
    site = cluster.node("site", parents=(root.url,), engines=(engine.url,))
    wait_for_model(root.url, "simulated")

    async def stream() -> bytes:
        async with (
            httpx.AsyncClient() as client,
            client.stream("POST", f"{root.url}/v1/chat/completions", json={**REQUEST, "max_tokens": 20}) as response,
        ):
            parts: list[bytes] = []
            async for part in response.aiter_raw():
                if not parts:
                    site.server.should_exit = True  # what SIGTERM does
                parts.append(part)
            return b"".join(parts)

    content = asyncio.run(stream())
    assert content.endswith(b"data: [DONE]\n\n")
    eventually(site.task.done, "the site to end after its stream")
    assert chat(root.url).status_code == 503
