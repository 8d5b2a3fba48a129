"""Any client reaches any engine, through three levels: only the last node translates; all else is as always."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.relay.raw import SSE_HEAD, ReceivedResponse, chunk, http_response, post
from tests.relay.support import CLOSE, HOLD, Script, Tree, World, tree

CONV = {"roles": ["USER", "ASSISTANT"], "system_message": "Be good.", "sep_style": 2, "sep": " ", "sep2": "</s>"}
TEMPLATE, DETAILS, COUNT = (
    http_response(json.dumps(one).encode())
    for one in ({"conv": CONV}, {"context_length": 50}, {"count": 9, "error_code": 0})
)
ABOUT = ((TEMPLATE,), (DETAILS,), (COUNT,))
FRAMES_HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"


def frame(text: str, code: int = 0, **fields: Any) -> bytes:
    return chunk(json.dumps({"text": text, "error_code": code, **fields}).encode() + b"\0")


def chat(*fields: bytes, **more: Any) -> bytes:
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], **more}
    return post(json.dumps(body).encode(), b"content-type: application/json", *fields)


def generate(path: bytes = b"/worker_generate_stream") -> bytes:
    return post(b'{"model":"m","prompt":"p","echo":false}', path=path)


def data(found: ReceivedResponse) -> list[Any]:
    parts = [part.removeprefix(b"data: ") for part in found.body.split(b"\n\n") if part.startswith(b"data: ")]
    return [json.loads(part) for part in parts if part != b"[DONE]"]


STREAM: Script = (FRAMES_HEAD, frame("Hel"), frame("Hello"), frame("Hello", finish_reason="length"), END)


@pytest.fixture(scope="module")
def _workers(world: World) -> Iterator[Tree]:
    with tree(world, levels=3, kind="fastchat") as running:
        yield running


@pytest.fixture
def workers(_workers: Tree) -> Iterator[Tree]:
    """Three nodes above a FastChat worker that has not described itself yet."""
    _workers.child().process_number += 1
    _workers.engine.plan()
    yield _workers
    _workers.wait_idle()
    assert _workers.world.problems == []


def test_a_chat_as_a_stream(workers: Tree) -> None:
    workers.engine.plan(*ABOUT, STREAM)
    found = workers.request(chat(b"accept-encoding: gzip", b"x-request-id: 7", stream=True))
    assert (found.status, found.complete) == (200, True)
    assert found.get(b"content-type") == [b"text/event-stream; charset=utf-8"]
    assert found.get(b"x-hierarchy-path") == [b"n1/n2/e0"]
    assert "".join(one["choices"][0]["delta"].get("content", "") for one in data(found)) == "Hello"
    assert data(found)[-1]["choices"][0]["finish_reason"] == "length"
    assert found.body.endswith(b"data: [DONE]\n\n")
    received = workers.engine.received
    paths = [one.head.split(b" ", 2)[1] for one in received]
    assert paths == [b"/worker_get_conv_template", b"/model_details", b"/count_token", b"/worker_generate_stream"]
    sent = json.loads(received[-1].body)
    assert (sent["prompt"], sent["max_new_tokens"]) == ("Be good. USER: Hi ASSISTANT:", 40)
    assert (received[-1].get(b"accept-encoding"), received[-1].get(b"x-request-id")) == ([], [b"7"])


def test_a_chat_in_one_piece_asks_the_worker_about_itself_once(workers: Tree) -> None:
    workers.engine.plan(*ABOUT, STREAM, (COUNT,), STREAM)
    for _ in range(2):
        found = workers.request(chat())
        assert json.loads(found.body)["choices"][0]["message"]["content"] == "Hello"
        assert found.get(b"content-type") == [b"application/json"]
        assert found.get(b"content-length") == [b"%d" % len(found.body)]
    assert len(workers.engine.received) == 6


def test_a_restarted_worker_is_asked_again(workers: Tree) -> None:
    workers.engine.plan(*ABOUT, STREAM)
    workers.request(chat())
    last = workers.nodes[-1]
    workers.world.call(lambda: last.registry.mark_down(workers.child(), "restarts"))
    workers.wait_ready()
    workers.engine.plan(*ABOUT, STREAM)
    workers.request(chat())
    assert len(workers.engine.received) == 4


def test_a_client_of_http_1_0(workers: Tree) -> None:
    workers.engine.plan(*ABOUT, STREAM)
    body = chat(stream=True).replace(b"HTTP/1.1", b"HTTP/1.0")
    found = workers.request(body)
    assert found.body.endswith(b"data: [DONE]\n\n")
    assert found.get(b"transfer-encoding") == []


def test_a_stop_string_hangs_up_on_the_worker(workers: Tree) -> None:
    workers.engine.plan(*ABOUT, (FRAMES_HEAD, frame("yes END"), HOLD))
    found = workers.request(chat(stop="END"))
    assert json.loads(found.body)["choices"][0] == {
        "index": 0,
        "message": {"role": "assistant", "content": "yes "},
        "logprobs": None,
        "finish_reason": "stop",
    }
    workers.world.eventually(lambda: workers.engine.gone == 1, "the worker to see that the client has left")


def test_a_client_that_leaves_hangs_up_on_the_worker(workers: Tree) -> None:
    workers.engine.plan(*ABOUT, (FRAMES_HEAD, frame("a"), HOLD))
    with workers.client() as client:
        client.send(chat(stream=True))
        client.read_until(b'"content":"a"')
    workers.world.eventually(lambda: workers.engine.gone == 1, "the worker to see that the client has left")


def test_an_error_frame_at_once_has_a_status(workers: Tree) -> None:
    workers.engine.plan(*ABOUT, (FRAMES_HEAD, frame("prompt too long", 40303), END))
    found = workers.request(chat(stream=True))
    assert (found.status, found.error["message"]) == (400, "prompt too long")


@pytest.mark.parametrize("cut", [(frame("", 50002), END), (CLOSE,), (chunk(b"nonsense\0"), END)])
def test_a_stream_that_breaks_ends_with_an_error(workers: Tree, cut: Script) -> None:
    workers.engine.plan(*ABOUT, (FRAMES_HEAD, frame("a"), HOLD, *cut))
    with workers.client() as client:
        client.send(chat(stream=True))
        assert client.read_until(b'"content":"a"').startswith(b"HTTP/1.1 200 OK\r\n")
        workers.engine.release()
        output = client.read_until(END)
    *_, last = output.split(b"data: ")
    assert output.count(b"event: error\n") == 1
    assert b'{"error":' in last.replace(b" ", b"")
    assert b"[DONE]" not in output


def test_a_request_that_a_worker_cannot_serve_is_refused_without_sending_it(workers: Tree) -> None:
    workers.engine.plan(*ABOUT)
    found = workers.request(chat(n=2))
    assert (found.status, found.error["param"], found.error["code"]) == (400, "n", "bad_request")
    assert workers.engine.received == []


def test_embeddings(workers: Tree) -> None:
    workers.engine.plan((http_response(b'{"embedding":[[1.0]],"token_num":2}'),))
    found = workers.request(post(b'{"model":"m","input":"a"}', path=b"/v1/embeddings"))
    assert json.loads(found.body)["data"][0]["embedding"] == [1.0]


def test_a_worker_without_a_template_gets_whole_prompts_and_echoes_them(workers: Tree) -> None:
    missing = http_response(b'{"detail":"Not Found"}', status=b"404 Not Found")
    workers.engine.plan((missing,), (FRAMES_HEAD, frame("Once upon"), frame("Once upon a time"), END))
    found = workers.request(post(b'{"model":"m","prompt":"Once"}', path=b"/v1/completions"))
    assert json.loads(found.body)["choices"][0]["text"] == " upon a time"
    found = workers.request(chat())
    assert (found.status, "/v1/completions" in found.error["message"]) == (400, True)


@pytest.mark.parametrize("status", [b"404 Not Found", b"422 Unprocessable Entity"])
def test_a_workers_refusal_on_paths_of_workers_has_status_200(workers: Tree, status: bytes) -> None:
    """Naive relaying would make FastChat's API server keep it for the model's template."""
    workers.engine.plan((http_response(b'{"detail":"no"}', status=status),))
    found = workers.request(post(path=b"/worker_get_conv_template"))
    assert (found.status, json.loads(found.body)["error_code"]) == (200, 50001)


def test_a_worker_that_breaks_on_these_paths_gives_an_error_object(workers: Tree) -> None:
    workers.engine.plan(*[(http_response(b"Internal Server Error", status=b"500 Oops"),)] * 3)
    found = workers.request(post(path=b"/worker_get_conv_template"))
    assert (found.status, json.loads(found.body)["error_code"]) == (200, 50001)


def event(text: str, reason: str | None = None) -> bytes:
    content = {"choices": [{"index": 0, "text": text, "finish_reason": reason}]}
    return chunk(b"data: %b\n\n" % json.dumps(content).encode())


def test_fastchats_clients_reach_engines_of_openais_family(chain: Tree) -> None:
    done = chunk(b"data: [DONE]\n\n")
    chain.engine.plan((SSE_HEAD, event("Hel"), event("lo", "stop"), done, END))
    found = chain.request(generate())
    assert (found.status, found.complete) == (200, True)
    frames = [json.loads(one) for one in found.body.split(b"\0") if one]
    assert frames[-1]["text"] == "Hello"
    assert frames[-1]["finish_reason"] == "stop"
    received = chain.engine.received[-1]
    assert received.head.startswith(b"POST /v1/completions HTTP/1.1\r\n")
    assert json.loads(received.body)["prompt"] == "p"
    chain.engine.plan((http_response(b'{"choices":[{"text":"Hi","finish_reason":"stop"}]}'),))
    assert json.loads(chain.request(generate(b"/worker_generate")).body)["text"] == "Hi"


def test_a_cut_stream_for_a_fastchat_client_ends_with_an_error_frame(chain: Tree) -> None:
    chain.engine.plan((SSE_HEAD, event("Hel"), END))
    *_, last = [one for one in chain.request(generate()).body.split(b"\0") if one]
    assert json.loads(last)["error_code"] == 50001


def test_an_engines_refusal_is_a_frame(chain: Tree) -> None:
    chain.engine.plan((http_response(b'{"error":{"message":"too long"}}', status=b"400 Bad Request"),))
    found = chain.request(generate())
    assert (found.status, found.body) == (200, b'{"text":"too long","error_code":40302}\0')
