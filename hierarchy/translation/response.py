"""What all response translators share: their interface, a buffer, the untranslated response, and log probabilities.

Sources: OpenAI API reference, "Create completion" (`logprobs`: the lists tokens, token_logprobs, top_logprobs and
text_offset, all of one length); FastChat, fastchat/serve/inference.py (each frame has those of all tokens so far).
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Protocol

import msgspec

from hierarchy.errors import HierarchyError
from hierarchy.translation.error_text import error_text

MAX_BUFFERED_BYTES = 16 * 1024 * 1024  # of anything that has to be kept until it is complete
INTERNAL_ERROR = 50001  # FastChat's `ErrorCode.INTERNAL_ERROR`

Logprobs = dict[str, Any]


class BadEngineResponse(HierarchyError):
    """The engine's response is incomplete or not understood. `str(error)` follows its name: "gpu-1 sent …"."""


class ResponseTranslator(Protocol):
    """Translates the body of an engine's response to the client's API. Input and output are without HTTP's framing."""

    #: of the client's response; final once `feed` has returned data, or `end` was called
    status: int
    #: of the client's response; final as `status` is
    content_type: bytes
    #: the client gets its response in pieces; otherwise all of it comes from `end`
    streams: bool
    #: the rest of the engine's response is not needed: disconnect from the engine and call `end`
    done: bool

    def begin(self, status: int) -> None:
        """The engine's response has begun, with this HTTP status."""

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes of the engine's body, cut anywhere. Returns what the client gets now, often b"".

        Raises:
            BadEngineResponse
        """

    def end(self) -> bytes:
        """The engine's body is complete, or `done`. Returns the last bytes for the client.

        Raises:
            BadEngineResponse
        """


class BufferedTranslator:
    """A `ResponseTranslator` without its `end`: keeps a body that cannot be translated in pieces."""

    status = 200
    content_type = b"application/json"
    streams = False
    done = False
    engine_status = 200

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0  # bytes in `_parts`

    def begin(self, status: int) -> None:
        """Keep the status."""
        self.engine_status = status

    def feed(self, data: bytes) -> bytes:
        """Keep the bytes. Raises BadEngineResponse if they are too many."""
        self._size += len(data)
        if self._size > MAX_BUFFERED_BYTES:
            raise BadEngineResponse(f"sent a response of more than {MAX_BUFFERED_BYTES} bytes")
        self._parts.append(data)
        return b""

    def _body(self) -> bytes:
        return b"".join(self._parts)

    def _client_error_body(self) -> bytes:
        """The body of a response that is not 200 and that the client has to know.

        Raises:
            BadEngineResponse: the client is not to blame (500 and others), so another engine may be tried.
        """
        body = self._body()
        if 400 <= self.engine_status < 500 or self.engine_status == HTTPStatus.NOT_IMPLEMENTED:
            return body
        raise BadEngineResponse(f"answered {self.engine_status}: {error_text(body)}")


class PassThrough(BufferedTranslator):
    """A FastChat worker's response to a path that only workers have: unchanged, but the status is always 200.

    Source: FastChat, fastchat/serve/openai_api_server.py `fetch_remote`: with any other status it returns a string,
    which its caller keeps as the model's conversation template for good.
    """

    def end(self) -> bytes:
        """The unchanged body, or an error object. Raises BadEngineResponse."""
        if self.engine_status == 200:
            return self._body()
        text = f"the worker answered {self.engine_status}: {error_text(self._client_error_body())}"
        return msgspec.json.encode({"text": text, "error_code": INTERNAL_ERROR})


def count_logprobs(logprobs: Logprobs | None) -> int:
    """The number of tokens that they belong to."""
    return max((len(values) for values in (logprobs or {}).values() if isinstance(values, list)), default=0)


def skip_logprobs(logprobs: Logprobs | None, tokens: int) -> Logprobs | None:
    """Those of all tokens but the first `tokens`; None if there are none."""
    if logprobs is None or count_logprobs(logprobs) <= tokens:
        return None
    return {name: values[tokens:] if isinstance(values, list) else values for name, values in logprobs.items()}


def append_logprobs(logprobs: Logprobs | None, more: Logprobs | None) -> Logprobs | None:
    """Both, `more` last. Changes `logprobs`."""
    if logprobs is None or more is None:
        return more if logprobs is None else logprobs
    for name, values in more.items():
        known = logprobs.get(name)
        if isinstance(known, list) and isinstance(values, list):
            known.extend(values)
        else:
            logprobs[name] = values
    return logprobs
