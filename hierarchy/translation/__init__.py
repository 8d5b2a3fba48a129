"""Requests and answers of one API family in the words of the other: OpenAI's and FastChat's. Pure.

The last node before an engine translates, and nobody else: everything above relays bytes.
"""

from __future__ import annotations

from hierarchy.translation.embeddings import EmbeddingsForEngine, EmbeddingsForWorker
from hierarchy.translation.fastchat_request import Wanted
from hierarchy.translation.fastchat_request import read as read_generate
from hierarchy.translation.openai_request import ChatRequest, CompletionRequest, read
from hierarchy.translation.passed import Passed
from hierarchy.translation.response import BadReply, Reply
from hierarchy.translation.to_fastchat import Generation
from hierarchy.translation.worker_profile import NO_PROFILE, Profile

#: the paths of each family that the other one has words for
OF_OPENAI = frozenset({"/v1/chat/completions", "/v1/completions", "/v1/embeddings"})
OF_FASTCHAT = frozenset({"/worker_generate_stream", "/worker_generate", "/worker_get_embeddings"})


def to_fastchat(path: str, body: bytes) -> Generation | EmbeddingsForWorker:
    """An OpenAI request for a FastChat worker. path: one of `OF_OPENAI`.

    Raises:
        BadRequest: it wants what no worker can do.
    """
    match path:
        case "/v1/chat/completions":
            return Generation(read(body, ChatRequest))
        case "/v1/completions":
            return Generation(read(body, CompletionRequest))
        case "/v1/embeddings":
            return EmbeddingsForWorker(body)
    raise KeyError(path)


def to_openai(path: str, body: bytes) -> Wanted | EmbeddingsForEngine:
    """A FastChat request for an engine of OpenAI's family. path: one of `OF_FASTCHAT`.

    Raises:
        BadRequest: it wants what the engine cannot do.
    """
    match path:
        case "/worker_generate_stream" | "/worker_generate":
            return read_generate(body, streams=path.endswith("stream"))
        case "/worker_get_embeddings":
            return EmbeddingsForEngine(body)
    raise KeyError(path)


__all__ = [
    "NO_PROFILE",
    "OF_FASTCHAT",
    "OF_OPENAI",
    "BadReply",
    "Passed",
    "Profile",
    "Reply",
    "to_fastchat",
    "to_openai",
]
