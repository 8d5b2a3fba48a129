"""Translates the stream of a FastChat worker for OpenAI's client: a chat or a completion, streamed or not."""

from __future__ import annotations

import time
import uuid
from collections.abc import Collection
from typing import Any, Protocol

import msgspec

from hierarchy.translation.deltas import Deltas
from hierarchy.translation.error_codes import http_status, openai_error
from hierarchy.translation.error_text import error_text
from hierarchy.translation.frames import FrameSplitter
from hierarchy.translation.response import (
    BadEngineResponse,
    BufferedTranslator,
    Logprobs,
    count_logprobs,
    skip_logprobs,
)

DONE = b"data: [DONE]\n\n"
_EVENT_STREAM = b"text/event-stream; charset=utf-8"


class Usage(msgspec.Struct):
    """OpenAI's `usage`; FastChat's has the same fields."""

    prompt_tokens: int = 0
    completion_tokens: int | None = 0
    total_tokens: int = 0


class Frame(msgspec.Struct):
    """A worker's frame: the whole text so far, and in the last one why the text ends."""

    text: str = ""
    error_code: int = 0
    usage: Usage | None = None
    finish_reason: str | None = None
    logprobs: Logprobs | None = None


class ResponseObjects(Protocol):
    """Builds the JSON objects of a response."""

    def full(self, text: str, frame: Frame, finish_reason: str) -> dict[str, Any]:
        """A response that is not streamed, without its usage. frame: the worker's last."""

    def first_chunks(self) -> list[dict[str, Any]]:
        """What a stream begins with, before any text."""

    def text_chunk(self, text: str, logprobs: Logprobs | None) -> dict[str, Any]:
        """The next part of the text, with the log probabilities that the client does not have yet."""

    def finish_chunk(self, finish_reason: str) -> dict[str, Any]:
        """The end of the text."""

    def usage_chunk(self, usage: dict[str, Any]) -> dict[str, Any]:
        """The usage; the last chunk if the client requested it."""


