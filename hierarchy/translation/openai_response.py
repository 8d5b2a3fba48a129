"""A FastChat worker's stream as OpenAI's answer to a chat or a completion, in one piece or as a stream."""

from __future__ import annotations

import time
import uuid
from collections.abc import Collection
from typing import Any, Protocol

import msgspec

from hierarchy.translation.deltas import Deltas
from hierarchy.translation.error_codes import message_of, openai_error, status_of
from hierarchy.translation.frames import Frames
from hierarchy.translation.logprobs import Logprobs, behind, count
from hierarchy.translation.response import BadReply, Collected

DONE = b"data: [DONE]\n\n"
_EVENTS = b"text/event-stream; charset=utf-8"


class Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int | None = 0
    total_tokens: int = 0


class Frame(msgspec.Struct):
    """What a worker says: the whole text so far, and at the end why it ends."""

    text: str = ""
    error_code: int = 0
    usage: Usage | None = None
    finish_reason: str | None = None
    logprobs: Logprobs | None = None


class Form(Protocol):
    """How one of OpenAI's objects is built."""

    def whole(self, text: str, frame: Frame, reason: str) -> dict[str, Any]:
        """The answer in one piece, without its usage."""

    def opening(self) -> list[dict[str, Any]]:
        """What a stream begins with."""

    def piece(self, text: str, logprobs: Logprobs | None) -> dict[str, Any]:
        """More text, in a stream. logprobs: of the tokens that none was told of yet."""

    def last(self, reason: str) -> dict[str, Any]:
        """Why the stream ends."""

    def usage(self, usage: dict[str, Any]) -> dict[str, Any]:
        """What it took, behind the end of a stream."""


