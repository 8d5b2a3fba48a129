"""Translates a chat or a completion of OpenAI's API to a generate request for a FastChat worker.

Source: FastChat, fastchat/serve/inference.py and vllm_worker.py (the fields, and which of them are required),
openai_api_server.py (the fields that workers usually get).
"""

from __future__ import annotations

from typing import Any

import msgspec

from hierarchy.errors import BadRequest
from hierarchy.translation.chat_template import RenderedChat, render_chat
from hierarchy.translation.openai_request import ChatRequest, CompletionRequest, GenerationRequest
from hierarchy.translation.openai_response import ChatObjects, CompletionObjects, GenerationTranslator
from hierarchy.translation.response import ResponseTranslator
from hierarchy.translation.worker_profile import WorkerProfile

UNKNOWN_CONTEXT_TOKENS = 256  # length of an answer if the context length is not known: the workers' own default
COMPLETION_TOKENS = 16  # OpenAI's default for a completion


class GenerationForWorker:
    """A chat or a completion, for a FastChat worker.

    The worker's response is always a stream: TinyChat's workers have no other, and only a stream ends when the client
    disconnects.

    Raises:
        BadRequest: it has a parameter that no worker supports.
    """

    path = "/worker_generate_stream"
    needs_profile = True

    def __init__(self, request: ChatRequest | CompletionRequest) -> None:
        request.check()
        self._request: GenerationRequest = request
        self._chat = request if isinstance(request, ChatRequest) else None
        self._completion = request if isinstance(request, CompletionRequest) else None
        if self._completion is not None:
            self._completion_prompt = self._completion.text
        self._rendered: RenderedChat | None = None  # of a chat, once its template is known

    def prompt(self, profile: WorkerProfile) -> str:
        """The text that the worker continues.

        Raises:
            BadRequest: the worker's template has no place for a message, or the worker has no template.
        """
        if self._chat is None:
            return self._completion_prompt
        if profile.conversation is None:
            raise BadRequest(
                "the engine of this model, a TinyChat worker, has no conversation template: "
                "send the whole prompt to /v1/completions"
            )
        if self._rendered is None:
            self._rendered = render_chat(self._chat.messages, profile.conversation)
        return self._rendered.prompt

    def needs_token_count(self, profile: WorkerProfile) -> bool:
        """Whether `body` needs the number of the prompt's tokens, to limit the answer to the rest of the context."""
        return profile.context_length is not None

    def body(self, profile: WorkerProfile, model: str, prompt_tokens: int | None) -> bytes:
        """The JSON for the worker. model: the worker's name for it. prompt_tokens: None if not known.

        Raises:
            BadRequest: as `prompt`; or the prompt leaves no room for an answer.
        """
        request, template = self._request, profile.conversation
        body: dict[str, Any] = {
            "model": model,
            "prompt": self.prompt(profile),
            "temperature": 1.0 if request.temperature is None else request.temperature,
            "top_p": 1.0 if request.top_p is None else request.top_p,
            "top_k": request.top_k or -1,  # 0 is "no limit" for some engines; workers have -1 for it
            "presence_penalty": request.presence_penalty or 0.0,
            "frequency_penalty": request.frequency_penalty or 0.0,
            "repetition_penalty": 1.0 if request.repetition_penalty is None else request.repetition_penalty,
            "max_new_tokens": self._max_new_tokens(profile, prompt_tokens),
            "echo": False,  # required by some kinds of workers
            "stop": self._stop_strings(profile),
            "stop_token_ids": (template.stop_token_ids if template is not None and self._chat else None) or [],
        }
        if self._rendered is not None and self._rendered.images:
            body["images"] = self._rendered.images
        if self._completion is not None:
            body["echo"] = bool(self._completion.echo)
            body["logprobs"] = self._completion.logprobs
            if self._completion.best_of is not None:
                body["best_of"] = self._completion.best_of
            if self._completion.use_beam_search:
                body["use_beam_search"] = True
        return msgspec.json.encode(body)

    def translator(self, profile: WorkerProfile, model: str) -> ResponseTranslator:
        """Translates the worker's response. model: the client's name for it."""
        request = self._request
        echo_requested = self._completion is not None and bool(self._completion.echo)
        echo = self.prompt(profile) if echo_requested or profile.is_tinychat else ""
        return GenerationTranslator(
            CompletionObjects(model) if self._chat is None else ChatObjects(model),
            stop_strings=self._stop_strings(profile),
            unrequested_echo="" if echo_requested else echo,
            requested_echo=echo if echo_requested else "",
            streams=bool(request.stream),
            include_usage=bool(request.stream_options and request.stream_options.include_usage),
        )

    def _stop_strings(self, profile: WorkerProfile) -> list[str]:
        """The client's and, for a chat, the template's."""
        template = profile.conversation if self._chat is not None else None
        return list(dict.fromkeys([*self._request.stop_strings, *(template.stop_strings if template else [])]))

    def _max_new_tokens(self, profile: WorkerProfile, prompt_tokens: int | None) -> int:
        """The limit of the answer. If it exceeded the context, workers would cut off the beginning of the prompt.

        They keep one token free (`context_len - max_new_tokens - 1`), and would cut the prompt for that one as well.
        """
        limit = self._request.max_tokens
        if self._chat is not None and self._chat.max_completion_tokens is not None:
            limit = self._chat.max_completion_tokens
        if limit is None and self._completion is not None:
            limit = COMPLETION_TOKENS
        if profile.context_length is None or prompt_tokens is None:
            return UNKNOWN_CONTEXT_TOKENS if limit is None else limit
        room = profile.context_length - prompt_tokens - 1
        if room < 1:
            raise BadRequest(
                f"the context of the model has {profile.context_length} tokens, and the prompt alone has "
                f"{prompt_tokens}; shorten it",
                param="messages" if self._chat is not None else "prompt",
            )
        return room if limit is None else min(limit, room)
