"""`hierarchy chat [URL] QUESTION`: ask one question and stream the answer."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hierarchy.cli import flags
from hierarchy.cli.interrupts import raise_keyboard_interrupt
from hierarchy.cli.output import print_json
from hierarchy.errors import HierarchyError, NotJson, UsageError
from hierarchy.runtime import logs

if TYPE_CHECKING:
    import httpx

    from hierarchy.cli.client import NodeClient

_READ_TIMEOUT_S = 660.0  # longer than a node's first_byte_timeout_s, whose error says more than a timeout here
_URL = re.compile(
    r"\S+://|(\[[0-9a-f:]+\]|[\w.-]+):\d+(/\S*)?$|localhost(/\S*)?$", re.IGNORECASE
)  # what may be meant as one
_SHOWN_CHARS = 300  # of an event that is not a chat event


class ChatError(HierarchyError):
    """The node refused, or the answer broke off. `str(error)` is one line with the reason."""


@dataclass
class Answer:
    """An answer as far as it has been streamed."""

    model: str
    path: str = ""  #: path of the engine, from `x-hierarchy-path`
    tokens: int = 0
    counted: bool = False  #: whether `tokens` is the engine's count; else each chunk counts as one
    first_token_s: float = 0.0  #: from the request to the first token
    stream_s: float = 0.0  #: from the first token to the last
    complete: bool = False  #: whether its end has arrived
    parts: list[str] = field(default_factory=list)  #: its text, as it arrived

    def page(self) -> dict[str, Any]:
        """The answer for programs."""
        return {
            "model": self.model,
            "path": self.path,
            "text": "".join(self.parts),
            "tokens": self.tokens,
            "first_token_s": round(self.first_token_s, 3),
            "stream_s": round(self.stream_s, 3),
        }

    def summary(self) -> str:
        """`via site-a/gpu-1 · model · 42 tokens · 0.31 s to first token · 61 tokens/s`."""
        parts = [f"via {self.path}"] if self.path else []
        parts += [self.model, f"{'' if self.counted else '≈ '}{self.tokens} tokens"]
        if self.tokens:
            parts.append(f"{self.first_token_s:.2f} s to first token")
        if self.tokens > 1 and self.stream_s > 0:
            parts.append(f"{(self.tokens - 1) / self.stream_s:.0f} tokens/s")
        return " · ".join(parts)


@dataclass(frozen=True)
class Event:
    """The content of one event of the stream."""

    model: str = ""
    text: str = ""  #: what it adds to the answer
    usage: int | None = None  #: tokens in the whole answer, as the engine counted them
    last: bool = False  #: whether it ends the answer


def chat(
    url: Annotated[
        str | None,
        typer.Argument(
            metavar="URL", help="URL of a node, such as http://localhost:21001.", show_default=f"${flags.NODE_URL}"
        ),
    ] = None,
    question: Annotated[
        str | None, typer.Argument(metavar="QUESTION", help="The question.", show_default="read from stdin")
    ] = None,
    model: Annotated[
        str | None, typer.Option(metavar="NAME", help="Model to ask.", show_default="the first that the node lists")
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(metavar="TOKENS", min=1, help="Limit of the answer.", show_default="the engine's")
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(metavar="NUMBER", min=0, help="Sampling temperature.", show_default="the engine's"),
    ] = None,
    system: Annotated[str | None, typer.Option(metavar="TEXT", help="System prompt.")] = None,
    as_json: flags.AsJson = False,
    api_key_file: flags.ApiKeyFile = None,
    tls_ca: flags.ClientTlsCa = None,
    tls_cert: flags.ClientTlsCert = None,
    tls_key: flags.ClientTlsKey = None,
) -> None:
    """Ask one question and stream the answer; then show on stderr its path and its speed.

    Status 0 if the answer is complete, 1 if the node refused or the answer broke off, 2 if the node cannot be reached.
    """
    from hierarchy.cli.client import open_node

    url, question = _node_and_question(url, question, os.environ.get(flags.NODE_URL, ""))
    text = question if question is not None else _read_question()
    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": text})
    options = {"max_tokens": max_tokens, "temperature": temperature}
    body = {"messages": messages} | {name: value for name, value in options.items() if value is not None}
    try:
        with (
            raise_keyboard_interrupt(),
            open_node(
                url, flags.API_KEY, api_key_file, tls_ca, tls_cert, tls_key, read_timeout_s=_READ_TIMEOUT_S
            ) as node,
        ):
            show = _swallow if as_json else _show
            answer = stream_answer(node, {"model": model or first_model(node)} | body, show)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    if as_json:
        print_json(answer.page())
        return
    typer.echo(logs.paint(logs.escape(answer.summary()), "2", logs.wants_colour(sys.stderr)), err=True)


def _node_and_question(url: str | None, question: str | None, default: str) -> tuple[str, str | None]:
    """The URL of the node and the question, None for one on stdin. default: the URL in the environment, or ""."""
    if question is None and default and url is not None and not _URL.match(url):
        return default, url  # one argument, which is the question
    if not (url or default):
        raise UsageError(f"Missing argument 'URL'; or set {flags.NODE_URL}")
    return url or default, question


def _read_question() -> str:
    if sys.stdin.isatty():
        typer.echo("Your question (Ctrl-D ends it):", err=True)
    question = sys.stdin.read().strip()
    if not question:
        raise UsageError("no question: give it as an argument or on stdin")
    return question


def first_model(node: NodeClient) -> str:
    """The first model that the node lists.

    Raises:
        ChatError: the node lists no model, or refused.
        NodeUnreachable: the node did not respond.
    """
    from hierarchy.cli.client import NodeRefused

    try:
        return str(node.get("/v1/models")["data"][0]["id"])
    except NodeRefused as error:
        raise ChatError(str(error)) from None
    except IndexError:
        raise ChatError(f"{node.url} serves no model yet: its engines are down or still starting") from None
    except (KeyError, TypeError):
        raise ChatError(f"{node.url}/v1/models is not a list of models; is this a node's URL?") from None


def stream_answer(node: NodeClient, body: dict[str, Any], show: Callable[[str], None]) -> Answer:
    """POST the question and show the text of the answer as it arrives.

    Raises:
        ChatError: the node refused, or the answer broke off.
        NodeUnreachable: there was no answer.
    """
    from hierarchy.cli.client import NodeRefused, NodeUnreachable

    answer = Answer(model=body["model"])
    try:
        _stream_into(answer, node, body | {"stream": True, "stream_options": {"include_usage": True}}, show)
    except NodeUnreachable as error:
        if not answer.tokens:
            raise
        raise ChatError(f"the answer broke off: {error.reason}") from None
    except NodeRefused as error:
        raise ChatError(str(error)) from None
    if not answer.complete:
        raise ChatError("the answer broke off before its end")
    return answer


def _stream_into(answer: Answer, node: NodeClient, body: dict[str, Any], show: Callable[[str], None]) -> None:
    began = time.monotonic()
    try:
        with node.stream("/v1/chat/completions", body) as response:
            answer.path = response.headers.get("x-hierarchy-path", "")
            for data in _events(response):
                event = _decode(data)
                _add(answer, event, time.monotonic() - began)
                show(event.text)
    finally:
        if answer.tokens:
            show("\n")  # ends the last line, also of an answer that broke off


def _events(response: httpx.Response) -> Iterator[str]:
    """The `data` of each event. An engine that does not stream sends one JSON object, which counts as one event."""
    from httpx_sse import EventSource, SSEError

    content_type = response.headers.get("content-type", "")
    if "json" in content_type:
        response.read()
        yield response.text
        yield "[DONE]"
        return
    try:
        for event in EventSource(response).iter_sse():
            if event.data:
                yield event.data
    except SSEError:
        raise ChatError(f"the answer is neither an event stream nor JSON, but {content_type!r}") from None


def _add(answer: Answer, event: Event, elapsed_s: float) -> None:
    """Note what `event` contains. elapsed_s: since the request was sent."""
    answer.model = event.model or answer.model
    answer.complete = answer.complete or event.last
    if event.text:
        if not answer.tokens:
            answer.first_token_s = elapsed_s
        answer.stream_s = elapsed_s - answer.first_token_s
        if not answer.counted:
            answer.tokens += 1
        answer.parts.append(event.text)
    if event.usage is not None:
        answer.tokens, answer.counted = event.usage, True


def _decode(data: str) -> Event:
    """The content of one event. Raises `ChatError` if it is an error, or not a chat completion."""
    from hierarchy.cli.client import error_message
    from hierarchy.runtime import safe_json

    if data.strip() == "[DONE]":
        return Event(last=True)
    try:
        event = safe_json.decode(data.encode(errors="replace"))
        error = error_message(event)
        choice = (event.get("choices") or [{}])[0]
        text = (choice.get("delta") or choice.get("message") or {}).get("content") or ""
        usage = (event.get("usage") or {}).get("completion_tokens")
        decoded = Event(
            model=str(event.get("model") or ""),
            text=text if isinstance(text, str) else "",
            usage=usage if isinstance(usage, int) else None,
            last=bool(choice.get("finish_reason")),
        )
    except (NotJson, AttributeError, TypeError, LookupError):
        raise ChatError(f"the answer contains an event that is not a chat event: {data[:_SHOWN_CHARS]}") from None
    if error:
        raise ChatError(error)
    return decoded


def _show(text: str) -> None:
    if text:
        sys.stdout.write(_printable(text))
        sys.stdout.flush()


def _swallow(text: str) -> None:
    """Show nothing: the whole text is printed at the end."""


def _printable(text: str) -> str:
    """`text` without control sequences for a terminal, which a model may be made to write."""
    if not sys.stdout.isatty():
        return text
    return "\n".join(logs.escape(line) for line in text.split("\n"))
