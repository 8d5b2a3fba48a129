"""Translates a FastChat client's generate request to `/v1/completions` of an engine of OpenAI's family.

Source: FastChat, fastchat/serve/inference.py (fields and defaults); OpenAI API reference, "Create completion". vLLM
and SGLang have top_k, repetition_penalty and stop_token_ids as well.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from hierarchy.errors import BadRequest
from hierarchy.translation.fastchat_response import ObjectTranslator, StreamTranslator
from hierarchy.translation.openai_request import MAX_NUMBER
from hierarchy.translation.response import ResponseTranslator

DEFAULT_NEW_TOKENS = 256  # the workers' own default for `max_new_tokens`


class GenerateRequest(msgspec.Struct):
    """The body of `/worker_generate_stream` and `/worker_generate`."""

    prompt: str
    temperature: float | None = None
    top_p: float | None = None
    top_k: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    max_new_tokens: float | None = None
    echo: bool | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    logprobs: Annotated[int, Meta(ge=0, le=MAX_NUMBER)] | None = None
    best_of: Annotated[int, Meta(ge=1, le=MAX_NUMBER)] | None = None
    images: list[Any] | None = None
    use_beam_search: bool | None = None


class GenerationForEngine:
    """A generate request as a request to `/v1/completions`.

    Raises:
        BadRequest: it has a parameter that engines do not support.
    """

    path = "/v1/completions"

    def __init__(self, request: GenerateRequest, *, streams: bool) -> None:
        for name, value in (("images", request.images), ("use_beam_search", request.use_beam_search)):
            if value:
                raise BadRequest(
                    f"'{name}': the engine of this model does not support it for FastChat's clients; "
                    "use /v1/chat/completions",
                    param=name,
                )
        self._max_tokens = DEFAULT_NEW_TOKENS if request.max_new_tokens is None else int(request.max_new_tokens)
        if not 1 <= self._max_tokens <= MAX_NUMBER:
            raise BadRequest(f"'max_new_tokens' must be between 1 and {MAX_NUMBER}", param="max_new_tokens")
        self._request = request
        self._streams = streams

    def body(self, model: str) -> bytes:
        """The JSON for the engine. model: the engine's name for it."""
        request = self._request
        body: dict[str, Any] = {
            "model": model,
            "prompt": request.prompt,
            "max_tokens": self._max_tokens,
            "stream": self._streams,
        }
        if self._streams:
            body["stream_options"] = {"include_usage": True}
        body |= _without_none(
            temperature=request.temperature,
            top_p=request.top_p,
            # A neutral value is left out, since not all engines have these parameters.
            top_k=int(request.top_k) if request.top_k and 0 < request.top_k < MAX_NUMBER else None,
            presence_penalty=request.presence_penalty or None,
            frequency_penalty=request.frequency_penalty or None,
            repetition_penalty=None if request.repetition_penalty == 1 else request.repetition_penalty,
            stop=request.stop or None,
            stop_token_ids=request.stop_token_ids or None,
            logprobs=request.logprobs,
            best_of=request.best_of,
        )
        return msgspec.json.encode(body)

    def translator(self, model: str) -> ResponseTranslator:
        """Translates the engine's response."""
        echo = self._request.prompt if self._request.echo is not False else ""  # workers echo by default
        return StreamTranslator(echo) if self._streams else ObjectTranslator(echo)


def _without_none(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def decode_generate(body: bytes) -> GenerateRequest:
    """Decode a generate request from JSON. Raises BadRequest."""
    try:
        return msgspec.json.decode(body, type=GenerateRequest)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"the request is not FastChat's: {error}") from None
