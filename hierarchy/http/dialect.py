"""The dialect of each path: the form of its errors, and what keeps a waiting stream alive. Pure.

Source: OpenAI API reference, "Error codes"; Anthropic API reference, "Errors" (`{"type": "error", "error": {...}}`);
FastChat, fastchat/serve/openai_api_server.py (`fetch_remote` caches the body of a response with another status than
200; readers of frames never look at the status and skip empty frames); HTML standard, server-sent events (lines that
begin with a colon are ignored).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

from hierarchy.errors import RequestError
from hierarchy.translation import FASTCHAT_PATHS, OPENAI_PATHS
from hierarchy.wire.status import Api

Form = Literal["events", "frames", "object"]


@dataclass(frozen=True, slots=True, eq=False)
class Dialect:
    """What this node needs to know of a path to write responses and parts of streams for it."""

    api: Api  # the family of engines that serve the path
    form: Form  # of a response that streams; an "object" never does
    stream_type: bytes  # the content type of a stream
    comment: bytes  # has no meaning inside a stream
    filler: bytes  # one byte without a meaning, to complete a chunk that was cut
    error_shape: Literal["openai", "anthropic", "fastchat"]

    @property
    def always_ok(self) -> bool:
        """The status is 200 even for errors: FastChat's clients do not handle any other."""
        return self.error_shape == "fastchat"

    def error(self, error: RequestError) -> bytes:
        """The body of an error response."""
        body = json.dumps(self._error_object(error)).encode()
        return body + b"\0" if self.form == "frames" else body

    def error_event(self, error: RequestError) -> bytes:
        """An error inside a stream."""
        return self.as_event(json.dumps(self._error_object(error)).encode())

    def as_event(self, body: bytes) -> bytes:
        """The body of an error response as an event of a stream.

        The bytes before the error end an event that was cut; otherwise they have no meaning.
        """
        if self.form == "frames":
            return b"\0%b\0" % body.strip(b"\0")
        return b"\n\nevent: error\ndata: %b\n\n" % b" ".join(body.split())

    def _error_object(self, error: RequestError) -> dict[str, Any]:
        if self.error_shape == "fastchat":
            return error.fastchat()
        return error.anthropic() if self.error_shape == "anthropic" else error.openai()


_EVENTS = b"text/event-stream; charset=utf-8"
OPENAI = Dialect("openai", "events", _EVENTS, b": waiting\n\n", b"\n", "openai")
ANTHROPIC = Dialect("openai", "events", _EVENTS, b": waiting\n\n", b"\n", "anthropic")
FRAMES = Dialect("fastchat", "frames", b"application/octet-stream", b"\0", b"\0", "fastchat")
OBJECT = Dialect("fastchat", "object", b"application/json", b"", b"", "fastchat")

#: paths that engines of the other API family can serve too, by translation
TRANSLATED = frozenset(path.encode() for path in OPENAI_PATHS | FASTCHAT_PATHS)
#: paths that have a dialect of their own; `/v1/…` is OpenAI's otherwise
PATHS = {
    b"/tokenize": OPENAI,
    b"/detokenize": OPENAI,
    b"/v1/messages": ANTHROPIC,
    b"/v1/messages/count_tokens": ANTHROPIC,
    b"/worker_generate_stream": FRAMES,
    b"/worker_generate": OBJECT,
    b"/worker_get_embeddings": OBJECT,
    b"/worker_get_conv_template": OBJECT,
    b"/model_details": OBJECT,
    b"/count_token": OBJECT,
}
