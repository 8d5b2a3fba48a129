"""How FastChat's programs react to what nodes do in each of the cases that `test_traps` lists."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator

import httpx
import openai
import pytest

from hierarchy.http import promise
from hierarchy.registry.child import FASTCHAT_EXPIRY_S
from hierarchy.relay import timeouts
from hierarchy.uplink.registration import FASTCHAT_INTERVAL_S
from hierarchy.uplink.thinning import JITTER
from tests.cluster import CALM, Cluster, wait_for_model
from tests.compat.conftest import Levels, frames, post
from tests.compat.programs import Program, Programs, needs_fastchat
from tests.support import DEADLINE_S, eventually

pytestmark = needs_fastchat
MODEL = "vicuna"
TINYCHAT_EXPIRY_S = 30.0  # llm-awq, tinychat/utils/constants.py
WORDS = "a b c d e f g h"


@pytest.fixture(scope="module", autouse=True)
def short_comment_interval() -> Iterator[None]:
    """A client that waits for the first token gets an empty frame every 0.2 s."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timeouts, "COMMENT_EVERY_S", 0.2)
        patch.setattr(promise, "COMMENT_EVERY_S", 0.2)
        yield


@pytest.fixture(scope="module")
def worker(levels: Levels, programs: Programs) -> Program:
    worker = programs.worker(levels.rack.url, MODEL)
    wait_for_model(levels.root.url, MODEL)
    return worker


def body(words: str, model: str = MODEL) -> dict[str, object]:
    return {"model": model, "prompt": f"USER: {words} ASSISTANT:", "echo": False}


def test_a_worker_that_comes_back_has_its_own_template(levels: Levels, programs: Programs) -> None:
    """FastChat's API server keeps the text of any other status as the template, and all later chats fail."""
    mortal = programs.worker(levels.rack.url, "mortal")
    wait_for_model(levels.root.url, "mortal")
    server = programs.api_server(levels.root.url)
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        mortal.kill()
        with pytest.raises(openai.APIError):
            client.chat.completions.create(model="mortal", messages=[{"role": "user", "content": "a"}])
        response = post(levels.root.url, "/worker_get_conv_template", model="mortal")
        assert ("conv" in response, response["error_code"]) == (False, 50001)
        programs.worker(levels.rack.url, "mortal", port=mortal.port)
        completion = client.chat.completions.create(model="mortal", messages=[{"role": "user", "content": "a"}])
        assert completion.choices[0].message.content == "you said a"


def test_a_stream_client_shows_the_nodes_error(levels: Levels, programs: Programs) -> None:
    output = programs.test_message("", "nope", "a", worker=levels.root.url)
    assert "nope" in output.partition("Assistant: ")[2]


def test_empty_frames_are_ignored(levels: Levels, worker: Program, programs: Programs) -> None:
    output: list[str] = []
    client = threading.Thread(target=lambda: output.append(programs.test_message(levels.root.url, MODEL, "WAIT a")))
    client.start()
    child = levels.root.node.registry.children["site"]
    eventually(lambda: child.in_flight == 1, "its request", 2 * DEADLINE_S)
    url = f"{levels.root.url}/worker_generate_stream"
    with httpx.stream("POST", url, json=body("WAIT b"), timeout=DEADLINE_S) as response:  # it comes second, so it waits
        pieces = response.iter_raw()
        content = next(pieces)
        assert content == b"\0"  # before the worker sent a token
        worker.process.send_signal(signal.SIGUSR1)
        content += b"".join(pieces)
    assert json.loads(content.split(b"\0")[-2])["text"] == "you said WAIT b"
    client.join()
    assert output[0].endswith("ASSISTANT: you said WAIT a\n")


def test_each_frame_arrives_when_it_is_sent(levels: Levels, worker: Program) -> None:
    arrived: list[float] = []
    url = f"{levels.root.url}/worker_generate_stream"
    with httpx.stream("POST", url, json=body("SLOW " + WORDS), timeout=DEADLINE_S) as response:
        for piece in response.iter_raw():
            arrived += [time.monotonic()] * piece.count(b"}\0")
    assert len(arrived) == 11
    assert arrived[-1] - arrived[0] > 0.3  # the worker takes 1 s from its first frame to its last


@pytest.mark.parametrize("link", ["direct", "reverse"])
def test_a_client_in_another_subnet_gets_the_roots_address(cluster: Cluster, programs: Programs, link: str) -> None:
    """Because of the setting, or because the child cannot be dialled. The client streams from that address."""
    settings = CALM.model_copy(update={"address": "self" if link == "direct" else "worker"})
    root = cluster.node("root", settings=settings)
    site = cluster.node("site", parents=(root.url,), link=link)  # type: ignore[arg-type]
    programs.worker(site.url, MODEL)
    wait_for_model(root.url, MODEL)
    output = programs.test_message(root.url, MODEL, "a")
    assert f"worker_addr: {root.url}\n" in output
    assert output.endswith("ASSISTANT: you said a\n")


def test_a_worker_without_a_status_is_probed_until_it_listens(levels: Levels, programs: Programs) -> None:
    port = programs.port()
    url = f"http://127.0.0.1:{port}"
    start = time.monotonic()
    assert post(levels.rack.url, "/register_worker", worker_name=url, check_heart_beat=True, worker_status=None) is None
    assert time.monotonic() - start < 1.0
    # The worker registers with another controller, so the rack gets no heartbeat from it.
    programs.worker(programs.controller().url, "late", port=port)
    wait_for_model(levels.root.url, "late")


def test_a_reported_queue_that_stays_too_high_does_not_decide_alone(cluster: Cluster, programs: Programs) -> None:
    """FastChat's worker loses a slot at each exception. A node that uses only reports would avoid it from then on."""
    rack = cluster.node("rack")
    stuck = programs.worker(rack.url, MODEL)
    eventually(lambda: stuck.url in rack.node.registry.children, "the first worker")
    assert post(rack.url, "/worker_generate", **body("RAISE"))["error_code"] == 50001
    assert post(stuck.url, "/worker_get_status")["queue_length"] == 1  # nothing runs there
    child = rack.node.registry.children[stuck.url]
    eventually(lambda: child.total.value == 1 and child.in_flight == 0, "a heartbeat with that queue")
    programs.worker(rack.url, MODEL)
    wait_for_model(rack.url, MODEL, 2)
    served: Counter[str] = Counter()

    def send() -> None:
        response = httpx.post(f"{rack.url}/worker_generate_stream", json=body("SLOW " + WORDS), timeout=DEADLINE_S)
        assert frames(response)[-1]["error_code"] == 0
        served[response.headers["x-hierarchy-path"]] += 1

    threads = [threading.Thread(target=send) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(served), served.total()) == (2, 5)


def test_intervals_and_expiry_are_compatible(programs: Programs) -> None:
    """A FastChat worker may miss a heartbeat, and a node's heartbeats come in time for the stricter controller."""
    names = "WORKER_HEART_BEAT_INTERVAL", "CONTROLLER_HEART_BEAT_EXPIRATION"
    script = f"""import os
for name in {names}: os.environ.pop("FASTCHAT_" + name, None)
from fastchat import constants
print(*[getattr(constants, name) for name in {names}])"""
    heartbeat_s, expiration_s = map(int, programs.run("-c", script).split())
    assert heartbeat_s < expiration_s <= FASTCHAT_EXPIRY_S
    assert min(expiration_s, TINYCHAT_EXPIRY_S) > FASTCHAT_INTERVAL_S * (1 + JITTER)
