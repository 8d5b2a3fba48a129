"""The paths of a FastChat worker.

Source: FastChat, fastchat/serve/base_model_worker.py (paths) and model_worker.py (frames): a stream is JSON objects,
each followed by a NUL byte; each has the text *so far*, the usage and the finish_reason.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from hierarchy.engines.simulated.engine import (
    CONTEXT_TOKENS,
    Engine,
    Job,
    answer_text,
    count_tokens,
    embedding,
    token_text,
)
from hierarchy.engines.simulated.response import GenerationResponse

INTERNAL_ERROR = 50001  # FastChat's ErrorCode
DEFAULT_MAX_NEW_TOKENS = 256  # FastChat's


class FrameBody:
    """The frames of `/worker_generate_stream`, or the one object of `/worker_generate`.

    echo: the prompt, if the text is to begin with it; else "".
    """

    def __init__(self, job: Job, echo: str, *, streaming: bool) -> None:
        self.streaming = streaming
        self.media_type = "application/octet-stream" if streaming else "application/json"
        self._job = job
        self._echo = echo
        self._text = echo  # so far

    def token(self, index: int) -> bytes:
        """A frame with the text so far."""
        self._text += token_text(index)
        return self._object(self._text, index + 1, None) + b"\0"

    def end(self) -> bytes:
        """The last frame, or the whole object."""
        text = self._echo + answer_text(self._job.answer_tokens)
        last = self._object(text, self._job.answer_tokens, self._job.finish_reason)
        return last + b"\0" if self.streaming else last

    def error(self) -> bytes:
        """An object with an error code."""
        return _failure_bytes("a simulated fault", self.streaming)

    def _object(self, text: str, tokens: int, finish_reason: str | None) -> bytes:
        prompt_tokens = self._job.prompt_tokens
        usage = {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": tokens,
            "total_tokens": prompt_tokens + tokens,
        }
        return json.dumps({"text": text, "error_code": 0, "usage": usage, "finish_reason": finish_reason}).encode()


class FastChatPaths:
    """The handlers of the paths."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def status(self, request: Request) -> Response:
        """`/worker_get_status`."""
        return JSONResponse(self._engine.worker_status())

    async def generate_stream(self, request: Request) -> Any:
        """`/worker_generate_stream`."""
        return self._respond(await _params(request), streaming=True)

    async def generate(self, request: Request) -> Any:
        """`/worker_generate`."""
        return self._respond(await _params(request), streaming=False)

    async def conv_template(self, request: Request) -> Response:
        """FastChat's template "one_shot" without its examples, with all fields that FastChat's API server reads."""
        conv = {
            "name": "one_shot",
            "system_template": "{system_message}",
            "system_message": "",
            "roles": ["Human", "Assistant"],
            "messages": [],
            "offset": 0,
            "sep_style": 1,  # SeparatorStyle.ADD_COLON_SINGLE
            "sep": "\n### ",
            "sep2": None,
            "stop_str": "###",
            "stop_token_ids": None,
        }
        return JSONResponse({"conv": conv})

    async def model_details(self, request: Request) -> Response:
        """`/model_details`."""
        return JSONResponse({"context_length": CONTEXT_TOKENS})

    async def count_token(self, request: Request) -> Response:
        """`/count_token`."""
        params = await _params(request)
        return JSONResponse({"count": count_tokens(str(params.get("prompt", ""))), "error_code": 0})

    async def embeddings(self, request: Request) -> Response:
        """`/worker_get_embeddings`."""
        texts = (await _params(request)).get("input", [])
        texts = [str(text) for text in texts] if isinstance(texts, list) else [str(texts)]
        self._engine.served += 1
        return JSONResponse(
            {"embedding": [embedding(text) for text in texts], "token_num": sum(map(count_tokens, texts))}
        )

    def _respond(self, params: dict[str, Any], *, streaming: bool) -> Any:
        prompt = str(params.get("prompt", ""))
        # A FastChat worker with one model ignores `model`, so this one accepts any name.
        model = params.get("model")
        if model not in self._engine.models:
            model = next(iter(self._engine.models), None)
        if model is None:
            return _failure("this worker has no model", streaming)
        limit = params.get("max_new_tokens", DEFAULT_MAX_NEW_TOKENS)
        if not isinstance(limit, int | float) or not 0 < limit <= CONTEXT_TOKENS:
            return _failure(f"max_new_tokens: must be between 1 and {CONTEXT_TOKENS}", streaming)
        job = self._engine.job(str(model), prompt, int(limit))
        echo = prompt if params.get("echo", True) else ""  # workers echo by default
        return GenerationResponse(self._engine, job, FrameBody(job, echo, streaming=streaming))


def _failure(text: str, streaming: bool) -> Response:
    """An error, which workers send as a frame with status 200."""
    return Response(_failure_bytes(text, streaming))


def _failure_bytes(text: str, streaming: bool) -> bytes:
    frame = json.dumps({"text": text, "error_code": INTERNAL_ERROR}).encode()
    return frame + b"\0" if streaming else frame


async def _params(request: Request) -> dict[str, Any]:
    try:
        params = msgspec.json.decode(await request.body() or b"{}")
    except msgspec.DecodeError:
        params = None
    return params if isinstance(params, dict) else {}
