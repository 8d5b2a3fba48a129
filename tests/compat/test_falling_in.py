"""FastChat's own programs at the edge of each trap: what they make of what our nodes do there."""

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

from hierarchy.http import render
from hierarchy.registry.child import FASTCHAT_EXPIRY_S
from hierarchy.relay import timeouts
from hierarchy.uplink.registration import FASTCHAT_INTERVAL_S, JITTER
from tests.cluster import CALM, Cluster, wait_for_model
from tests.compat.conftest import Levels, ask, frames
from tests.compat.programs import Program, Programs, needs_fastchat
from tests.support import DEADLINE_S, eventually

pytestmark = needs_fastchat
MODEL = "vicuna"
TINYCHAT_EXPIRY_S = 30.0  # llm-awq, tinychat/utils/constants.py
WORDS = "a b c d e f g h"


@pytest.fixture(scope="module", autouse=True)
def quick_signs_of_life() -> Iterator[None]:
    """Who waits for a first word gets one every 0.2 s."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timeouts, "COMMENT_EVERY_S", 0.2)
        patch.setattr(render, "COMMENT_EVERY_S", 0.2)
        yield


@pytest.fixture(scope="module")
def levels(cluster: Cluster) -> Levels:
    return Levels(cluster)


@pytest.fixture(scope="module")
def worker(levels: Levels, programs: Programs) -> Program:
    worker = programs.worker(levels.rack.url, MODEL)
    wait_for_model(levels.root.url, MODEL)
    return worker


def body(words: str, model: str = MODEL) -> dict[str, object]:
    return {"model": model, "prompt": f"USER: {words} ASSISTANT:", "echo": False}


def test_a_worker_that_was_away_leaves_no_template_behind(levels: Levels, programs: Programs) -> None:
    """Whatever has another status FastChat's API server keeps as the template, and every later chat fails."""
    mortal = programs.worker(levels.rack.url, "mortal")
    wait_for_model(levels.root.url, "mortal")
    server = programs.api_server(levels.root.url)
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        mortal.kill()
        with pytest.raises(openai.APIError):
            client.chat.completions.create(model="mortal", messages=[{"role": "user", "content": "a"}])
        told = ask(levels.root.url, "/worker_get_conv_template", model="mortal")
        assert ("conv" in told, told["error_code"]) == (False, 50001)
        programs.worker(levels.rack.url, "mortal", port=int(mortal.url.rpartition(":")[2]))
        answer = client.chat.completions.create(model="mortal", messages=[{"role": "user", "content": "a"}])
        assert answer.choices[0].message.content == "you said a"


def test_a_reader_of_streams_shows_our_error(levels: Levels, programs: Programs) -> None:
    said = programs.test_message("", "nope", "a", worker=levels.root.url)
    assert "nope" in said.partition("Assistant: ")[2]


def test_signs_of_life_are_read_over(levels: Levels, worker: Program, programs: Programs) -> None:
    said: list[str] = []
    client = threading.Thread(target=lambda: said.append(programs.test_message(levels.root.url, MODEL, "WAIT a")))
    client.start()
    child = levels.root.node.registry.children["site"]
    eventually(lambda: child.in_flight == 1, "its request", 2 * DEADLINE_S)
    url = f"{levels.root.url}/worker_generate_stream"
    with httpx.stream("POST", url, json=body("WAIT b"), timeout=DEADLINE_S) as answer:  # which came later, and so waits
        pieces = answer.iter_raw()
        content = next(pieces)
        assert content == b"\0"  # before the worker said a word
        worker.process.send_signal(signal.SIGUSR1)
        content += b"".join(pieces)
    assert json.loads(content.split(b"\0")[-2])["text"] == "you said WAIT b"
    client.join()
    assert said[0].endswith("ASSISTANT: you said WAIT a\n")


def test_each_frame_arrives_when_it_was_sent(levels: Levels, worker: Program) -> None:
    arrived: list[float] = []
    url = f"{levels.root.url}/worker_generate_stream"
    with httpx.stream("POST", url, json=body("SLOW " + WORDS), timeout=DEADLINE_S) as answer:
        for piece in answer.iter_raw():
            arrived += [time.monotonic()] * piece.count(b"}\0")
    assert len(arrived) == 11
    assert arrived[-1] - arrived[0] > 0.3  # the worker took 1 s between its first frame and its last


@pytest.mark.parametrize("link", ["direct", "reverse"])
def test_a_client_of_another_subnet_is_given_the_roots_address(cluster: Cluster, programs: Programs, link: str) -> None:
    """By its setting, or as it knows that the child cannot be dialled; the client streams from there."""
    settings = CALM.model_copy(update={"address": "self" if link == "direct" else "worker"})
    root = cluster.node("root", settings=settings)
    site = cluster.node("site", parents=(root.url,), link=link)  # type: ignore[arg-type]
    programs.worker(site.url, MODEL)
    wait_for_model(root.url, MODEL)
    said = programs.test_message(root.url, MODEL, "a")
    assert f"worker_addr: {root.url}\n" in said
    assert said.endswith("ASSISTANT: you said a\n")


def test_a_worker_that_says_nothing_before_it_listens_is_asked_until_it_does(
    levels: Levels, programs: Programs
) -> None:
    port = programs.port()
    url = f"http://127.0.0.1:{port}"
    began = time.monotonic()
    assert ask(levels.rack.url, "/register_worker", worker_name=url, check_heart_beat=True, worker_status=None) is None
    assert time.monotonic() - began < 1.0
    # It registers with another controller, so that our rack hears nothing more from it.
    programs.worker(programs.controller().url, "late", port=port)
    wait_for_model(levels.root.url, "late")


def test_a_queue_that_sticks_high_is_not_all_that_is_looked_at(cluster: Cluster, programs: Programs) -> None:
    """FastChat's worker loses a place at each defect. Who believes reports alone sends all to the other worker."""
    rack = cluster.node("rack")
    stuck = programs.worker(rack.url, MODEL)
    eventually(lambda: stuck.url in rack.node.registry.children, "the first worker")
    assert ask(rack.url, "/worker_generate", **body("RAISE"))["error_code"] == 50001
    assert ask(stuck.url, "/worker_get_status")["queue_length"] == 1  # nothing runs there
    child = rack.node.registry.children[stuck.url]
    eventually(lambda: child.current().queue_length == 1 and child.in_flight == 0, "a beat that tells of it")
    programs.worker(rack.url, MODEL)
    wait_for_model(rack.url, MODEL, 2)
    served: Counter[str] = Counter()

    def ask_it() -> None:
        answer = httpx.post(f"{rack.url}/worker_generate_stream", json=body("SLOW " + WORDS), timeout=DEADLINE_S)
        assert frames(answer)[-1]["error_code"] == 0
        served[answer.headers["x-hierarchy-path"]] += 1

    threads = [threading.Thread(target=ask_it) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(served), served.total()) == (2, 5)


def test_our_terms_are_theirs(programs: Programs) -> None:
    """A worker of theirs may miss a beat here, and our beats come in time for the stricter of their controllers."""
    names = "WORKER_HEART_BEAT_INTERVAL", "CONTROLLER_HEART_BEAT_EXPIRATION"
    script = f"""import os
for name in {names}: os.environ.pop("FASTCHAT_" + name, None)
from fastchat import constants
print(*[getattr(constants, name) for name in {names}])"""
    beat_s, expiration_s = map(int, programs.run("-c", script).split())
    assert beat_s < expiration_s <= FASTCHAT_EXPIRY_S
    assert min(expiration_s, TINYCHAT_EXPIRY_S) > FASTCHAT_INTERVAL_S * (1 + JITTER)
