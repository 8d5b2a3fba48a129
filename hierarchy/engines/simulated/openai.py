"""The OpenAI paths of the simulated engine, as vLLM serves them.

Source: OpenAI API reference (chat, completions, embeddings, models) and vLLM's protocol for `ignore_eos` and errors.
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

from hierarchy.engines.simulated.answer import Answer
from hierarchy.engines.simulated.engine import CONTEXT_TOKENS, Engine, Job, count_tokens, embedding, text_of, word

OWNER = "hierarchy-simulated"  # `owned_by` of each model, and the fingerprint of each answer


class Refused(Exception):
    def __init__(self, status: int, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.param = param

    def response(self) -> Response:
        kind = "NotFoundError" if self.status == 404 else "BadRequestError"
        error = {"message": str(self), "type": kind, "param": self.param, "code": self.status}
        return JSONResponse({"error": error}, self.status)


class ChatReply:
    """`chat.completion` and its chunks."""

    _object = "chat.completion"
    _id = "chatcmpl"

    def __init__(self, job: Job, *, streaming: bool, include_usage: bool) -> None:
        self.streaming = streaming
        self.media_type = "text/event-stream; charset=utf-8" if streaming else "application/json"
        self._job = job
        self._include_usage = include_usage
        self._frame = {
            "id": f"{self._id}-simulated-{job.number}",
            "object": f"{self._object}.chunk" if streaming and self._object == "chat.completion" else self._object,
            "created": int(time.time()),
            "model": job.model,
            "system_fingerprint": OWNER,
        }
        # The words need no escaping, so a chunk is three pieces put together instead of JSON written anew.
        mark = "\0"
        chunk = self._event(self._choice(mark, None))
        self._before, _, self._after = chunk.partition(json.dumps(mark)[1:-1].encode())

    def token(self, index: int) -> bytes:
        chunk = self._before + word(index).encode() + self._after
        return chunk if index else self._opening() + chunk

    def closing(self) -> bytes:
        if not self.streaming:
            whole = {**self._frame, "choices": [self._whole()], "usage": self._job.usage}
            return json.dumps(whole).encode()
        end = self._event(self._choice("", self._job.finish_reason))
        if self._include_usage:
            end += _sse({**self._frame, "choices": [], "usage": self._job.usage})
        return end + b"data: [DONE]\n\n"

    def _opening(self) -> bytes:
        return self._event({**self._choice("", None), "delta": {"role": "assistant", "content": ""}})

    def _choice(self, text: str, finish_reason: str | None) -> dict[str, Any]:
        delta = {} if finish_reason else {"content": text}
        return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}

    def _whole(self) -> dict[str, Any]:
        message = {"role": "assistant", "content": text_of(self._job.answer_tokens)}
        return {"index": 0, "message": message, "logprobs": None, "finish_reason": self._job.finish_reason}

    def _event(self, choice: dict[str, Any]) -> bytes:
        usage = {"usage": None} if self._include_usage else {}
        return _sse({**self._frame, "choices": [choice], **usage})


class CompletionReply(ChatReply):
    """`text_completion`, whose chunks have the same shape as its whole."""

    _object = "text_completion"
    _id = "cmpl"

    def _opening(self) -> bytes:
        return b""

    def _choice(self, text: str, finish_reason: str | None) -> dict[str, Any]:
        return {"index": 0, "text": text, "logprobs": None, "finish_reason": finish_reason}

    def _whole(self) -> dict[str, Any]:
        return self._choice(text_of(self._job.answer_tokens), self._job.finish_reason)


class OpenAIPaths:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def models(self, request: Request) -> Response:
        entries = [
            {"id": name, "object": "model", "created": 0, "owned_by": OWNER, "max_model_len": CONTEXT_TOKENS}
            for name in self._engine.models
        ]
        return JSONResponse({"object": "list", "data": entries})

    async def chat(self, request: Request) -> Any:
        return await self._generate(request, ChatReply, "messages")

    async def completions(self, request: Request) -> Any:
        return await self._generate(request, CompletionReply, "prompt")

    async def embeddings(self, request: Request) -> Response:
        try:
            body = self._checked(await request.body(), "input")
        except Refused as refused:
            return refused.response()
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

    async def _generate(self, request: Request, reply: type[ChatReply], prompt: str) -> Any:
        try:
            body = self._checked(await request.body(), prompt)
            max_tokens = _max_tokens(body)
        except Refused as refused:
            return refused.response()
        job = self._engine.job(
            body["model"], _text(body[prompt]), max_tokens, ignore_eos=body.get("ignore_eos") is True
        )
        options = body.get("stream_options")
        include_usage = isinstance(options, dict) and options.get("include_usage") is True
        return Answer(self._engine, job, reply(job, streaming=body.get("stream") is True, include_usage=include_usage))

    def _checked(self, raw: bytes, required: str) -> dict[str, Any]:
        try:
            body = msgspec.json.decode(raw)
        except msgspec.DecodeError as error:
            raise Refused(400, f"the body is not JSON: {error}") from None
        if not isinstance(body, dict) or not isinstance(body.get("model"), str):
            raise Refused(400, "model: must be a string", "model")
        if body["model"] not in self._engine.models:
            raise Refused(404, f"The model `{body['model']}` does not exist.", "model")
        if required not in body:
            raise Refused(400, f"{required}: is missing", required)
        if body.get("n", 1) != 1:
            raise Refused(400, "n: a simulated engine gives one answer", "n")
        return body


def _max_tokens(body: dict[str, Any]) -> int | None:
    for field in ("max_completion_tokens", "max_tokens"):
        value = body.get(field)
        if value is not None:
            if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= CONTEXT_TOKENS:
                raise Refused(400, f"{field}: must lie between 1 and {CONTEXT_TOKENS}", field)
            return value
    return None


def _text(prompt: Any) -> str:
    """The text in a prompt of whatever shape: string, list, message, content part."""
    if isinstance(prompt, str):
        return prompt
    if isinstance(prompt, list):
        return "\n".join(map(_text, prompt))
    if isinstance(prompt, dict):
        return _text(prompt.get("content", prompt.get("text")))
    return ""


def _encoded(vector: list[float], encoding: object) -> str | list[float]:
    """As `encoding_format` asks: the openai package asks for base64 of little-endian floats."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode() if encoding == "base64" else vector


def _sse(payload: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(payload, separators=(",", ":")).encode() + b"\n\n"
