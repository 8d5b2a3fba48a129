"""A FastChat client's request as one for an engine of OpenAI's family.

Source: FastChat, fastchat/serve/inference.py (what the fields mean, and what they are where they are missing); OpenAI
API reference, "Create completion"; vLLM and SGLang take top_k, repetition_penalty and stop_token_ids beside it.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from hierarchy.errors import BadRequest
from hierarchy.translation.fastchat_response import ObjectReply, StreamReply
from hierarchy.translation.openai_request import MOST
from hierarchy.translation.response import Reply

MAX_NEW_TOKENS = 256  # the workers' own default


class _Params(msgspec.Struct):
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
    logprobs: Annotated[int, Meta(ge=0, le=MOST)] | None = None
    best_of: Annotated[int, Meta(ge=1, le=MOST)] | None = None
    images: list[Any] | None = None
    use_beam_search: bool | None = None


class Wanted:
    """A generate request for `/v1/completions`."""

    path = "/v1/completions"

    def __init__(self, params: _Params, *, streams: bool) -> None:
        for name, wish in (("images", params.images), ("use_beam_search", params.use_beam_search)):
            if wish:
                raise BadRequest(
                    f"'{name}': the engine of this model cannot do that for FastChat's clients; "
                    "ask /v1/chat/completions",
                    param=name,
                )
        self._tokens = MAX_NEW_TOKENS if params.max_new_tokens is None else int(params.max_new_tokens)
        if not 1 <= self._tokens <= MOST:
            raise BadRequest(f"'max_new_tokens' must lie between 1 and {MOST}", param="max_new_tokens")
        self._params = params
        self._streams = streams

    def body(self, model: str) -> bytes:
        """The JSON for the engine. model: as it names it."""
        params = self._params
        asked: dict[str, Any] = {
            "model": model,
            "prompt": params.prompt,
            "max_tokens": self._tokens,
            "stream": self._streams,
        }
        if self._streams:
            asked["stream_options"] = {"include_usage": True}
        asked |= _said(
            temperature=params.temperature,
            top_p=params.top_p,
            # What changes nothing is left out: not all engines know these.
            top_k=int(params.top_k) if params.top_k and 0 < params.top_k < MOST else None,
            presence_penalty=params.presence_penalty or None,
            frequency_penalty=params.frequency_penalty or None,
            repetition_penalty=None if params.repetition_penalty == 1 else params.repetition_penalty,
            stop=params.stop or None,
            stop_token_ids=params.stop_token_ids or None,
            logprobs=params.logprobs,
            best_of=params.best_of,
        )
        return msgspec.json.encode(asked)

    def reply(self, model: str) -> Reply:
        """Who puts the engine's answer into FastChat's words."""
        echoed = self._params.prompt if self._params.echo is not False else ""  # they echo unless told not to
        return StreamReply(echoed) if self._streams else ObjectReply(echoed)


def _said(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def read(body: bytes, *, streams: bool) -> Wanted:
    """Raises BadRequest."""
    try:
        return Wanted(msgspec.json.decode(body, type=_Params), streams=streams)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"the request is not FastChat's: {error}") from None
