"""How the clients of each path are spoken to where the words are ours: errors, and what keeps a stream alive. Pure.

Source: OpenAI API reference, "Error codes"; Anthropic API reference, "Errors" (`{"type": "error", "error": {...}}`);
FastChat, fastchat/serve/openai_api_server.py (`fetch_remote` caches what a status other than 200 gave it; readers of
frames never look at the status and skip empty frames); HTML standard, server-sent events (lines that begin with a colon
are ignored).
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
    """api: the family of engines that serve the path. form: of an answer that streams; an "object" never does.

    comment: means nothing inside a stream. filler: a byte that completes a cut one without a meaning of its own.
    """

    api: Api
    form: Form
    stream_type: bytes
    comment: bytes
    filler: bytes
    shape: Literal["openai", "anthropic", "fastchat"]

    @property
    def always_ok(self) -> bool:
        """The status is 200 whatever happens: FastChat's clients cannot live with another."""
        return self.shape == "fastchat"

    def error(self, error: RequestError) -> bytes:
        """The body of an answer that is an error."""
        body = json.dumps(self._words(error)).encode()
        return body + b"\0" if self.form == "frames" else body

    def error_event(self, error: RequestError) -> bytes:
        """An error inside a stream."""
        return self.as_event(json.dumps(self._words(error)).encode())

    def as_event(self, body: bytes) -> bytes:
        """An error's body inside a stream. What stands before it ends whatever was cut, and means nothing otherwise."""
        if self.form == "frames":
            return b"\0%b\0" % body.strip(b"\0")
        return b"\n\nevent: error\ndata: %b\n\n" % b" ".join(body.split())

    def _words(self, error: RequestError) -> dict[str, Any]:
        if self.shape == "fastchat":
            return error.fastchat()
        return error.anthropic() if self.shape == "anthropic" else error.openai()


_EVENTS = b"text/event-stream; charset=utf-8"
OPENAI = Dialect("openai", "events", _EVENTS, b": waiting\n\n", b"\n", "openai")
ANTHROPIC = Dialect("openai", "events", _EVENTS, b": waiting\n\n", b"\n", "anthropic")
FRAMES = Dialect("fastchat", "frames", b"application/octet-stream", b"\0", b"\0", "fastchat")
OBJECT = Dialect("fastchat", "object", b"application/json", b"", b"", "fastchat")

#: what an engine of the other family can be asked for instead
TRANSLATED = frozenset(path.encode() for path in OPENAI_PATHS | FASTCHAT_PATHS)
#: paths that are not found by their beginning
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
