"""An OpenAI request as one for a FastChat worker: its parameters, and who puts the answer back.

Source: FastChat, fastchat/serve/inference.py and vllm_worker.py (what workers read, and what they take for granted),
openai_api_server.py (what their clients send).
"""

from __future__ import annotations

from typing import Any

import msgspec

from hierarchy.errors import BadRequest
from hierarchy.translation import chat
from hierarchy.translation.openai_request import ChatRequest, CompletionRequest, Sampling
from hierarchy.translation.openai_response import ChatForm, CompletionReply, TextForm
from hierarchy.translation.response import Reply
from hierarchy.translation.worker_profile import Profile

#: where nothing is known of the context: the workers' own default. A completion's default is OpenAI's.
UNKNOWN_TOKENS, COMPLETION_TOKENS = 256, 16


class Generation:
    """A chat or a completion for a FastChat worker.

    Its answer is always asked for as a stream: TinyChat's workers give no other, and whoever leaves ends it.
    """

    path = "/worker_generate_stream"
    needs_profile = True

    def __init__(self, asked: ChatRequest | CompletionRequest) -> None:
        asked.check()
        self._asked: Sampling = asked
        self._chat = asked if isinstance(asked, ChatRequest) else None
        self._plain = asked if isinstance(asked, CompletionRequest) else None
        if self._plain is not None:
            self._text = self._plain.text
        self._said: chat.Said | None = None

    def prompt(self, profile: Profile) -> str:
        """The text that the worker continues.

        Raises:
            BadRequest: a message that the worker's template has no place for, or a worker without a template.
        """
        if self._chat is None:
            return self._text
        if profile.conversation is None:
            raise BadRequest(
                "the engine of this model, a TinyChat worker, has no conversation template: "
                "send the whole prompt to /v1/completions"
            )
        if self._said is None:
            self._said = chat.render(self._chat.messages, profile.conversation)
        return self._said.prompt

    def needs_count(self, profile: Profile) -> bool:
        """Whether the prompt's tokens have to be counted, so that the answer fits behind them."""
        return profile.context_length is not None

    def body(self, profile: Profile, model: str, prompt_tokens: int | None) -> bytes:
        """The JSON for the worker.

        Raises:
            BadRequest: as `prompt`; or the prompt leaves no room for an answer.
        """
        asked, template = self._asked, profile.conversation
        params: dict[str, Any] = {
            "model": model,
            "prompt": self.prompt(profile),
            "temperature": 1.0 if asked.temperature is None else asked.temperature,
            "top_p": 1.0 if asked.top_p is None else asked.top_p,
            "top_k": asked.top_k or -1,  # some engines take 0 for no limit, as workers take -1
            "presence_penalty": asked.presence_penalty or 0.0,
            "frequency_penalty": asked.frequency_penalty or 0.0,
            "repetition_penalty": 1.0 if asked.repetition_penalty is None else asked.repetition_penalty,
            "max_new_tokens": self._room(profile, prompt_tokens),
            "echo": False,  # workers of some kinds take it for granted
            "stop": self._stops(profile),
            "stop_token_ids": (template.stop_token_ids if template is not None and self._chat else None) or [],
        }
        if self._said is not None and self._said.images:
            params["images"] = self._said.images
        if self._plain is not None:
            params["echo"] = bool(self._plain.echo)
            params["logprobs"] = self._plain.logprobs
            if self._plain.best_of is not None:
                params["best_of"] = self._plain.best_of
            if self._plain.use_beam_search:
                params["use_beam_search"] = True
        return msgspec.json.encode(params)

    def reply(self, profile: Profile, model: str) -> Reply:
        """Who puts the worker's answer into OpenAI's words. model: as the client named it."""
        asked = self._asked
        wanted = self._plain is not None and bool(self._plain.echo)
        prompt = self.prompt(profile) if wanted or profile.is_tinychat else ""
        return CompletionReply(
            TextForm(model) if self._chat is None else ChatForm(model),
            stops=self._stops(profile),
            echoed="" if wanted else prompt,
            kept=prompt if wanted else "",
            streams=bool(asked.stream),
            usage=bool(asked.stream_options and asked.stream_options.include_usage),
        )

    def _stops(self, profile: Profile) -> list[str]:
        own = profile.conversation.stops if self._chat is not None and profile.conversation is not None else []
        return list(dict.fromkeys([*self._asked.stops, *own]))

    def _room(self, profile: Profile, prompt_tokens: int | None) -> int:
        """How many tokens the answer may have. Asked for more than fit, workers cut the prompt's beginning off.

        They keep one token free (`context_len - max_new_tokens - 1`), and would take that of the prompt too.
        """
        asked = self._asked.max_tokens
        if self._chat is not None and self._chat.max_completion_tokens is not None:
            asked = self._chat.max_completion_tokens
        if asked is None and self._plain is not None:
            asked = COMPLETION_TOKENS
        if profile.context_length is None or prompt_tokens is None:
            return UNKNOWN_TOKENS if asked is None else asked
        room = profile.context_length - prompt_tokens - 1
        if room < 1:
            raise BadRequest(
                f"the model's context has {profile.context_length} tokens, and the prompt alone has {prompt_tokens}; "
                "make it shorter",
                param="messages" if self._chat is not None else "prompt",
            )
        return room if asked is None else min(asked, room)
