"""What the client libraries make of an engine's errors, before and after the early head of a stream.

Each raises its own error, with the engine's status and text. FastChat's clients are read as its API server reads a
worker's frames (fastchat/serve/openai_api_server.py, `generate_completion_stream`).
"""

from __future__ import annotations

import importlib
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from hierarchy.http import promise
from tests.relay.raw import http_response
from tests.relay.support import CLOSE, HOLD, Script, Tree, World, tree

STATUS = 422
TEXT = "prompt is too long"
JSON = b"content-type: application/json"


def refusal(body: bytes, content_type: bytes = JSON) -> Script:
    return [http_response(body, content_type, status=b"%d Unprocessable" % STATUS)]


def cut(body: bytes) -> Script:
    return [b"HTTP/1.1 %d X\r\ncontent-length: 9999\r\n%b\r\n\r\n%b" % (STATUS, JSON, body), CLOSE]


#: ten forms of a refusal; nothing has no text
FORMS: dict[str, Script] = {
    "OpenAI": refusal(
        b'{"error":{"message":"prompt is too long","type":"invalid_request_error","param":null,"code":null}}'
    ),
    "SGLang, LMDeploy": refusal(b'{"object":"error","message":"prompt is too long","type":"BadRequest","code":422}'),
    "FastAPI, text": refusal(b'{"detail":"prompt is too long"}'),
    "FastAPI, list": refusal(b'{"detail":[{"type":"x","loc":["body","prompt"],"msg":"prompt is too long"}]}'),
    "TGI, Ollama": refusal(b'{"error":"prompt is too long","error_type":"validation"}'),
    "Anthropic": refusal(b'{"type":"error","error":{"type":"invalid_request_error","message":"prompt is too long"}}'),
    "HTML": refusal(b"<html><title>prompt is too long</title><h1>422</h1></html>", b"content-type: text/html"),
    "text": refusal(b"prompt is too long", b"content-type: text/plain"),
    "bad JSON": refusal(b'{"error":{"message":"prompt is too long"'),
    "nothing": refusal(b"", b"x: y"),
}
#: more that can only be told after the early head
ODD_FORMS: dict[str, Script] = {
    "cut off": cut(b'{"error":{"message":"prompt is too long'),
    "huge": refusal(b'{"detail":"prompt is too long' + 200_000 * b"!" + b'"}'),
}


@dataclass(frozen=True)
class Library:
    """A client library. call: streams one response and returns all of it."""

    package: str
    call: Callable[[Any, str], object]
    error: str = "APIError"  # the class of its error
    errors: str = ""  # the package that has it


def stream_chat(package: Any, url: str) -> object:
    with package.OpenAI(base_url=f"{url}/v1", api_key="x", max_retries=0) as client:
        return list(client.chat.completions.create(model="m", messages=[], stream=True))


def stream_completion(package: Any, url: str) -> object:
    with package.OpenAI(base_url=f"{url}/v1", api_key="x", max_retries=0) as client:
        return list(client.completions.create(model="m", prompt="x", stream=True))


def stream_response(package: Any, url: str) -> object:
    with package.OpenAI(base_url=f"{url}/v1", api_key="x", max_retries=0) as client:
        return list(client.responses.create(model="m", input="x", stream=True))


def stream_message(package: Any, url: str) -> object:
    message = {"role": "user", "content": "x"}
    with package.Anthropic(base_url=url, api_key="x", max_retries=0) as client:
        return list(client.messages.create(model="m", messages=[message], max_tokens=4, stream=True))


def stream_langchain(package: Any, url: str) -> object:
    return list(package.ChatOpenAI(base_url=f"{url}/v1", api_key="x", max_retries=0, model="m").stream("x"))


class FrameError(Exception):
    """A frame with an error_code. status_code, body: as the other libraries have them."""

    def __init__(self, frame: dict[str, Any]) -> None:
        super().__init__(frame["text"])
        self.status_code = {40302: STATUS}.get(frame["error_code"])
        self.body = frame


