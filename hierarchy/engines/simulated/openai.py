"""The paths of OpenAI's API, as vLLM serves them.

Source: OpenAI API reference (chat, completions, embeddings, models); vLLM for `ignore_eos` and errors.
"""

from __future__ import annotations

import base64
import json
import struct
import time
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

OWNER = "hierarchy-simulated"  # `owned_by` of each model, and the fingerprint of each answer


class RejectedRequest(Exception):
    """The request is invalid. status: of the response; param: the wrong field."""

    def __init__(self, status: int, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.param = param

    def response(self) -> Response:
        """vLLM's error response."""
        kind = "NotFoundError" if self.status == 404 else "BadRequestError"
        error = {"message": str(self), "type": kind, "param": self.param, "code": self.status}
        return JSONResponse({"error": error}, self.status)


class ChatBody:
    """`chat.completion`, or its chunks."""

    _object = "chat.completion"
    _id = "chatcmpl"

    def __init__(self, job: Job, *, streaming: bool, include_usage: bool) -> None:
        self.streaming = streaming
        self.media_type = "text/event-stream; charset=utf-8" if streaming else "application/json"
        self._job = job
        self._include_usage = include_usage
        self._common = {
            "id": f"{self._id}-simulated-{job.number}",
            "object": f"{self._object}.chunk" if streaming and self._object == "chat.completion" else self._object,
            "created": int(time.time()),
            "model": job.model,
            "system_fingerprint": OWNER,
        }
        # No token needs escaping, so the JSON of a chunk is encoded once and each token is inserted into it.
        placeholder = "\0"
        chunk = self._event(self._choice(placeholder, None))
        self._before, _, self._after = chunk.partition(json.dumps(placeholder)[1:-1].encode())

    def token(self, index: int) -> bytes:
        """A chunk; the first one is preceded by the role."""
        chunk = self._before + token_text(index).encode() + self._after
        return chunk if index else self._opening() + chunk

    def end(self) -> bytes:
        """The last chunks and `[DONE]`, or the whole object."""
        if not self.streaming:
            whole = {**self._common, "choices": [self._whole()], "usage": self._job.usage}
            return json.dumps(whole).encode()
        end = self._event(self._choice("", self._job.finish_reason))
        if self._include_usage:
            end += _sse({**self._common, "choices": [], "usage": self._job.usage})
        return end + b"data: [DONE]\n\n"

    def error(self) -> bytes:
        """An error object; in a stream it is an event, and `[DONE]` follows, as in vLLM."""
        error = {"message": "a simulated fault", "type": "InternalServerError", "param": None, "code": 500}
        if self.streaming:
            return _sse({"error": error}) + b"data: [DONE]\n\n"
        return json.dumps({"error": error}).encode()

    def _opening(self) -> bytes:
        return self._event({**self._choice("", None), "delta": {"role": "assistant", "content": ""}})

    def _choice(self, text: str, finish_reason: str | None) -> dict[str, Any]:
        delta = {} if finish_reason else {"content": text}
        return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}

    def _whole(self) -> dict[str, Any]:
        message = {"role": "assistant", "content": answer_text(self._job.answer_tokens)}
        return {"index": 0, "message": message, "logprobs": None, "finish_reason": self._job.finish_reason}

    def _event(self, choice: dict[str, Any]) -> bytes:
        usage = {"usage": None} if self._include_usage else {}
        return _sse({**self._common, "choices": [choice], **usage})


class CompletionBody(ChatBody):
    """`text_completion`, or its chunks, which have the same fields as the whole."""

    _object = "text_completion"
    _id = "cmpl"

    def _opening(self) -> bytes:
        return b""

    def _choice(self, text: str, finish_reason: str | None) -> dict[str, Any]:
        return {"index": 0, "text": text, "logprobs": None, "finish_reason": finish_reason}

    def _whole(self) -> dict[str, Any]:
        return self._choice(answer_text(self._job.answer_tokens), self._job.finish_reason)


