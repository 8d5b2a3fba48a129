"""The answer of an engine of OpenAI's family in FastChat's words: frames with the whole text so far, or one object."""

from __future__ import annotations

from typing import Any

import msgspec

from hierarchy.translation.error_codes import fastchat_error, message_of
from hierarchy.translation.logprobs import Logprobs, joined
from hierarchy.translation.openai_response import Usage
from hierarchy.translation.response import MAX_BYTES, BadReply, Collected
from hierarchy.translation.sse import Events


class _Choice(msgspec.Struct):
    text: str = ""
    finish_reason: str | None = None
    logprobs: Logprobs | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = []
    usage: Usage | None = None
    error: Any = None


class _InFastChat(Collected):
    """What both have in common. echoed: stands before the text."""

    def __init__(self, echoed: str = "") -> None:
        super().__init__()
        self._text = echoed
        self._usage: Usage | None = None
        self._reason: str | None = None
        self._logprobs: Logprobs | None = None
        self._kept = len(echoed)

    def _take(self, data: bytes) -> None:
        try:
            chunk = msgspec.json.decode(data, type=_Chunk)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise BadReply(f"sent something that is not OpenAI's: {error}") from None
        if chunk.error is not None:
            raise _Refused(fastchat_error(message_of(data), 500))
        choice = chunk.choices[0] if chunk.choices else _Choice()
        self._kept += len(data) if choice.logprobs else len(choice.text)
        if self._kept > MAX_BYTES:
            raise BadReply(f"sent an answer of more than {MAX_BYTES} bytes")
        self._text += choice.text
        self._logprobs = joined(self._logprobs, choice.logprobs)
        self._usage = chunk.usage or self._usage
        self._reason = choice.finish_reason or self._reason

    def _said(self, reason: str | None, **more: Any) -> bytes:
        usage = self._usage or Usage()
        said = {"text": self._text, "error_code": 0, "usage": usage, "finish_reason": reason}
        return msgspec.json.encode(said | more)

    def _refusal(self) -> bytes:
        """The engine answered with another status than 200."""
        body = self._collected()
        self._refuse_broken(body)
        return msgspec.json.encode(fastchat_error(message_of(body), self.status_in))


class _Refused(Exception):
    """An error inside an answer. args: FastChat's object for it."""


class ObjectReply(_InFastChat):
    """For `/worker_generate`."""

    def end(self) -> bytes:
        if self.status_in != 200:
            return self._refusal()
        try:
            self._take(self._collected())
        except _Refused as refused:
            return msgspec.json.encode(refused.args[0])
        return self._said(self._reason or "stop", logprobs=self._logprobs)


class StreamReply(_InFastChat):
    """For `/worker_generate_stream`: at most one frame for each read, since each has the whole text."""

    def __init__(self, echoed: str = "") -> None:
        super().__init__(echoed)
        self.streams = True
        self.content_type = b"application/octet-stream"
        self._events = Events()
        self._complete = self._failed = False

    def feed(self, data: bytes) -> bytes:
        if self.status_in != 200:
            return super().feed(data)
        before = len(self._text)
        try:
            for name, value in self._events.feed(data):
                if self._complete:
                    break
                if name == b"error":
                    raise _Refused(fastchat_error(message_of(value), 500))
                if value.strip() == b"[DONE]":
                    self._complete = True
                else:
                    self._take(value)
        except _Refused as refused:
            self._failed = self.done = True
            return msgspec.json.encode(refused.args[0]) + b"\0"
        return self._frame(None) if len(self._text) > before else b""

    def end(self) -> bytes:
        if self.status_in != 200:
            return self._refusal() + b"\0"
        if self._failed:
            return b""
        if not self._complete and self._reason is None:
            raise BadReply("ended its stream before its answer was complete")
        return self._frame(self._reason or "stop")

    def _frame(self, reason: str | None) -> bytes:
        more = {} if self._logprobs is None else {"logprobs": self._logprobs}
        return self._said(reason, **more) + b"\0"
