"""Requests to OpenAI's API, as far as a FastChat worker can serve them.

A parameter that workers do not have is rejected if it would change the answer, and otherwise ignored.
Source: OpenAI API reference, "Create chat completion", "Create completion".
"""

from __future__ import annotations

import re
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from hierarchy.errors import BadRequest

T = TypeVar("T")
MAX_STOPS, MAX_STOP_CHARS = 64, 1000  # each stop string is searched for in each piece of the answer
MAX_NUMBER = 10**9  # for counts of tokens; no context is as long
TokenCount = Annotated[int, Meta(ge=1, le=MAX_NUMBER)]
_FIELD_OF_ERROR = re.compile(r" - at `\$\.?(.*)`$")  # the end of msgspec's messages


class StreamOptions(msgspec.Struct):
    """`stream_options`."""

    include_usage: bool | None = None


class GenerationRequest(msgspec.Struct):
    """The parameters that chats and completions share."""

    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=-1, le=MAX_NUMBER)] | None = None
    n: int | None = None
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: TokenCount | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    # not OpenAI's, but of engines that the client may have used before
    min_p: float | None = None
    min_tokens: int | None = None
    ignore_eos: bool | None = None
    guided_json: Any = None
    guided_regex: Any = None
    guided_choice: Any = None
    guided_grammar: Any = None
    structured_outputs: Any = None

    @property
    def stop_strings(self) -> list[str]:
        """`stop` as a list."""
        if self.stop is None:
            return []
        return [self.stop] if isinstance(self.stop, str) else self.stop

    def check(self) -> None:
        """Raises BadRequest if a worker cannot serve the request."""
        reject(self.n not in (None, 1), "n", "more than one choice")
        if len(self.stop_strings) > MAX_STOPS or any(len(stop) > MAX_STOP_CHARS for stop in self.stop_strings):
            raise BadRequest(
                f"'stop' must have at most {MAX_STOPS} texts of at most {MAX_STOP_CHARS} characters", param="stop"
            )
        reject(self.logit_bias, "logit_bias", "a bias for tokens")
        for name in ("min_p", "min_tokens", "ignore_eos"):
            reject(getattr(self, name), name, "this parameter")
        for name in ("guided_json", "guided_regex", "guided_choice", "guided_grammar", "structured_outputs"):
            reject(getattr(self, name), name, "structured output")


class Message(msgspec.Struct):
    """One message of a chat."""

    role: str
    content: str | list[dict[str, Any]] | None = None
    tool_calls: list[Any] | None = None
    function_call: dict[str, Any] | None = None
    audio: dict[str, Any] | None = None


class ChatRequest(GenerationRequest):
    """The body of `/v1/chat/completions`."""

    messages: list[Message] = []
    max_completion_tokens: TokenCount | None = None
    tools: list[Any] | None = None
    functions: list[Any] | None = None
    response_format: dict[str, Any] | None = None
    logprobs: bool | None = None
    audio: dict[str, Any] | None = None
    modalities: list[Any] | None = None
    web_search_options: dict[str, Any] | None = None
    continue_final_message: bool | None = None

    def check(self) -> None:
        """Raises BadRequest if a worker cannot serve the chat."""
        super().check()
        if not self.messages:
            raise BadRequest("'messages' must be a list of at least one message", param="messages")
        reject(self.tools, "tools", "tools")
        reject(self.functions, "functions", "functions")
        reject(self.logprobs, "logprobs", "log probabilities in a chat")
        reject(self.audio, "audio", "audio")
        reject(self.modalities not in (None, [], ["text"]), "modalities", "output other than text")
        reject(self.web_search_options is not None, "web_search_options", "web search")
        reject(self.continue_final_message, "continue_final_message", "continuing the last message")
        for index, message in enumerate(self.messages):
            for name in ("tool_calls", "function_call", "audio"):
                reject(getattr(message, name), f"messages.{index}.{name}", "tools or audio")
        form = (self.response_format or {}).get("type", "text")
        reject(form != "text", "response_format", f"the format {form!r:.40}")


class CompletionRequest(GenerationRequest):
    """The body of `/v1/completions`."""

    prompt: str | list[Any] | None = None
    echo: bool | None = None
    logprobs: Annotated[int, Meta(ge=0, le=MAX_NUMBER)] | None = None
    best_of: Annotated[int, Meta(ge=1, le=MAX_NUMBER)] | None = None
    suffix: str | None = None
    use_beam_search: bool | None = None

    def check(self) -> None:
        """Raises BadRequest if a worker cannot serve the completion."""
        super().check()
        reject(self.suffix, "suffix", "text after the answer")

    @property
    def text(self) -> str:
        """The prompt.

        Raises:
            BadRequest: there is none or more than one, or it has token numbers.
        """
        prompt = self.prompt[0] if isinstance(self.prompt, list) and len(self.prompt) == 1 else self.prompt
        if isinstance(prompt, str):
            return prompt
        reject(isinstance(prompt, list) and all(isinstance(one, str) for one in prompt), "prompt", "several prompts")
        reject(isinstance(prompt, list | int), "prompt", "token numbers as a prompt")
        raise BadRequest("'prompt' must be a text", param="prompt")


def decode_request(body: bytes, kind: type[T]) -> T:
    """Decode a request from JSON.

    Raises:
        BadRequest: it is malformed; `param` names the field.
    """
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        field = _FIELD_OF_ERROR.search(str(error))
        param = re.sub(r"\[(\.\.\.|\d+)\]", "", field[1]) if field else ""
        reason = _FIELD_OF_ERROR.sub("", str(error))
        raise BadRequest(f"'{param}': {reason}" if param else reason, param=param or None) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"the body is not JSON: {error}") from None


def reject(value: object, param: str, feature: str) -> None:
    """Raise BadRequest if `value` is truthy: the client requested a feature that workers do not have."""
    if value:
        raise BadRequest(
            f"'{param}': the engine of this model, a FastChat worker, does not support {feature}", param=param
        )
