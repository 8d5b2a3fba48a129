"""Translates embeddings between OpenAI's `/v1/embeddings` and FastChat's `/worker_get_embeddings`.

Source: OpenAI API reference, "Create embeddings"; FastChat, fastchat/serve/openai_api_server.py `create_embeddings`,
model_worker.py `get_embeddings` (`{embedding: [...], token_num}`).

A FastChat worker encodes the numbers of its model in base64, often of 16 bits; OpenAI's have 32. So a worker is always
asked for plain numbers, and they are encoded here.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Sequence
from typing import Any, Literal, TypeVar

import msgspec

from hierarchy.errors import BadRequest
from hierarchy.translation.error_codes import fastchat_error, http_status, openai_error
from hierarchy.translation.error_text import error_text
from hierarchy.translation.openai_request import decode_request, reject
from hierarchy.translation.response import BadEngineResponse, BufferedTranslator, ResponseTranslator
from hierarchy.translation.worker_profile import WorkerProfile

T = TypeVar("T")


class _EmbeddingsRequest(msgspec.Struct):
    """The same fields in both APIs."""

    input: str | list[Any]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = None

    @property
    def texts(self) -> list[str]:
        """`input` as a list.

        Raises:
            BadRequest: it has token numbers, or is empty.
        """
        texts = [self.input] if isinstance(self.input, str) else self.input
        if not texts or not all(isinstance(text, str) for text in texts):
            raise BadRequest("'input' must be a text or a list of texts: token numbers cannot be translated", "input")
        return texts


class EmbeddingsForWorker:
    """OpenAI's request, for a FastChat worker. Has the methods of `GenerationForWorker`."""

    path = "/worker_get_embeddings"
    needs_profile = False

    def __init__(self, body: bytes) -> None:
        self._request = decode_request(body, _EmbeddingsRequest)
        reject(self._request.dimensions, "dimensions", "embeddings of other sizes")
        self._texts = self._request.texts

    def prompt(self, profile: WorkerProfile) -> str:
        """Not needed: nothing is counted or echoed."""
        return ""

    def needs_token_count(self, profile: WorkerProfile) -> bool:
        """No."""
        return False

    def body(self, profile: WorkerProfile, model: str, prompt_tokens: int | None) -> bytes:
        """The JSON for the worker. model: the worker's name for it."""
        return msgspec.json.encode({"model": model, "input": self._texts, "encoding_format": None})

    def translator(self, profile: WorkerProfile, model: str) -> ResponseTranslator:
        """Translates the worker's response. model: the client's name for it."""
        return _ToOpenAI(model, len(self._texts), base64_encoded=self._request.encoding_format == "base64")


class _WorkerEmbeddings(msgspec.Struct):
    embedding: list[list[float]] = []
    token_num: int = 0
    text: str = ""
    error_code: int = 0


class _ToOpenAI(BufferedTranslator):
    """A worker's embeddings for OpenAI's client. count: the number of texts in the request."""

    def __init__(self, model: str, count: int, *, base64_encoded: bool) -> None:
        super().__init__()
        self._encode = _encode_base64 if base64_encoded else list
        self._model = model
        self._count = count

    def end(self) -> bytes:
        if self.engine_status != 200:
            self.status = self.engine_status
            return msgspec.json.encode(openai_error(error_text(self._client_error_body()), self.status))
        response = _decode(self._body(), _WorkerEmbeddings)
        if response.error_code:
            self.status = http_status(response.error_code)
            return msgspec.json.encode(openai_error(response.text, self.status))
        _check_count(response.embedding, self._count)
        data = [
            {"object": "embedding", "index": index, "embedding": self._encode(vector)}
            for index, vector in enumerate(response.embedding)
        ]
        usage = {"prompt_tokens": response.token_num, "total_tokens": response.token_num}
        return msgspec.json.encode({"object": "list", "data": data, "model": self._model, "usage": usage})


def _encode_base64(vector: Sequence[float]) -> str:
    """As OpenAI encodes it: 32-bit floats, little-endian, in base64. Raises BadEngineResponse."""
    try:
        return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
    except (OverflowError, struct.error) as error:
        raise BadEngineResponse(f"sent embeddings that are not 32-bit floats: {error}") from None


class EmbeddingsForEngine:
    """FastChat's request, for an engine of OpenAI's family. Has the methods of `GenerationForEngine`."""

    path = "/v1/embeddings"

    def __init__(self, body: bytes) -> None:
        self._request = decode_request(body, _EmbeddingsRequest)
        self._texts = self._request.texts

    def body(self, model: str) -> bytes:
        """The JSON for the engine. model: the engine's name for it."""
        request: dict[str, Any] = {"model": model, "input": self._texts}
        if self._request.encoding_format is not None:
            request["encoding_format"] = self._request.encoding_format
        return msgspec.json.encode(request)

    def translator(self, model: str) -> ResponseTranslator:
        """Translates the engine's response."""
        return _ToFastChat(len(self._texts))


class _Embedding(msgspec.Struct):
    embedding: list[float] | str
    index: int = 0


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    total_tokens: int = 0


class _EngineEmbeddings(msgspec.Struct):
    data: list[_Embedding]
    usage: _Usage | None = None


class _ToFastChat(BufferedTranslator):
    """An engine's embeddings for FastChat's client. count: the number of texts in the request."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self._count = count

    def end(self) -> bytes:
        if self.engine_status != 200:
            return msgspec.json.encode(fastchat_error(error_text(self._client_error_body()), self.engine_status))
        response = _decode(self._body(), _EngineEmbeddings)
        _check_count(response.data, self._count)
        usage = response.usage or _Usage()
        vectors = [one.embedding for one in sorted(response.data, key=lambda one: one.index)]
        return msgspec.json.encode({"embedding": vectors, "token_num": usage.prompt_tokens or usage.total_tokens})


def _decode(body: bytes, kind: type[T]) -> T:
    """Raises BadEngineResponse."""
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadEngineResponse(f"sent no embeddings: {error}") from None


def _check_count(vectors: Sequence[object], texts: int) -> None:
    """Raises BadEngineResponse unless there is one embedding for each text."""
    if len(vectors) != texts:
        raise BadEngineResponse(f"sent {len(vectors)} embeddings for {texts} texts")
