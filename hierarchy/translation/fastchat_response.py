"""Translates a completion of an engine of OpenAI's family for FastChat's client.

FastChat streams frames, each with the whole text so far. Without a stream, it sends one JSON object of the same fields.
"""

from __future__ import annotations

from typing import Any

import msgspec

from hierarchy.translation.error_codes import fastchat_error
from hierarchy.translation.error_text import error_text
from hierarchy.translation.openai_response import Usage
from hierarchy.translation.response import (
    MAX_BUFFERED_BYTES,
    BadEngineResponse,
    BufferedTranslator,
    Logprobs,
    append_logprobs,
)
from hierarchy.translation.sse import EventSplitter


class _Choice(msgspec.Struct):
    text: str = ""
    finish_reason: str | None = None
    logprobs: Logprobs | None = None


class _Completion(msgspec.Struct):
    """OpenAI's `text_completion`, whole or a chunk of a stream."""

    choices: list[_Choice] = []
    usage: Usage | None = None
    error: Any = None


class _EngineError(Exception):
    """The engine reports an error inside a response with status 200. args: FastChat's error object."""


class _FastChatTranslator(BufferedTranslator):
    """What both translators share. echo: precedes the text."""

    def __init__(self, echo: str = "") -> None:
        super().__init__()
        self._text = echo
        self._usage: Usage | None = None
        self._finish_reason: str | None = None
        self._logprobs: Logprobs | None = None
        self._kept_bytes = len(echo)  # an estimate of text and log probabilities

    def _add(self, data: bytes) -> None:
        """Add the JSON of a completion or a chunk. Raises BadEngineResponse, _EngineError."""
        try:
            chunk = msgspec.json.decode(data, type=_Completion)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise BadEngineResponse(f"sent something that is not a completion of OpenAI's API: {error}") from None
        if chunk.error is not None:
            raise _EngineError(fastchat_error(error_text(data), 500))
        choice = chunk.choices[0] if chunk.choices else _Choice()
        self._kept_bytes += len(data) if choice.logprobs else len(choice.text)
        if self._kept_bytes > MAX_BUFFERED_BYTES:
            raise BadEngineResponse(f"sent an answer of more than {MAX_BUFFERED_BYTES} bytes")
        self._text += choice.text
        self._logprobs = append_logprobs(self._logprobs, choice.logprobs)
        self._usage = chunk.usage or self._usage
        self._finish_reason = choice.finish_reason or self._finish_reason

    def _object(self, finish_reason: str | None, **fields: Any) -> bytes:
        """FastChat's object with the text so far."""
        usage = self._usage or Usage()
        known = {"text": self._text, "error_code": 0, "usage": usage, "finish_reason": finish_reason}
        return msgspec.json.encode(known | fields)

    def _error_object(self) -> bytes:
        """FastChat's object for an engine's response that is not 200. Raises BadEngineResponse."""
        return msgspec.json.encode(fastchat_error(error_text(self._client_error_body()), self.engine_status))


class ObjectTranslator(_FastChatTranslator):
    """For `/worker_generate`."""

    def end(self) -> bytes:
        """The one object of the response. Raises BadEngineResponse."""
        if self.engine_status != 200:
            return self._error_object()
        try:
            self._add(self._body())
        except _EngineError as error:
            return msgspec.json.encode(error.args[0])
        return self._object(self._finish_reason or "stop", logprobs=self._logprobs)


class StreamTranslator(_FastChatTranslator):
    """For `/worker_generate_stream`. Sends at most one frame for each read, since each frame has the whole text."""

    def __init__(self, echo: str = "") -> None:
        super().__init__(echo)
        self.streams = True
        self.content_type = b"application/octet-stream"
        self._events = EventSplitter()
        self._complete = self._failed = False  # `[DONE]` came; an error frame was sent

    def feed(self, data: bytes) -> bytes:
        """One frame if there is new text, otherwise b"". Raises BadEngineResponse."""
        if self.engine_status != 200:
            return super().feed(data)
        before = len(self._text)
        try:
            for name, value in self._events.feed(data):
                if self._complete:
                    break
                if name == b"error":
                    raise _EngineError(fastchat_error(error_text(value), 500))
                if value.strip() == b"[DONE]":
                    self._complete = True
                else:
                    self._add(value)
        except _EngineError as error:
            self._failed = self.done = True
            return msgspec.json.encode(error.args[0]) + b"\0"
        return self._frame(None) if len(self._text) > before else b""

    def end(self) -> bytes:
        """The last frame. Raises BadEngineResponse."""
        if self.engine_status != 200:
            return self._error_object() + b"\0"
        if self._failed:
            return b""
        if not self._complete and self._finish_reason is None:
            raise BadEngineResponse("ended its stream before its answer was complete")
        return self._frame(self._finish_reason or "stop")

    def _frame(self, finish_reason: str | None) -> bytes:
        fields = {} if self._logprobs is None else {"logprobs": self._logprobs}
        return self._object(finish_reason, **fields) + b"\0"
