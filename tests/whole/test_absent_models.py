"""Models that look unknown for a while: their requests are held, or get 503 with Retry-After, and never 404."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from hierarchy.config.blocks import SecuritySpec
from hierarchy.config.model_names import parse_targets
from hierarchy.config.models import EngineConfig, ModelLimits, NodeConfig, Settings
from hierarchy.relay import waiting_room
from tests.cluster import QUICK, Cluster, Running, chat, wait_for_model
from tests.support import DEADLINE_S, eventually, free_port

HOLDING = QUICK.model_copy(update={"hold_s": 8.0})
LOCAL: dict[str, Any] = {"listen": (("127.0.0.1", 0),), "advertise": "http://127.0.0.1:0"}
MODEL = "simulated"
Later = Callable[..., "Future[Any]"]


@pytest.fixture
def later() -> Iterator[Later]:
    """Calls a function in a thread, and returns its future."""
    with ThreadPoolExecutor(8) as pool:
        yield pool.submit


def held(node: Running) -> int:
    """How many requests the node holds."""
    return len(node.node.lane.waiting_room)


def wait_until_held(node: Running, count: int = 1) -> None:
    eventually(lambda: held(node) == count, f"{node.url} to hold {count} requests")


def set_models(engine: Running, *names: str) -> None:
    """Let a simulated engine serve these models from now on."""
    httpx.post(f"{engine.url}/simulated/models", json={"models": names}).raise_for_status()


def wait_until_absent(node: Running, model: str = MODEL) -> None:
    """Wait until no child of the node can be chosen for the model."""
    eventually(lambda: model not in node.node.registry.model_names(), f"{node.url} to lose {model}")


def refusal(response: httpx.Response) -> tuple[int, str, bool]:
    """Status, code, and whether there is a Retry-After that clients follow."""
    seconds = int(response.headers.get("retry-after", "0"))
    return response.status_code, response.json()["error"]["code"], 1 <= seconds <= 60


# -- restarts ------------------------------------------------------------------------------------------------


def test_the_root_is_restarted_under_load(cluster: Cluster) -> None:
    """Clients of OpenAI's library that never retry: nobody gets a 404, and what the new root accepts is served."""
    engine = cluster.engine()
    port = free_port()
    root = cluster.node("root", port=port, settings=HOLDING)
    site = cluster.node("site", parents=(root.url,))
    cluster.node("rack", parents=(site.url,), engines=(engine.url,))
    wait_for_model(root.url, MODEL)
    outcomes: Counter[str] = Counter()
    done = False

    async def client() -> None:
        async with openai.AsyncOpenAI(
            base_url=f"{root.url}/v1", api_key="x", max_retries=0, timeout=DEADLINE_S
        ) as client:
            while not done:
                try:
                    await client.chat.completions.create(
                        model=MODEL, messages=[{"role": "user", "content": "hello"}], max_tokens=4
                    )
                    outcomes["served"] += 1
                except openai.APIStatusError as error:
                    outcomes[str(error.status_code)] += 1
                except openai.APIConnectionError:  # no root listens
                    outcomes["not connected"] += 1
                    await asyncio.sleep(0.01)

    async def restart() -> None:
        nonlocal done
        running = [asyncio.ensure_future(client()) for _ in range(8)]
        await asyncio.sleep(0.3)
        await asyncio.to_thread(cluster.stop, root)
        before = outcomes["served"]
        again = await asyncio.to_thread(cluster.node, "root", port=port, settings=HOLDING, settle_s=10.0)
        await asyncio.to_thread(eventually, lambda: outcomes["served"] > before + 20)
        await asyncio.to_thread(eventually, lambda: held(again) == 0, "none to be held any more")
        done = True
        await asyncio.gather(*running)

    asyncio.run(restart())
    assert outcomes.keys() <= {"served", "not connected"}, outcomes


def test_a_request_to_a_root_that_just_started_goes_on_when_its_child_registers(cluster: Cluster, later: Later) -> None:
    root = cluster.node("root", settings=HOLDING, settle_s=8.0)
    streamed, whole = later(chat, root.url, stream=True), later(chat, root.url)
    wait_until_held(root, 2)
    cluster.node("site", parents=(root.url,), engines=(cluster.engine().url,))
    assert [response.result().status_code for response in (streamed, whole)] == [200, 200]
    assert streamed.result().text.startswith("data: ")  # and nothing before it


