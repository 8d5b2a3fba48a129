"""`hierarchy chat URL QUESTION`: ask one question and stream the answer."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer

from hierarchy.cli.admin import API_KEY, bearer
from hierarchy.errors import HierarchyError, UsageError
from hierarchy.runtime import logs

_CONNECT_TIMEOUT_S = 5.0
_READ_TIMEOUT_S = 660.0  # above a node's own first_byte_timeout_s, whose error says more than ours
_SHOWN_CHARS = 300  # of an error that is no JSON of ours, such as a proxy's page


class ChatError(HierarchyError):
    """No answer, or not the whole of it; one line that says why."""


@dataclass
class Answer:
    """What is known of an answer when it has been streamed."""

    model: str
    path: str = ""
    tokens: int = 0
    counted: bool = False  #: the engine said how many tokens; else each chunk counts as one
    first_token_s: float = 0.0
    stream_s: float = 0.0  #: from the first token to the last
    complete: bool = False

    def summary(self) -> str:
        """`via site-a/gpu-1 · model · 42 tokens · 0.31 s to first token · 61 tokens/s`."""
        parts = [f"via {self.path}"] if self.path else []
        parts += [self.model, f"{'' if self.counted else '≈ '}{self.tokens} tokens"]
        if self.tokens:
            parts.append(f"{self.first_token_s:.2f} s to first token")
        if self.tokens > 1 and self.stream_s > 0:
            parts.append(f"{(self.tokens - 1) / self.stream_s:.0f} tokens/s")
        return " · ".join(parts)


def chat(
    url: Annotated[str, typer.Argument(help="of a node, such as http://localhost:21001", show_default=False)],
    question: Annotated[str | None, typer.Argument(help="default: read from stdin", show_default=False)] = None,
    model: Annotated[str | None, typer.Option(help="default: the first one that is listed", show_default=False)] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="default: the engine's", show_default=False)] = None,
    temperature: Annotated[float | None, typer.Option(min=0, help="default: the engine's", show_default=False)] = None,
    system: Annotated[str | None, typer.Option(help="a system prompt", show_default=False)] = None,
    api_key_file: Annotated[Path | None, typer.Option(help=f"file with the API key  [default: ${API_KEY}]")] = None,
) -> None:
    """Ask one question and stream the answer; then say on stderr which way it came, and how fast."""
    try:
        text = question if question is not None else _read_question()
        messages = [{"role": "system", "content": system}] if system else []
        messages.append({"role": "user", "content": text})
        timeout = httpx.Timeout(_READ_TIMEOUT_S, connect=_CONNECT_TIMEOUT_S)
        with httpx.Client(base_url=base_url(url), timeout=timeout, headers=bearer(api_key_file, API_KEY)) as client:
            body = {"model": model or first_model(client), "messages": messages}
            options = {"max_tokens": max_tokens, "temperature": temperature}
            answer = stream_answer(client, body | {key: value for key, value in options.items() if value is not None})
    except ChatError as error:
        typer.echo(f"hierarchy: {logs.escape(str(error))}", err=True)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        typer.echo()
        raise typer.Exit(130) from None
    typer.echo(logs.paint(logs.escape(answer.summary()), "2", logs.wants_colour(sys.stderr)), err=True)


def _read_question() -> str:
    if sys.stdin.isatty():
        typer.echo("Your question (Ctrl-D ends it):", err=True)
    question = sys.stdin.read().strip()
    if not question:
        raise UsageError("no question: give it as an argument or on stdin")
    return question


def base_url(text: str) -> str:
    """A node's URL as people type it: without http://, or with the /v1 that OpenAI's clients want.

    Raises:
        UsageError: it is no http URL.
    """
    url = (text if "://" in text else f"http://{text}").rstrip("/").removesuffix("/v1")
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise UsageError(f"{text!r} is no URL: {error}; write one such as http://localhost:21001") from None
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise UsageError(f"{text!r} is no http URL; write one such as http://localhost:21001")
    return url


def first_model(client: httpx.Client) -> str:
    """The first model that the node lists, or a `ChatError`."""
    try:
        response = client.get("/v1/models")
    except httpx.HTTPError as error:
        raise _unreachable(client, error) from None
    if response.is_error:
        raise ChatError(_reason(response))
    try:
        return str(response.json()["data"][0]["id"])
    except IndexError:
        raise ChatError(f"{client.base_url} serves no model yet: its engines are down or still starting") from None
    except (ValueError, KeyError, TypeError):
        raise ChatError(f"{client.base_url}v1/models is no list of models; is this a node's URL?") from None


def stream_answer(client: httpx.Client, body: dict[str, Any]) -> Answer:
    """POST the question, print the answer as it comes.

    Raises:
        ChatError: it was refused, or broke off.
    """
    answer = Answer(model=body["model"])
    body = body | {"stream": True, "stream_options": {"include_usage": True}}
    try:
        began = time.monotonic()
        with client.stream("POST", "/v1/chat/completions", json=body) as response:
            if response.is_error:
                response.read()
                raise ChatError(_reason(response))
            answer.path = response.headers.get("x-hierarchy-path", "")
            for data in _events(response):
                _take(answer, data, time.monotonic() - began)
    except httpx.HTTPError as error:
        _end_line(answer)
        if answer.tokens:
            raise ChatError(f"the answer broke off: {_said(error)}") from None
        raise _unreachable(client, error) from None
    except ChatError:
        _end_line(answer)
        raise
    _end_line(answer)
    if not answer.complete:
        raise ChatError("the answer broke off before its end")
    return answer


def _events(response: httpx.Response) -> Iterator[str]:
    """The `data` of each SSE event. An engine that does not stream sends one JSON object, which counts as one."""
    if "json" in response.headers.get("content-type", ""):
        response.read()
        yield response.text
        yield "[DONE]"
        return
    data: list[str] = []
    for line in response.iter_lines():
        if line.startswith("data:"):
            data.append(line[5:].removeprefix(" "))
        elif not line and data:
            yield "\n".join(data)
            data = []
    if data:
        yield "\n".join(data)


def _take(answer: Answer, data: str, elapsed_s: float) -> None:
    """Print what one event adds, and note what it says."""
    if data.strip() == "[DONE]":
        answer.complete = True
        return
    try:
        event = json.loads(data)
        if error := event.get("error"):
            raise ChatError(_message(error))
        choice = (event.get("choices") or [{}])[0]
        text = (choice.get("delta") or choice.get("message") or {}).get("content")
        usage = (event.get("usage") or {}).get("completion_tokens")
    except (ValueError, AttributeError, TypeError):
        raise ChatError(f"the answer holds something that is no chat event: {data[:_SHOWN_CHARS]}") from None
    answer.model = event.get("model") or answer.model
    answer.complete = answer.complete or bool(choice.get("finish_reason"))
    if text:
        if not answer.tokens:
            answer.first_token_s = elapsed_s
        answer.stream_s = elapsed_s - answer.first_token_s
        if not answer.counted:
            answer.tokens += 1
        sys.stdout.write(_printable(text))
        sys.stdout.flush()
    if isinstance(usage, int):
        answer.tokens, answer.counted = usage, True


def _printable(text: str) -> str:
    """A model may be made to say a terminal's commands; on a terminal they are shown, not obeyed."""
    if not sys.stdout.isatty():
        return text
    return "\n".join(logs.escape(line) for line in text.split("\n"))


def _end_line(answer: Answer) -> None:
    if answer.tokens:
        sys.stdout.write("\n")
        sys.stdout.flush()


def _reason(response: httpx.Response) -> str:
    """An error answer in words; OpenAI's error object if it is one."""
    try:
        return f"{response.status_code}: {_message(response.json()['error'])}"
    except (ValueError, KeyError, TypeError):
        words = response.text.strip()[:_SHOWN_CHARS] or response.reason_phrase
        return f"{response.status_code} from {response.url}: {words}"


def _message(error: object) -> str:
    return str(error.get("message") or error) if isinstance(error, dict) else str(error)


def _unreachable(client: httpx.Client, error: httpx.HTTPError) -> ChatError:
    return ChatError(f"cannot reach {str(client.base_url).rstrip('/')}: {_said(error)}; is the node running?")


def _said(error: httpx.HTTPError) -> str:
    return str(error) or type(error).__name__
