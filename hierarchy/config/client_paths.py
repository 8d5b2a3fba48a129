"""Which methods and paths clients may call: lists in the configuration and in files of keys.

An engine serves more than inference on the same port, and a node sends it the engine's own key with each request. So a
key is for inference only, unless it says otherwise. A node without keys relays every path under `/v1/`, but for those
that change what an engine serves, or name a model in the path, where this node does not look.

Source: OpenAI API reference; Anthropic API reference; vLLM, vllm/entrypoints (`load_lora_adapter`); SGLang,
sglang/srt/entrypoints/http_server.py; llama.cpp, tools/server; Mistral API reference (`fim`); TabbyAPI, endpoints/core
(`model/load`, `lora/load`); text-generation-webui, extensions/openai (`internal/*`); Xinference, api/restful_api.py
(`POST /v1/models` starts one).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

INFERENCE: Final = "inference"  # stands for `INFERENCE_PATHS` in a list
_ENTRY: Final = re.compile(r"(\*|[A-Z]+) (/[\x21-\x29\x2b-\x7e]*\*?)").fullmatch

#: what clients need to use models, and no more
INFERENCE_PATHS: Final = (
    "POST /v1/audio/speech",
    "POST /v1/audio/transcriptions",
    "POST /v1/audio/translations",
    "POST /v1/chat/completions",
    "POST /v1/classify",
    "POST /v1/completions",
    "POST /v1/detokenize",
    "POST /v1/embeddings",
    "POST /v1/fim/completions",
    "POST /v1/images/edits",
    "POST /v1/images/generations",
    "POST /v1/images/variations",
    "POST /v1/infill",
    "POST /v1/messages",
    "POST /v1/messages/count_tokens",
    "POST /v1/moderations",
    "POST /v1/pooling",
    "POST /v1/rerank",
    "POST /v1/reranking",
    "POST /v1/responses",
    "POST /v1/responses/input_tokens",
    "POST /v1/score",
    "POST /v1/tokenize",
    "POST /v1/videos",
    "POST /tokenize",
    "POST /detokenize",
    "POST /worker_generate_stream",
    "POST /worker_generate",
    "POST /worker_get_embeddings",
    "POST /worker_get_conv_template",
    "POST /model_details",
    "POST /count_token",
    "GET /v1/models",
    "GET /v1/models/*",
    "POST /list_models",
    "POST /list_language_models",
    "POST /list_multimodal_models",
    "POST /get_worker_address",
    "POST /refresh_all_workers",
    "POST /worker_get_status",
    "GET /test_connection",
)
#: what changes an engine, or names a model in the path; relayed only if a list has it
CONTROL_PATHS: Final = (
    "POST /v1/adapters*",
    "POST /v1/deployments/*",
    "POST /v1/download*",
    "POST /v1/engines/*",
    "POST /v1/internal/*",
    "POST /v1/load_lora_adapter*",
    "POST /v1/lora/*",
    "POST /v1/loras*",
    "POST /v1/model/*",
    "POST /v1/models*",
    "POST /v1/sampling/*",
    "POST /v1/template/*",
    "POST /v1/unload_lora_adapter*",
)


class ClientPaths:
    """A list of methods and paths: `POST /v1/completions`, `* /v1/*`, or `inference`."""

    def __init__(self, entries: Iterable[str]) -> None:
        """
        Raises:
            ValueError: with two arguments, what is wrong and a hint.
        """
        self._exact: set[tuple[str, str]] = set()
        self._prefixes: set[tuple[str, str]] = set()
        for entry in entries:
            for one in INFERENCE_PATHS if entry == INFERENCE else (entry,):
                self._add(one)

    def _add(self, entry: str) -> None:
        found = _ENTRY(entry)
        if found is None:
            raise ValueError(
                f"{entry!r:.80} is not a method and a path",
                'write "POST /v1/batches", "POST /v1/files*", "* /v1/*", or "inference"',
            )
        method, path = found.groups()
        if path.endswith("*"):
            self._prefixes.add((method, path[:-1]))
        else:
            self._exact.add((method, path))

    def __contains__(self, call: tuple[str, str]) -> bool:
        """Whether a method and a path are in the list."""
        method, path = call
        if call in self._exact or ("*", path) in self._exact:
            return True
        return any(own in ("*", method) and path.startswith(prefix) for own, prefix in self._prefixes)


#: for keys without a list of their own
FOR_INFERENCE: Final = ClientPaths((INFERENCE,))
_CONTROL: Final = ClientPaths(CONTROL_PATHS)


def is_control(method: str, path: str) -> bool:
    """Whether a path changes an engine, or names a model."""
    return (method, path.rstrip("/")) in _CONTROL or (method, path) in _CONTROL


def check_entries(entries: list[str]) -> list[str]:
    """The entries of a list as they are. Raises `ValueError` as `ClientPaths`."""
    ClientPaths(entries)
    return entries