def stream_frames(package: Any, url: str) -> object:
    frames = []
    response = package.post(f"{url}/worker_generate_stream", json={"model": "m", "prompt": "x"})
    for piece in response.content.split(b"\0"):
        if piece:
            frames.append(json.loads(piece.decode()))
            if frames[-1]["error_code"] != 0:
                raise FrameError(frames[-1])
    return frames


LIBRARIES: dict[str, Library] = {
    "/v1/chat/completions": Library("openai", stream_chat),
    "/v1/completions": Library("openai", stream_completion),
    "/v1/responses": Library("openai", stream_response),
    "/v1/messages": Library("anthropic", stream_message),
    "LangChain": Library("langchain_openai", stream_langchain, errors="openai"),
    "/worker_generate_stream": Library("httpx", stream_frames, "FrameError", __name__),
}


@pytest.fixture(scope="module")
def trees() -> Iterator[dict[str, Tree]]:
    """A node above an engine of each API family."""
    world = World()
    with ExitStack() as stack:
        yield {kind: stack.enter_context(tree(world, kind=kind)) for kind in ("openai", "fastchat")}
    world.close()


def result_of(running: Tree, library: Library, script: Script, *, early: bool) -> object:
    """What the library returns, or the error that it raises."""
    package = pytest.importorskip(library.package, reason=f"{library.package} not installed")
    running.engine.plan([HOLD, *script])
    url, results = f"http://127.0.0.1:{running.port}", []

    def call() -> None:
        try:
            results.append(library.call(package, url))
        except Exception as error:
            results.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    running.world.eventually(lambda: running.engine.received, "the request")
    if early:
        running.forward(promise.COMMENT_EVERY_S + 0.1)
        assert [exchange.response.waiting for exchange in running.exchanges()] == [True]
    running.engine.release()
    thread.join()
    assert running.world.problems == []
    return results[0]


def tree_for(trees: dict[str, Tree], path: str) -> Tree:
    return trees["fastchat" if path.startswith("/worker") else "openai"]


def check(found: object, path: str, form: str) -> None:
    library = LIBRARIES[path]
    kind = getattr(importlib.import_module(library.errors or library.package), library.error)
    assert isinstance(found, kind), found
    body = getattr(found, "body", None)
    told = f"{found} {body} {getattr(found, 'status_code', '')}"
    assert str(STATUS) in told
    assert TEXT in told or form == "nothing"


@pytest.mark.parametrize("early", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("path", LIBRARIES)
def test_a_refusal_raises_the_librarys_error_with_status_and_text(
    trees: dict[str, Tree], path: str, form: str, early: bool
) -> None:
    check(result_of(tree_for(trees, path), LIBRARIES[path], FORMS[form], early=early), path, form)


@pytest.mark.parametrize("form", ODD_FORMS)
@pytest.mark.parametrize("path", LIBRARIES)
def test_a_refusal_that_is_cut_off_or_huge_does_so_after_the_early_head(
    trees: dict[str, Tree], path: str, form: str
) -> None:
    check(result_of(tree_for(trees, path), LIBRARIES[path], ODD_FORMS[form], early=True), path, form)


# -- engines that ignore `stream` ------------------------------------------------------------------------------------

CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
ANSWERS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {
        "id": "x", "object": "chat.completion", "created": 1, "model": "m",
        "choices": [
            {"index": 0, "finish_reason": "tool_calls",
             "message": {"role": "assistant", "content": "hello", "tool_calls": [CALL]}}
        ],
        "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
    },
    "/v1/completions": {
        "id": "x", "object": "text_completion", "created": 1, "model": "m",
        "choices": [{"index": 0, "text": "hello", "logprobs": None, "finish_reason": "stop"}],
    },
    "/v1/responses": {
        "id": "r", "object": "response", "created_at": 1.0, "model": "m", "status": "completed",
        "parallel_tool_calls": True, "tool_choice": "auto", "tools": [],
        "output": [
            {"id": "o", "type": "message", "role": "assistant", "status": "completed",
             "content": [{"type": "output_text", "text": "hello", "annotations": []}]},
            {"id": "f", "type": "function_call", "call_id": "c", "name": "f", "arguments": "{}", "status": "completed"},
        ],
    },
    "/v1/messages": {
        "id": "x", "type": "message", "role": "assistant", "model": "m", "stop_reason": "tool_use",
        "stop_sequence": None, "usage": {"input_tokens": 1, "output_tokens": 2},
        "content": [
            {"type": "thinking", "thinking": "hm", "signature": "s"},
            {"type": "text", "text": "hello"},
            {"type": "tool_use", "id": "c", "name": "f", "input": {"a": 1}},
        ],
    },
}  # fmt: skip


