"""Embeddings: OpenAI's `/v1/embeddings` and FastChat's `/worker_get_embeddings` in each other's words.

Source: OpenAI API reference, "Create embeddings"; FastChat, fastchat/serve/openai_api_server.py `create_embeddings`,
model_worker.py `get_embeddings` (`{embedding: [...], token_num}`; its base64 is of numbers as its model has them, which
are often of 16 bits, where OpenAI's are of 32: a worker is always asked for plain numbers).
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from hierarchy.errors import BadRequest
from hierarchy.translation.error_codes import fastchat_error, message_of, openai_error, status_of
from hierarchy.translation.openai_request import read, refuse
from hierarchy.translation.response import BadReply, Collected, Reply
from hierarchy.translation.worker_profile import Profile


class _Asked(msgspec.Struct):
    input: str | list[Any]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = None

    @property
    def texts(self) -> list[str]:
        """Raises BadRequest."""
        texts = [self.input] if isinstance(self.input, str) else self.input
        if not texts or not all(isinstance(text, str) for text in texts):
            raise BadRequest("'input' must be a text or a list of texts: numbers of tokens cannot be sent on", "input")
        return texts


class EmbeddingsForWorker:
    """OpenAI's request for a FastChat worker."""

    path = "/worker_get_embeddings"
    needs_profile = False

    def __init__(self, body: bytes) -> None:
        self._asked = read(body, _Asked)
        refuse(self._asked.dimensions, "dimensions", "embeddings of other sizes")
        self._texts = self._asked.texts

    def prompt(self, profile: Profile) -> str:
        return ""

    def needs_count(self, profile: Profile) -> bool:
        return False

    def body(self, profile: Profile, model: str, prompt_tokens: int | None) -> bytes:
        return msgspec.json.encode({"model": model, "input": self._texts, "encoding_format": None})

    def reply(self, profile: Profile, model: str) -> Reply:
        return _ForClient(model, len(self._texts), packed=self._asked.encoding_format == "base64")


class _FromWorker(msgspec.Struct):
    embedding: list[list[float]] = []
    token_num: int = 0
    text: str = ""
    error_code: int = 0


class _ForClient(Collected):
    """packed: in base64."""

    def __init__(self, model: str, count: int, *, packed: bool) -> None:
        super().__init__()
        self._form = _packed if packed else list
        self._model = model
        self._count = count

    def end(self) -> bytes:
        body = self._collected()
        if self.status_in != 200:
            self._refuse_broken(body)
            self.status = self.status_in
            return msgspec.json.encode(openai_error(message_of(body), self.status))
        try:
            said = msgspec.json.decode(body, type=_FromWorker)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise BadReply(f"sent no embeddings: {error}") from None
        if said.error_code:
            self.status = status_of(said.error_code)
            return msgspec.json.encode(openai_error(said.text, self.status))
        if len(said.embedding) != self._count:
            raise BadReply(f"sent {len(said.embedding)} embeddings for {self._count} texts")
        data = [
            {"object": "embedding", "index": at, "embedding": self._form(one)} for at, one in enumerate(said.embedding)
        ]
        usage = {"prompt_tokens": said.token_num, "total_tokens": said.token_num}
        return msgspec.json.encode({"object": "list", "data": data, "model": self._model, "usage": usage})


def _packed(numbers: Sequence[float]) -> str:
    """As OpenAI packs them: 32 bits each, little end first, in base64. Raises BadReply."""
    try:
        return base64.b64encode(struct.pack(f"<{len(numbers)}f", *numbers)).decode()
    except (OverflowError, struct.error) as error:
        raise BadReply(f"sent embeddings with odd numbers: {error}") from None


class EmbeddingsForEngine:
    """FastChat's request for an engine of OpenAI's family."""

    path = "/v1/embeddings"

    def __init__(self, body: bytes) -> None:
        self._asked = read(body, _Asked)
        self._texts = self._asked.texts

    def body(self, model: str) -> bytes:
        asked: dict[str, Any] = {"model": model, "input": self._texts}
        if self._asked.encoding_format is not None:
            asked["encoding_format"] = self._asked.encoding_format
        return msgspec.json.encode(asked)

    def reply(self, model: str) -> Reply:
        return _ForFastChat(len(self._texts))


class _Embedding(msgspec.Struct):
    embedding: list[float] | str
    index: int = 0


class _Tokens(msgspec.Struct):
    prompt_tokens: int = 0
    total_tokens: int = 0


class _FromEngine(msgspec.Struct):
    data: list[_Embedding]
    usage: _Tokens | None = None


class _ForFastChat(Collected):
    def __init__(self, count: int) -> None:
        super().__init__()
        self._count = count

    def end(self) -> bytes:
        body = self._collected()
        if self.status_in != 200:
            self._refuse_broken(body)
            return msgspec.json.encode(fastchat_error(message_of(body), self.status_in))
        try:
            said = msgspec.json.decode(body, type=_FromEngine)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise BadReply(f"sent no embeddings: {error}") from None
        if len(said.data) != self._count:
            raise BadReply(f"sent {len(said.data)} embeddings for {self._count} texts")
        usage = said.usage or _Tokens()
        found = [one.embedding for one in sorted(said.data, key=lambda one: one.index)]
        return msgspec.json.encode({"embedding": found, "token_num": usage.prompt_tokens or usage.total_tokens})
