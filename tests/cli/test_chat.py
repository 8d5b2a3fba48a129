"""`hierarchy chat`, with a node that the test controls."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from hierarchy.cli.chat import Answer
from tests.cli.http_server import QuietHandler, http_server
from tests.cli.program import Ended, fails, program

MODELS = {"object": "list", "data": [{"id": "smollm2-135m"}, {"id": "other"}]}
DEADLINE_S = 20.0


def event(content: str | None = None, finish: str | None = None, **fields: Any) -> str:
    delta = {} if content is None else {"content": content}
    body = {"model": "smollm2-135m", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}
    return f"data: {json.dumps(body | fields)}\n\n"


USAGE = f"data: {json.dumps({'choices': [], 'usage': {'completion_tokens': 42}})}\n\n"
DONE = "data: [DONE]\n\n"
PARIS = [event(""), event("Paris"), event(" is the\n"), event("capital."), event(None, "stop"), USAGE, DONE]


class Node:
    """A node whose responses the test sets; it records the requests."""

    def __init__(self) -> None:
        self.models: tuple[int, Any] = (200, MODELS)
        self.status = 200
        self.content_type = "text/event-stream"
        self.answer: list[str] = PARIS
        self.cut = False  #: close the connection before the end of the answer
        self.release: threading.Event | None = None  #: hold the end of the answer until this is set
        self.requests: list[dict[str, Any]] = []
        self.url = ""


@pytest.fixture
def node() -> Iterator[Node]:
    state = Node()

    class Handler(QuietHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:  # noqa: N802 - as http.server calls it
            status, body = state.models
            self.reply(status, json.dumps(body) if not isinstance(body, str) else body)

        def do_POST(self) -> None:  # noqa: N802 - as http.server calls it
            state.requests.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            if state.status != 200:
                return self.reply(state.status, "".join(state.answer))
            self.send_response(200)
            self.send_header("content-type", state.content_type)
            self.send_header("transfer-encoding", "chunked")
            self.send_header("x-hierarchy-path", "site-a/gpu-1")
            self.end_headers()
            for part in state.answer:
                data = part.encode()
                self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
            if state.release:
                state.release.wait(DEADLINE_S)
            if not state.cut:
                self.wfile.write(b"0\r\n\r\n")
            self.close_connection = True
            return None

        def reply(self, status: int, body: str) -> None:
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

    with http_server(Handler) as state.url:
        yield state


def ask(url: str, *args: str, stdin: str = "") -> Ended:
    return program("chat", url, *args, stdin=stdin)


def test_the_answer_is_streamed_and_its_path_shown(node: Node) -> None:
    result = ask(node.url, "What is the capital of France?")
    assert (result.status, result.stdout) == (0, "Paris is the\ncapital.\n")
    assert re.fullmatch(
        r"via site-a/gpu-1 · smollm2-135m · 42 tokens · \d+\.\d\d s to first token( · \d+ tokens/s)?\n", result.stderr
    )
    (request,) = node.requests
    assert request["model"] == "smollm2-135m"  # the first that the node lists
    assert request["stream"] is True
    assert request["messages"] == [{"role": "user", "content": "What is the capital of France?"}]
    assert not {"max_tokens", "temperature"} & request.keys()


def test_options_and_the_question_on_stdin_are_sent(node: Node) -> None:
    result = ask(
        node.url, "--model", "other", "--max-tokens", "7", "--temperature", "0", "--system", "Be brief.", stdin="Why?\n"
    )
    assert result.status == 0
    (request,) = node.requests
    assert (request["model"], request["max_tokens"], request["temperature"]) == ("other", 7, 0)
    assert request["messages"] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]


def test_the_answer_appears_as_it_arrives(node: Node) -> None:
    node.answer, node.release = PARIS[:2], threading.Event()
    code = "import sys, typer; from hierarchy.cli.chat import chat; typer.run(chat)"
    process = subprocess.Popen(
        [sys.executable, "-c", code, node.url, "Q"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        assert os.read(process.stdout.fileno(), 100) == b"Paris"  # while the rest is held
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=DEADLINE_S)
        assert (process.returncode, out.strip(), err.strip()) == (130, b"", b"")
    finally:
        process.kill()
        process.communicate()
        node.release.set()


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (404, {"error": {"message": "no model 'x' here", "code": "model_not_found"}}, "404: no model 'x' here"),
        (503, {"error": {"message": "no child is free"}}, "503: no child is free"),
        (500, {"error": "just text"}, "500: just text"),
        (502, "<html>bad\x1b gateway</html>", "<html>bad\\x1b gateway</html>"),
        (500, "", "Internal Server Error"),
    ],
)
def test_refusals_are_one_line(node: Node, status: int, body: Any, message: str) -> None:
    node.status, node.answer = status, [body if isinstance(body, str) else json.dumps(body)]
    expect_error(ask(node.url, "Q"), message)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ([event("Par"), 'event: error\ndata: {"error": {"message": "the child broke"}}\n\n'], "the child broke"),
        ([event("Par"), 'data: {"error": "out of memory"}\n\n'], "out of memory"),
        ([event("Par")], "the answer broke off before its end"),
        ([event("Par"), "data: [1]\n\n"], "not a chat event: [1]"),
        ([event("Par"), "data: nonsense\n\n"], "not a chat event: nonsense"),
    ],
)
def test_the_error_in_mid_answer_is_one_line_after_what_arrived(node: Node, answer: list[str], message: str) -> None:
    node.answer = answer
    result = ask(node.url, "Q")
    assert result.stdout == "Par\n"
    expect_error(result, message)


def test_a_connection_that_closes_in_mid_answer_is_an_error(node: Node) -> None:
    node.answer, node.cut = [event("Par")], True
    result = ask(node.url, "Q")
    assert result.stdout == "Par\n"
    expect_error(result, "the answer broke off: ")


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ((200, {"data": []}), "serves no model yet"),
        ((200, "hello"), "answered 200: the response is not JSON; is this a node's URL?"),
        ((200, "[]"), "answered 200: a JSON object was expected; is this a node's URL?"),
        ((200, {"data": None}), "not a list of models; is this a node's URL?"),
        ((503, {"error": {"message": "starting"}}), "503: starting"),
    ],
)
def test_a_node_without_models(node: Node, models: tuple[int, Any], message: str) -> None:
    node.models = models
    expect_error(ask(node.url, "Q"), message)


def test_an_unreachable_node_is_status_2() -> None:
    expect_error(ask("127.0.0.1:1", "Q"), "cannot reach http://127.0.0.1:1: ", status=2)
    expect_error(ask("127.0.0.1:1", "Q", "--model", "m"), "cannot reach http://127.0.0.1:1: ", status=2)


def expect_error(result: Ended, message: str, status: int = 1) -> None:
    assert result.status == status
    assert message in result.stderr
    assert result.stderr.startswith("hierarchy: ")
    assert result.stderr.count("\n") == 1


def test_an_engine_that_does_not_stream(node: Node) -> None:
    node.content_type = "application/json"
    node.answer = [json.dumps({"choices": [{"message": {"content": "Paris."}}], "usage": {"completion_tokens": 2}})]
    result = ask(node.url, "Q")
    assert (result.status, result.stdout) == (0, "Paris.\n")


def test_comments_ids_and_other_line_ends_are_allowed_in_a_stream(node: Node) -> None:
    node.answer = [": keep-alive\n\n", "id: 7\nretry: 5\n\n", event("Paris.").replace("\n", "\r\n"), DONE]
    result = ask(node.url, "Q")
    assert (result.status, result.stdout) == (0, "Paris.\n")


def test_a_response_that_is_not_a_stream_is_one_line(node: Node) -> None:
    node.content_type = "text/html"
    expect_error(ask(node.url, "Q"), "neither an event stream nor JSON, but 'text/html'")


@pytest.mark.parametrize(
    "body", [{"choices": {}}, {"choices": 7}, {"choices": [[]]}, {"usage": 7}, {"choices": [{"delta": {"content": 7}}]}]
)
def test_an_event_with_odd_fields_is_no_traceback(node: Node, body: dict[str, Any]) -> None:
    node.answer = [event("Par"), f"data: {json.dumps(body)}\n\n", DONE]
    result = ask(node.url, "Q")
    assert result.stdout == "Par\n"
    assert "Traceback" not in result.stderr


def test_without_usage_the_chunks_are_counted(node: Node) -> None:
    node.answer = [event("Paris"), event("."), DONE]
    assert " · ≈ 2 tokens · " in ask(node.url, "Q").stderr


@pytest.mark.parametrize("stdin", ["", "  \n"])
def test_no_question_is_a_usage_error(node: Node, stdin: str) -> None:
    assert fails("chat", node.url, stdin=stdin, status=2).startswith("no question: ")


def test_summary() -> None:
    answer = Answer("m", "site-a/gpu-1", tokens=42, counted=True, first_token_s=0.311, stream_s=0.672)
    assert answer.summary() == "via site-a/gpu-1 · m · 42 tokens · 0.31 s to first token · 61 tokens/s"
    assert Answer("m").summary() == "m · ≈ 0 tokens"


def test_json_for_programs(node: Node) -> None:
    ended = program("chat", node.url, "hello", "--json")
    assert (ended.status, ended.stderr) == (0, "")
    page = json.loads(ended.stdout)
    assert (page["model"], page["text"], page["tokens"]) == ("smollm2-135m", "Paris is the\ncapital.", 42)
    node.cut, node.answer = True, PARIS[:3]
    ended = program("chat", node.url, "hello", "--json")
    assert (ended.status, ended.stdout) == (1, "")
    assert "broke off" in ended.stderr