class OpenAIPaths:
    """The handlers of the paths."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def models(self, request: Request) -> Response:
        """`/v1/models`."""
        entries = [
            {"id": name, "object": "model", "created": 0, "owned_by": OWNER, "max_model_len": CONTEXT_TOKENS}
            for name in self._engine.models
        ]
        return JSONResponse({"object": "list", "data": entries})

    async def chat(self, request: Request) -> Any:
        """`/v1/chat/completions`."""
        return await self._generate(request, ChatBody, "messages")

    async def completions(self, request: Request) -> Any:
        """`/v1/completions`."""
        return await self._generate(request, CompletionBody, "prompt")

    async def embeddings(self, request: Request) -> Response:
        """`/v1/embeddings`."""
        try:
            body = self._decode(await request.body(), "input")
        except RejectedRequest as error:
            return error.response()
        texts = body["input"] if isinstance(body["input"], list) else [body["input"]]
        encoding = body.get("encoding_format")
        entries = [
            {"object": "embedding", "index": index, "embedding": _encoded(embedding(_text(text)), encoding)}
            for index, text in enumerate(texts)
        ]
        tokens = sum(count_tokens(_text(text)) for text in texts)
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        self._engine.served += 1
        return JSONResponse({"object": "list", "data": entries, "model": body["model"], "usage": usage})

    async def _generate(self, request: Request, body_type: type[ChatBody], prompt_field: str) -> Any:
        try:
            body = self._decode(await request.body(), prompt_field)
            max_tokens = _max_tokens(body)
        except RejectedRequest as error:
            return error.response()
        job = self._engine.job(
            body["model"], _text(body[prompt_field]), max_tokens, ignore_eos=body.get("ignore_eos") is True
        )
        options = body.get("stream_options")
        include_usage = isinstance(options, dict) and options.get("include_usage") is True
        streaming = body.get("stream") is True
        return GenerationResponse(self._engine, job, body_type(job, streaming=streaming, include_usage=include_usage))

    def _decode(self, raw: bytes, required_field: str) -> dict[str, Any]:
        """The request. Raises RejectedRequest."""
        try:
            body = msgspec.json.decode(raw)
        except msgspec.DecodeError as error:
            raise RejectedRequest(400, f"the body is not JSON: {error}") from None
        if not isinstance(body, dict) or not isinstance(body.get("model"), str):
            raise RejectedRequest(400, "model: must be a string", "model")
        if body["model"] not in self._engine.models:
            raise RejectedRequest(404, f"The model `{body['model']}` does not exist.", "model")
        if required_field not in body:
            raise RejectedRequest(400, f"{required_field}: is missing", required_field)
        if body.get("n", 1) != 1:
            raise RejectedRequest(400, "n: a simulated engine supports only 1", "n")
        return body


def _max_tokens(body: dict[str, Any]) -> int | None:
    """The limit of the answer, if the request has one. Raises RejectedRequest."""
    for field in ("max_completion_tokens", "max_tokens"):
        value = body.get(field)
        if value is not None:
            if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= CONTEXT_TOKENS:
                raise RejectedRequest(400, f"{field}: must be between 1 and {CONTEXT_TOKENS}", field)
            return value
    return None


def _text(prompt: Any) -> str:
    """The text of a prompt, which may be a string, a message, a content part or a list of these."""
    if isinstance(prompt, str):
        return prompt
    if isinstance(prompt, list):
        return "\n".join(map(_text, prompt))
    if isinstance(prompt, dict):
        return _text(prompt.get("content", prompt.get("text")))
    return ""


def _encoded(vector: list[float], encoding: object) -> str | list[float]:
    """A vector as `encoding_format` requests it. The openai package requests base64 of little-endian 32-bit floats."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode() if encoding == "base64" else vector


def _sse(payload: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(payload, separators=(",", ":")).encode() + b"\n\n"