def test_a_root_that_just_started_refuses_a_model_that_nobody_has_when_it_knows_that(cluster: Cluster) -> None:
    root = cluster.node("root", settings=HOLDING, settle_s=0.5)
    assert refusal(chat(root.url)) == (404, "model_not_found", False)
    began = time.monotonic()
    assert chat(root.url).status_code == 404
    assert time.monotonic() - began < 2.0  # not held


def test_without_time_for_it_nothing_is_held(cluster: Cluster) -> None:
    root = cluster.node("root", settle_s=5.0)
    response = chat(root.url)
    assert refusal(response) == (503, "no_child_available", True)
    assert "this node started" in response.json()["error"]["message"]
    assert response.headers["retry-after"] in ("1", "2", "3", "4", "5")


def test_names_of_models_survive_a_restart_in_the_state_folder(cluster: Cluster, tmp_path: Path) -> None:
    settings = QUICK.model_copy(update={"security": SecuritySpec(state_dir=str(tmp_path))})
    root = cluster.serve(NodeConfig(name="root", settings=settings, **LOCAL))
    cluster.node("site", parents=(root.url,), engines=(cluster.engine().url,))
    wait_for_model(root.url, MODEL)
    file = tmp_path / "root" / "models.json"
    eventually(file.exists, "the file")
    cluster.stop(root)
    again = cluster.serve(NodeConfig(name="root", settings=settings, **LOCAL))
    assert refusal(chat(again.url)) == (503, "no_child_available", True)
    assert refusal(chat(again.url, "other")) == (404, "model_not_found", False)


@pytest.mark.parametrize("link", ["direct", "reverse"])
def test_a_site_restarts(cluster: Cluster, later: Later, link: Any) -> None:
    """The root still sends requests to it, which the new process does not believe to be a parent's."""
    engine, port = cluster.engine(), free_port()
    root = cluster.node("root", settings=HOLDING)
    site = cluster.node("site", parents=(root.url,), engines=(engine.url,), port=port, link=link)
    wait_for_model(root.url, MODEL)
    cluster.stop(site)
    waiting = [later(chat, root.url) for _ in range(3)]
    wait_until_held(root, 3)
    cluster.node("site", parents=(root.url,), engines=(engine.url,), port=port, link=link)
    assert [response.result().status_code for response in waiting] == [200] * 3


def test_a_rack_restarts_three_levels_below_and_brings_another_model(cluster: Cluster, later: Later) -> None:
    engine, port = cluster.engine(), free_port()
    root = cluster.node("root", settings=HOLDING)
    site = cluster.node("site", parents=(root.url,))
    rack = cluster.node("rack", parents=(site.url,), engines=(engine.url,), port=port)
    wait_for_model(root.url, MODEL)
    assert chat(root.url, "new").status_code == 404
    cluster.stop(rack)
    wait_until_absent(root)
    old = later(chat, root.url)
    wait_until_held(root)
    set_models(engine)
    cluster.node("rack", parents=(site.url,), engines=(engine.url,), port=port, settle_s=8.0)
    eventually(root.node.registry.is_incomplete, "the root to learn that the rack does not know its models")
    new = later(chat, root.url, "new")
    wait_until_held(root, 2)
    set_models(engine, MODEL, "new")
    assert (old.result().status_code, new.result().status_code) == (200, 200)


# -- engines -------------------------------------------------------------------------------------------------


def test_an_engine_restarts_with_an_empty_list(cluster: Cluster, later: Later) -> None:
    engine = cluster.engine()
    root = cluster.node("root", settings=HOLDING)
    cluster.node("site", parents=(root.url,), engines=(engine.url,))
    wait_for_model(root.url, MODEL)
    set_models(engine)
    wait_until_absent(root)
    waiting = later(chat, root.url)
    wait_until_held(root)
    set_models(engine, MODEL)
    assert waiting.result().status_code == 200


def test_a_node_registers_before_its_engine_was_probed(cluster: Cluster, later: Later) -> None:
    root = cluster.node("root", settings=HOLDING)
    site = cluster.node("site", parents=(root.url,), engines=(f"http://127.0.0.1:{free_port()}",))
    eventually(lambda: "site" in root.node.registry.children, "the site to register")
    waiting = later(chat, root.url)
    wait_until_held(root)
    cluster.node("rack", parents=(site.url,), engines=(cluster.engine().url,))
    assert waiting.result().status_code == 200


