"""Translation of requests and responses between two API families: OpenAI's and FastChat's. Without I/O.

Only the last node before an engine translates. All nodes above relay bytes.
"""

from __future__ import annotations

from hierarchy.translation.embeddings import EmbeddingsForEngine, EmbeddingsForWorker
from hierarchy.translation.fastchat_request import GenerationForEngine, decode_generate
from hierarchy.translation.openai_request import ChatRequest, CompletionRequest, decode_request
from hierarchy.translation.response import BadEngineResponse, PassThrough, ResponseTranslator
from hierarchy.translation.to_fastchat import GenerationForWorker
from hierarchy.translation.worker_profile import NO_PROFILE, WorkerProfile

#: the paths of each family that can be translated to the other one
OPENAI_PATHS = frozenset({"/v1/chat/completions", "/v1/completions", "/v1/embeddings"})
FASTCHAT_PATHS = frozenset({"/worker_generate_stream", "/worker_generate", "/worker_get_embeddings"})


def to_fastchat(path: str, body: bytes) -> GenerationForWorker | EmbeddingsForWorker:
    """Translate an OpenAI request for a FastChat worker. path: one of `OPENAI_PATHS`.

    Raises:
        BadRequest: it is malformed, or has a parameter that no worker supports.
    """
    match path:
        case "/v1/chat/completions":
            return GenerationForWorker(decode_request(body, ChatRequest))
        case "/v1/completions":
            return GenerationForWorker(decode_request(body, CompletionRequest))
        case "/v1/embeddings":
            return EmbeddingsForWorker(body)
    raise KeyError(path)


def to_openai(path: str, body: bytes) -> GenerationForEngine | EmbeddingsForEngine:
    """Translate a FastChat request for an engine of OpenAI's family. path: one of `FASTCHAT_PATHS`.

    Raises:
        BadRequest: it is malformed, or has a parameter that such engines do not support.
    """
    match path:
        case "/worker_generate_stream" | "/worker_generate":
            return GenerationForEngine(decode_generate(body), streams=path.endswith("stream"))
        case "/worker_get_embeddings":
            return EmbeddingsForEngine(body)
    raise KeyError(path)


__all__ = [
    "FASTCHAT_PATHS",
    "NO_PROFILE",
    "OPENAI_PATHS",
    "BadEngineResponse",
    "PassThrough",
    "ResponseTranslator",
    "WorkerProfile",
    "to_fastchat",
    "to_openai",
]