class ChatForm:
    """`chat.completion`, `chat.completion.chunk`."""

    def __init__(self, model: str, made_id: str | None = None, created: int | None = None) -> None:
        self._said = {
            "id": made_id or f"chatcmpl-{uuid.uuid4().hex}",
            "created": int(time.time()) if created is None else created,
            "model": model,
        }

    def whole(self, text: str, frame: Frame, reason: str) -> dict[str, Any]:
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": reason}
        return {**self._said, "object": "chat.completion", "choices": [choice]}

    def opening(self) -> list[dict[str, Any]]:
        return [self._chunk({"role": "assistant", "content": ""})]

    def piece(self, text: str, logprobs: Logprobs | None) -> dict[str, Any]:
        return self._chunk({"content": text})

    def last(self, reason: str) -> dict[str, Any]:
        return self._chunk({}, reason)

    def usage(self, usage: dict[str, Any]) -> dict[str, Any]:
        return {**self._said, "object": "chat.completion.chunk", "choices": [], "usage": usage}

    def _chunk(self, delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        return {**self._said, "object": "chat.completion.chunk", "choices": [choice]}


class TextForm:
    """`text_completion`."""

    def __init__(self, model: str, made_id: str | None = None, created: int | None = None) -> None:
        self._said = {
            "id": made_id or f"cmpl-{uuid.uuid4().hex}",
            "object": "text_completion",
            "created": int(time.time()) if created is None else created,
            "model": model,
        }

    def whole(self, text: str, frame: Frame, reason: str) -> dict[str, Any]:
        choice = {"index": 0, "text": text, "logprobs": frame.logprobs, "finish_reason": reason}
        return {**self._said, "choices": [choice]}

    def opening(self) -> list[dict[str, Any]]:
        return []

    def piece(self, text: str, logprobs: Logprobs | None) -> dict[str, Any]:
        return self._chunk(text, None, logprobs)

    def last(self, reason: str) -> dict[str, Any]:
        return self._chunk("", reason)

    def usage(self, usage: dict[str, Any]) -> dict[str, Any]:
        return {**self._said, "choices": [], "usage": usage}

    def _chunk(self, text: str, reason: str | None = None, logprobs: Logprobs | None = None) -> dict[str, Any]:
        return {**self._said, "choices": [{"index": 0, "text": text, "logprobs": logprobs, "finish_reason": reason}]}


class CompletionReply(Collected):
    """`Reply` for both. stops: as in `Deltas`; echoed and kept too. usage: the client of a stream wants to know it."""

    def __init__(
        self,
        form: Form,
        *,
        stops: Collection[str] = (),
        echoed: str = "",
        kept: str = "",
        streams: bool = False,
        usage: bool = False,
    ) -> None:
        super().__init__()
        self.streams = streams
        self.content_type = _EVENTS if streams else b"application/json"
        self._form = form
        self._usage = usage
        self._frames = Frames()
        self._deltas = Deltas(stops, echoed, kept)
        self._frame: Frame | None = None  # the newest
        self._text: list[str] = []  # what is new in each
        self._tokens = 0  # whose log probabilities were told
        self._opened = False
        self._failed = False

    def feed(self, data: bytes) -> bytes:
        if self.status_in != 200:
            return super().feed(data)
        return b"" if self.done else self._take(self._frames.feed(data))

    def end(self) -> bytes:
        if self.status_in != 200:
            return self._refusal()
        if self._failed:
            return b""
        words = b"" if self.done else self._take(self._frames.end())
        if self._failed:
            return words
        frame = self._frame
        if frame is None:
            raise BadReply("ended its answer without a word")
        text = "" if self.done else self._deltas.end(frame.text)
        reason = "stop" if self._deltas.stopped else frame.finish_reason or "stop"
        if not self.streams:
            whole = self._form.whole("".join([*self._text, text]), frame, reason)
            return msgspec.json.encode(whole | {"usage": _usage(frame)})
        events = self._opening() + ([self._piece(text, frame)] if text else []) + [self._form.last(reason)]
        if self._usage:
            events.append(self._form.usage(_usage(frame)))
        return words + _events(events) + DONE

    def _take(self, frame: bytes) -> bytes:
        """A frame, or b"" for none."""
        if not frame:
            return b""
        try:
            self._frame = said = msgspec.json.decode(frame, type=Frame)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise BadReply(f"sent a frame that is not FastChat's: {error}") from None
        if said.error_code:
            return self._fail(said)
        text = self._deltas.feed(said.text)
        self.done = self._deltas.stopped
        if not self.streams:
            self._text.append(text)
            return b""
        return _events([*self._opening(), self._piece(text, said)]) if text else b""

    def _piece(self, text: str, frame: Frame) -> dict[str, Any]:
        new = behind(frame.logprobs, self._tokens)
        self._tokens += count(new)
        return self._form.piece(text, new)

    def _fail(self, said: Frame) -> bytes:
        """The worker reports an error: as the whole answer if nothing was said yet, else as an event."""
        self._failed = self.done = True
        status = status_of(said.error_code)
        error = msgspec.json.encode(openai_error(said.text, status))
        if self._opened:
            return b"event: error\ndata: %b\n\n" % error
        self.status, self.content_type, self.streams = status, b"application/json", True
        return error

    def _refusal(self) -> bytes:
        body = self._collected()
        self._refuse_broken(body)
        self.status, self.content_type = self.status_in, b"application/json"
        return msgspec.json.encode(openai_error(message_of(body), self.status_in))

    def _opening(self) -> list[dict[str, Any]]:
        if self._opened:
            return []
        self._opened = True
        return self._form.opening()


def _events(objects: list[dict[str, Any]]) -> bytes:
    return b"".join(b"data: %b\n\n" % msgspec.json.encode(one) for one in objects)


def _usage(frame: Frame) -> dict[str, Any]:
    usage = frame.usage or Usage()
    completion = usage.completion_tokens or 0
    total = usage.total_tokens or usage.prompt_tokens + completion
    return {"prompt_tokens": usage.prompt_tokens, "completion_tokens": completion, "total_tokens": total}