def test_an_engine_moves_from_one_node_to_another(cluster: Cluster, later: Later) -> None:
    engine = EngineConfig(name="gpu-1", kind="simulated", url=cluster.engine().url)
    root = cluster.node("root", settings=HOLDING)
    parents = {"parents": (root.url,), "settings": HOLDING, **LOCAL}
    a = cluster.serve(NodeConfig(name="a", engines=(engine,), **parents))
    b = cluster.serve(NodeConfig(name="b", **parents))
    wait_for_model(root.url, MODEL)

    async def apply(node: Running, *engines: EngineConfig) -> None:
        await node.node.apply(node.node.config.model_copy(update={"engines": engines}))

    cluster.call(apply(a))
    at_root, at_a = later(chat, root.url), later(chat, a.url)
    wait_until_held(root)
    wait_until_held(a)
    cluster.call(apply(b, engine))
    assert at_root.result().status_code == 200
    cluster.call(apply(a, engine))
    assert at_a.result().status_code == 200


def test_a_declared_model_is_not_unknown(cluster: Cluster) -> None:
    engine = EngineConfig(name="e", kind="vllm", url=f"http://127.0.0.1:{free_port()}", models={"big": "org/big"})
    far = ("far",)
    root = cluster.serve(NodeConfig(name="root", engines=(engine,), models_below=far, settings=QUICK, **LOCAL))
    for name in ("big", "far"):
        response = chat(root.url, name)
        assert refusal(response) == (503, "no_child_available", True)
        assert "is declared in the configuration" in response.json()["error"]["message"]


# -- other ways to ask ---------------------------------------------------------------------------------------


def test_an_alias_goes_to_whichever_of_its_models_appears_first(cluster: Cluster, later: Later) -> None:
    aliases = {"gpt": parse_targets(["big", "small"])}
    root = cluster.serve(NodeConfig(name="root", aliases=aliases, settings=HOLDING, **LOCAL), settle_s=8.0)
    waiting = later(chat, root.url, "gpt")
    wait_until_held(root)
    cluster.node("site", parents=(root.url,), engines=(cluster.engine(models=("small",)).url,))
    response = waiting.result()
    assert (response.status_code, response.json()["model"]) == (200, "small")


def test_fastchats_clients_wait_for_a_translated_model(cluster: Cluster, later: Later) -> None:
    root = cluster.node("root", settings=HOLDING, settle_s=8.0)
    body = {"model": MODEL, "prompt": "hello", "max_new_tokens": 2}
    frames = later(httpx.post, f"{root.url}/worker_generate_stream", json=body, timeout=DEADLINE_S)
    details = later(httpx.post, f"{root.url}/model_details", json={"model": MODEL}, timeout=DEADLINE_S)
    wait_until_held(root, 2)
    cluster.node("rack", parents=(root.url,), engines=(cluster.engine().url,), kind="openai")
    assert json.loads(frames.result().content.split(b"\0")[0])["error_code"] == 0
    assert "through the openai API only" in details.result().json()["text"]  # what cannot be translated is refused


def test_errors_on_fastchats_paths_say_when_to_try_again(cluster: Cluster) -> None:
    root = cluster.node("root", settle_s=5.0)
    response = httpx.post(f"{root.url}/worker_generate_stream", json={"model": MODEL})
    assert (response.status_code, json.loads(response.content.strip(b"\0"))["error_code"]) == (200, 50005)
    assert response.headers["retry-after"] in ("1", "2", "3", "4", "5")


def test_a_workers_address_and_a_single_model_wait_too(cluster: Cluster, later: Later) -> None:
    root = cluster.node("root", settings=HOLDING, settle_s=8.0)
    address = later(httpx.post, f"{root.url}/get_worker_address", json={"model": MODEL}, timeout=DEADLINE_S)
    model = later(httpx.get, f"{root.url}/v1/models/{MODEL}", timeout=DEADLINE_S)
    wait_until_held(root, 2)
    site = cluster.node("site", parents=(root.url,), engines=(cluster.engine().url,))
    assert address.result().json() == {"address": site.url}
    assert model.result().json()["id"] == MODEL


def test_a_single_model_that_may_exist_is_503(cluster: Cluster) -> None:
    root = cluster.node("root", settle_s=5.0)
    assert refusal(httpx.get(f"{root.url}/v1/models/{MODEL}")) == (503, "no_child_available", True)
    assert httpx.post(f"{root.url}/get_worker_address", json={"model": MODEL}).json() == {"address": ""}
    root.node.registry.known.start(0.0)
    assert refusal(httpx.get(f"{root.url}/v1/models/{MODEL}")) == (404, "model_not_found", False)


