"""The dialect of each path: the form of its errors, and what keeps a waiting stream alive. Pure.

Source: OpenAI API reference, "Error codes", "Create speech" (`stream_format`) and "Responses streaming" (the event
`error`); Anthropic API reference, "Errors" (`{"type": "error", "error": {...}}`);
FastChat, fastchat/serve/openai_api_server.py (`fetch_remote` caches the body of a response with another status than
200; readers of frames never look at the status and skip empty frames); HTML standard, server-sent events (lines that
begin with a colon are ignored).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any, Literal

import msgspec

from hierarchy.errors import RequestError
from hierarchy.translation import FASTCHAT_PATHS, OPENAI_PATHS
from hierarchy.translation.error_codes import EngineError
from hierarchy.translation.error_text import decode_error, error_status
from hierarchy.translation.whole_answer import Form as AnswerForm
from hierarchy.wire.status import Api

Form = Literal["events", "frames", "object"]
#: what in a request makes its response a stream that has a place for comments
StreamsIf = Literal["never", "always", "stream", "stream_format"]


@dataclass(frozen=True, slots=True, eq=False)
class Dialect:
    """What this node needs to know of a path to write responses and parts of streams for it."""

    api: Api  # the family of engines that serve the path
    form: Form  # of a response that streams; an "object" never does
    stream_type: bytes  # the content type of a stream
    comment: bytes  # has no meaning inside a stream
    filler: bytes  # one byte without a meaning, to complete a chunk that was cut
    error_shape: Literal["openai", "responses", "anthropic", "fastchat"]
    # Its field `stream` is true, or its field `stream_format` is `sse`. On other paths `stream` means something else,
    # such as audio in pieces, or nothing.
    streams_if: StreamsIf = "never"
    has_prompt: bool = False  # the engine reads a prompt, and makes text of it
    answer_form: AnswerForm | None = None  # of a response that is no stream, if it can be made one

    @property
    def always_ok(self) -> bool:
        """The status is 200 even for errors: FastChat's clients do not handle any other."""
        return self.error_shape == "fastchat"

    def error(self, error: RequestError) -> bytes:
        """The body of an error response."""
        body = json.dumps(self._error_object(error)).encode()
        return body + b"\0" if self.form == "frames" else body

    def error_event(self, error: RequestError) -> bytes:
        """An error inside a stream. The status is beside it, since the response has another one."""
        return self.as_event(json.dumps(self._with_status(self._error_object(error), error.status)).encode())

    def refusal(self, engine: str, status: int, body: bytes) -> bytes:
        """An engine's error response as an event of a stream: as it is, if its clients can read that here.

        engine: its path. status, body: of its response; a body that is cut off will do.
        """
        decoded = decode_error(body)
        if not self._is_error(decoded):
            return self.error_event(EngineError(engine, status, body))
        return self.as_event(msgspec.json.encode(self._with_status(decoded, error_status(status, body))))

    def reads(self, body: bytes) -> bool:
        """Is it an error in the form that clients of this dialect read, inside an event or frame or not?"""
        return self._is_error(decode_error(body))

    def as_event(self, body: bytes) -> bytes:
        """A JSON object as an event of a stream.

        The bytes before the object end an event that was cut; otherwise they have no meaning.
        """
        return b"\0%b\0" % body if self.form == "frames" else b"\n\nevent: error\ndata: %b\n\n" % body

    def _error_object(self, error: RequestError) -> dict[str, Any]:
        if self.error_shape == "fastchat":
            return error.fastchat()
        return error.anthropic() if self.error_shape == "anthropic" else error.openai()

    def _with_status(self, decoded: dict[str, Any], status: int) -> dict[str, Any]:
        """The object of an error as an event has it."""
        if self.error_shape == "fastchat":
            return decoded
        error = {**decoded["error"]}
        error.setdefault("status", status)
        if self.error_shape == "responses":  # an event has these beside its type; some clients read `error` instead
            own = {"code": error.get("code"), "message": error["message"], "param": error.get("param")}
            return {"type": "error", "sequence_number": 0, **own, **decoded, "error": error}
        return {**decoded, "error": error}

    def _is_error(self, decoded: Any) -> bool:
        if not isinstance(decoded, dict):
            return False
        if self.error_shape == "fastchat":
            code = decoded.get("error_code")
            return isinstance(code, int) and code > 0 and isinstance(decoded.get("text"), str)
        error = decoded.get("error")
        if not isinstance(error, dict) or not isinstance(error.get("message"), str) or not error["message"]:
            return False
        return self.error_shape != "anthropic" or (decoded.get("type") == "error" and bool(error.get("type")))


_EVENTS = b"text/event-stream; charset=utf-8"
_COMMENT = b": waiting\n\n"
#: any other path of OpenAI's API: a response that streams has events, but nothing tells beforehand whether it does
OPENAI = Dialect("openai", "events", _EVENTS, _COMMENT, b"\n", "openai")
CHAT = replace(OPENAI, streams_if="stream", answer_form="chat", has_prompt=True)
COMPLETIONS = replace(OPENAI, streams_if="stream", answer_form="completion", has_prompt=True)
RESPONSES = replace(OPENAI, error_shape="responses", streams_if="stream", answer_form="response", has_prompt=True)
SPEECH = replace(OPENAI, streams_if="stream_format")
ANTHROPIC = replace(OPENAI, error_shape="anthropic")
MESSAGES = replace(ANTHROPIC, streams_if="stream", answer_form="message", has_prompt=True)
FRAMES = Dialect("fastchat", "frames", b"application/octet-stream", b"\0", b"\0", "fastchat", "always", has_prompt=True)
OBJECT = Dialect("fastchat", "object", b"application/json", b"", b"", "fastchat")
GENERATE = replace(OBJECT, has_prompt=True)

#: paths that engines of the other API family can serve too, by translation
TRANSLATED = frozenset(path.encode() for path in OPENAI_PATHS | FASTCHAT_PATHS)
#: paths that have a dialect of their own; `/v1/…` is OpenAI's otherwise
PATHS = {
    b"/tokenize": OPENAI,
    b"/detokenize": OPENAI,
    b"/v1/chat/completions": CHAT,
    b"/v1/completions": COMPLETIONS,
    b"/v1/responses": RESPONSES,
    b"/v1/audio/speech": SPEECH,
    b"/v1/messages": MESSAGES,
    b"/v1/messages/count_tokens": ANTHROPIC,
    b"/worker_generate_stream": FRAMES,
    b"/worker_generate": GENERATE,
    b"/worker_get_embeddings": OBJECT,
    b"/worker_get_conv_template": OBJECT,
    b"/model_details": OBJECT,
    b"/count_token": OBJECT,
}