@pytest.mark.parametrize("early", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("path", ANSWERS)
def test_a_whole_answer_is_read_as_a_stream(trees: dict[str, Tree], path: str, early: bool) -> None:
    script: Script = [http_response(json.dumps(ANSWERS[path]).encode(), JSON)]
    found: Any = result_of(trees["openai"], LIBRARIES[path], script, early=early)
    assert isinstance(found, list), found
    content = "".join(str(one) for one in found)
    assert "hello" in content
    assert len(found) > (path != "/v1/completions")


def stream_whole_message(package: Any, url: str) -> object:
    message = {"role": "user", "content": "x"}
    with (
        package.Anthropic(base_url=url, api_key="x", max_retries=0) as client,
        client.messages.stream(model="m", messages=[message], max_tokens=4) as stream,
    ):
        return stream.get_final_message()


def stream_whole_response(package: Any, url: str) -> object:
    with (
        package.OpenAI(base_url=f"{url}/v1", api_key="x", max_retries=0) as client,
        client.responses.stream(model="m", input="x") as stream,
    ):
        return stream.get_final_response()


def stream_whole_chat(package: Any, url: str) -> object:
    with (
        package.OpenAI(base_url=f"{url}/v1", api_key="x", max_retries=0) as client,
        client.chat.completions.stream(model="m", messages=[]) as stream,
    ):
        return stream.get_final_completion()


def test_the_libraries_put_it_together_again(trees: dict[str, Tree]) -> None:
    def whole(path: str, package: str, call: Callable[[Any, str], object]) -> Any:
        script: Script = [http_response(json.dumps(ANSWERS[path]).encode(), JSON)]
        return result_of(trees["openai"], Library(package, call), script, early=True)

    message = whole("/v1/messages", "anthropic", stream_whole_message)
    assert [block.type for block in message.content] == ["thinking", "text", "tool_use"]
    assert (message.content[2].input, message.stop_reason, message.usage.output_tokens) == ({"a": 1}, "tool_use", 2)
    response = whole("/v1/responses", "openai", stream_whole_response)
    assert (response.output_text, response.output[1].arguments) == ("hello", "{}")
    chat = whole("/v1/chat/completions", "openai", stream_whole_chat)
    (choice,) = chat.choices
    assert (choice.message.content, choice.finish_reason) == ("hello", "tool_calls")
    assert choice.message.tool_calls[0].function.arguments == "{}"
    assert chat.usage.total_tokens == 3


def test_speech_that_is_streamed_is_nothing_but_audio(trees: dict[str, Tree]) -> None:
    """`stream` is no field of OpenAI's, but of engines that send audio in pieces."""
    audio = b"\xff\xfb" + bytes(range(256)) * 400  # 100 kB
    running = trees["openai"]
    running.engine.plan([HOLD, http_response(audio, b"content-type: audio/mpeg")])
    results: list[httpx.Response] = []
    request = {"model": "m", "input": "x", "voice": "v", "stream": True}
    url = f"http://127.0.0.1:{running.port}/v1/audio/speech"
    thread = threading.Thread(target=lambda: results.append(httpx.post(url, json=request)))
    thread.start()
    running.world.eventually(lambda: running.engine.received)
    running.forward(promise.COMMENT_EVERY_S + 0.1)
    running.engine.release()
    thread.join()
    assert (results[0].headers["content-type"], results[0].content) == ("audio/mpeg", audio)
    assert running.world.problems == []