# -- limits --------------------------------------------------------------------------------------------------


def test_a_client_that_leaves_is_not_held_any_more(cluster: Cluster) -> None:
    root = cluster.node("root", settings=HOLDING, settle_s=8.0)
    body = json.dumps({"model": MODEL, "messages": []}).encode()
    with socket.create_connection(("127.0.0.1", root.port)) as client:
        client.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body) + body
        )
        wait_until_held(root)
    eventually(lambda: held(root) == 0, "the request to be forgotten")


def test_made_up_names_do_not_fill_the_memory(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, later: Later, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(waiting_room, "MAX_REQUESTS", 2)
    root = cluster.node("root", settings=HOLDING, settle_s=3.0)
    waiting = [later(chat, root.url, f"made-up-{number}") for number in range(2)]
    wait_until_held(root, 2)
    for number in range(5):
        assert refusal(chat(root.url, f"made-up-too-{number}")) == (503, "no_child_available", True)
    assert "this node has just started" in caplog.text
    assert "made-up" not in caplog.text
    assert [refusal(response.result()) for response in waiting] == [(404, "model_not_found", False)] * 2
    assert chat(root.url, "made-up").status_code == 404
    assert (held(root), root.node.registry.known.ages(0.0)) == (0, {})


@pytest.mark.parametrize("path", ["/get_worker_address", f"/v1/models/{MODEL}"])
def test_a_client_of_another_path_that_leaves_is_not_held_any_more(cluster: Cluster, path: str) -> None:
    root = cluster.node("root", settings=HOLDING, settle_s=8.0)
    body = json.dumps({"model": MODEL}).encode() if path == "/get_worker_address" else b""
    method = b"POST" if body else b"GET"
    with socket.create_connection(("127.0.0.1", root.port)) as client:
        head = b"%b %b HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % (method, path.encode(), len(body))
        client.sendall(head + body)
        wait_until_held(root)
    eventually(lambda: held(root) == 0, "the request to be forgotten", 4.0)


def test_a_held_request_keeps_to_its_deadline(cluster: Cluster) -> None:
    limits = {MODEL: ModelLimits(total_timeout_s=0.2)}
    root = cluster.node("root", settings=HOLDING.model_copy(update={"models": limits}), settle_s=8.0)
    began = time.monotonic()
    assert refusal(chat(root.url)) == (504, "deadline_passed", False)
    assert time.monotonic() - began < 4.0


def test_a_node_that_ends_refuses_what_it_holds(cluster: Cluster, later: Later) -> None:
    settings: Settings = HOLDING.model_copy(update={"grace_s": 1.0})
    root = cluster.node("root", settings=settings, settle_s=8.0)
    waiting = later(chat, root.url)
    wait_until_held(root)
    root.node.lane.drain()  # what comes now is refused at once, since another instance may take it
    assert refusal(chat(root.url)) == (503, "no_child_available", True)
    assert held(root) == 1
    cluster.stop(root)
    assert refusal(waiting.result()) == (503, "no_child_available", True)


def test_a_child_that_was_never_reached_is_not_waited_for(cluster: Cluster) -> None:
    """It registers and reports, but nothing reaches it at its URL: that does not pass in a moment."""
    root = cluster.node("root", settings=HOLDING)
    cluster.node(
        "site", parents=(root.url,), engines=(cluster.engine().url,), advertise=f"http://127.0.0.1:{free_port()}"
    )
    wait_for_model(root.url, MODEL)
    began = time.monotonic()
    assert refusal(chat(root.url)) == (502, "child_failed", False)
    assert time.monotonic() - began < 4.0


def test_a_child_that_reports_but_is_not_reached_any_more_is_not_waited_for_long(cluster: Cluster) -> None:
    root = cluster.node("root", settings=HOLDING)
    cluster.node("site", parents=(root.url,), engines=(cluster.engine().url,))
    wait_for_model(root.url, MODEL)
    assert chat(root.url).status_code == 200

    async def lose() -> None:
        child = root.node.registry.children["site"]
        root.node.lane.close_pool(child)
        child.move_to(f"http://127.0.0.1:{free_port()}")

    cluster.call(lose())
    began = time.monotonic()
    assert refusal(chat(root.url)) == (502, "child_failed", False)
    assert 0.2 < time.monotonic() - began < 6.0