class ChatObjects:
    """`chat.completion` and `chat.completion.chunk`."""

    def __init__(self, model: str, response_id: str | None = None, created: int | None = None) -> None:
        self._common = {
            "id": response_id or f"chatcmpl-{uuid.uuid4().hex}",
            "created": int(time.time()) if created is None else created,
            "model": model,
        }

    def full(self, text: str, frame: Frame, finish_reason: str) -> dict[str, Any]:
        """`chat.completion` without its usage."""
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish_reason}
        return {**self._common, "object": "chat.completion", "choices": [choice]}

    def first_chunks(self) -> list[dict[str, Any]]:
        """The chunk with the role."""
        return [self._chunk({"role": "assistant", "content": ""})]

    def text_chunk(self, text: str, logprobs: Logprobs | None) -> dict[str, Any]:
        """A chunk with text. Workers support no log probabilities in a chat."""
        return self._chunk({"content": text})

    def finish_chunk(self, finish_reason: str) -> dict[str, Any]:
        """An empty chunk with the finish reason."""
        return self._chunk({}, finish_reason)

    def usage_chunk(self, usage: dict[str, Any]) -> dict[str, Any]:
        """A chunk without choices."""
        return {**self._common, "object": "chat.completion.chunk", "choices": [], "usage": usage}

    def _chunk(self, delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return {**self._common, "object": "chat.completion.chunk", "choices": [choice]}


class CompletionObjects:
    """`text_completion`, which is also the object of its chunks."""

    def __init__(self, model: str, response_id: str | None = None, created: int | None = None) -> None:
        self._common = {
            "id": response_id or f"cmpl-{uuid.uuid4().hex}",
            "object": "text_completion",
            "created": int(time.time()) if created is None else created,
            "model": model,
        }

    def full(self, text: str, frame: Frame, finish_reason: str) -> dict[str, Any]:
        """`text_completion` without its usage."""
        return self._completion(text, finish_reason, frame.logprobs)

    def first_chunks(self) -> list[dict[str, Any]]:
        """None."""
        return []

    def text_chunk(self, text: str, logprobs: Logprobs | None) -> dict[str, Any]:
        """A chunk with text and log probabilities."""
        return self._completion(text, None, logprobs)

    def finish_chunk(self, finish_reason: str) -> dict[str, Any]:
        """An empty chunk with the finish reason."""
        return self._completion("", finish_reason, None)

    def usage_chunk(self, usage: dict[str, Any]) -> dict[str, Any]:
        """A chunk without choices."""
        return {**self._common, "choices": [], "usage": usage}

    def _completion(self, text: str, finish_reason: str | None, logprobs: Logprobs | None) -> dict[str, Any]:
        choice = {"index": 0, "text": text, "logprobs": logprobs, "finish_reason": finish_reason}
        return {**self._common, "choices": [choice]}


class GenerationTranslator(BufferedTranslator):
    """Translates a worker's frames to the objects that `objects` builds.

    stop_strings, unrequested_echo, requested_echo: as in `Deltas`. streams: the client requested a stream.
    include_usage: it requested the usage at the end of the stream.
    """

    def __init__(
        self,
        objects: ResponseObjects,
        *,
        stop_strings: Collection[str] = (),
        unrequested_echo: str = "",
        requested_echo: str = "",
        streams: bool = False,
        include_usage: bool = False,
    ) -> None:
        super().__init__()
        self.streams = streams
        self.content_type = _EVENT_STREAM if streams else b"application/json"
        self._objects = objects
        self._include_usage = include_usage
        self._frames = FrameSplitter()
        self._deltas = Deltas(stop_strings, unrequested_echo, requested_echo)
        self._newest: Frame | None = None
        self._text_parts: list[str] = []  # of the text, if it is not streamed
        self._logprobs_sent = 0  # tokens whose log probabilities the client has
        self._opened = False  # the first chunks were sent
        self._failed = False  # the worker reported an error, which the client has

    def feed(self, data: bytes) -> bytes:
        """The events for the newest frame, or b"". Raises BadEngineResponse."""
        if self.engine_status != 200:
            return super().feed(data)
        return b"" if self.done else self._translate(self._frames.feed(data))

    def end(self) -> bytes:
        """The last events, or the whole object. Raises BadEngineResponse."""
        if self.engine_status != 200:
            return self._client_error()
        if self._failed:
            return b""
        translated = b"" if self.done else self._translate(self._frames.end())
        if self._failed:
            return translated
        frame = self._newest
        if frame is None:
            raise BadEngineResponse("ended its response without a frame")
        text = "" if self.done else self._deltas.end(frame.text)
        finish_reason = "stop" if self._deltas.stopped else frame.finish_reason or "stop"
        if self.streams:
            return translated + self._last_events(text, frame, finish_reason)
        full = self._objects.full("".join([*self._text_parts, text]), frame, finish_reason)
        return msgspec.json.encode(full | {"usage": _usage(frame)})

    def _last_events(self, text: str, frame: Frame, finish_reason: str) -> bytes:
        chunks = self._first_chunks()
        if text:
            chunks.append(self._text_chunk(text, frame))
        chunks.append(self._objects.finish_chunk(finish_reason))
        if self._include_usage:
            chunks.append(self._objects.usage_chunk(_usage(frame)))
        return _events(chunks) + DONE

    def _translate(self, data: bytes) -> bytes:
        """The events for a frame, which is b"" if there is none. Raises BadEngineResponse."""
        if not data:
            return b""
        try:
            self._newest = frame = msgspec.json.decode(data, type=Frame)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise BadEngineResponse(f"sent a frame that is not FastChat's: {error}") from None
        if frame.error_code:
            return self._fail(frame)
        text = self._deltas.feed(frame.text)
        self.done = self._deltas.stopped
        if not self.streams:
            self._text_parts.append(text)
            return b""
        return _events([*self._first_chunks(), self._text_chunk(text, frame)]) if text else b""

    def _text_chunk(self, text: str, frame: Frame) -> dict[str, Any]:
        logprobs = skip_logprobs(frame.logprobs, self._logprobs_sent)
        self._logprobs_sent += count_logprobs(logprobs)
        return self._objects.text_chunk(text, logprobs)

    def _fail(self, frame: Frame) -> bytes:
        """The worker reports an error: the whole response if no text was sent before, otherwise an event."""
        self._failed = self.done = True
        status = http_status(frame.error_code)
        error = msgspec.json.encode(openai_error(frame.text, status))
        if self._opened:
            return b"event: error\ndata: %b\n\n" % error
        self.status, self.content_type, self.streams = status, b"application/json", True
        return error

    def _client_error(self) -> bytes:
        """OpenAI's error object for a worker's response that is not 200. Raises BadEngineResponse."""
        body = self._client_error_body()
        self.status, self.content_type = self.engine_status, b"application/json"
        return msgspec.json.encode(openai_error(error_text(body), self.engine_status))

    def _first_chunks(self) -> list[dict[str, Any]]:
        if self._opened:
            return []
        self._opened = True
        return self._objects.first_chunks()


def _events(objects: list[dict[str, Any]]) -> bytes:
    return b"".join(b"data: %b\n\n" % msgspec.json.encode(one) for one in objects)


def _usage(frame: Frame) -> dict[str, Any]:
    usage = frame.usage or Usage()
    completion = usage.completion_tokens or 0
    total = usage.total_tokens or usage.prompt_tokens + completion
    return {"prompt_tokens": usage.prompt_tokens, "completion_tokens": completion, "total_tokens": total}
