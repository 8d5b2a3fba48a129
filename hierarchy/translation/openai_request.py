"""Requests to OpenAI's API, as far as a FastChat worker can serve them.

What a worker has no word for is refused where it would change the answer, and ignored where it would not. Source:
OpenAI API reference, "Create chat completion", "Create completion".
"""

from __future__ import annotations

import re
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from hierarchy.errors import BadRequest

R = TypeVar("R")
MOST_STOPS, LONGEST_STOP = 64, 1000  # each is looked for in each piece of an answer
MOST = 10**9  # that a number can be; no context is as long
Tokens = Annotated[int, Meta(ge=1, le=MOST)]
_WHERE = re.compile(r" - at `\$\.?(.*)`$")


class StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class Sampling(msgspec.Struct):
    """What chat and plain completions have in common."""

    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=-1, le=MOST)] | None = None
    n: int | None = None
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Tokens | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    # of engines that their clients may have had before
    min_p: float | None = None
    min_tokens: int | None = None
    ignore_eos: bool | None = None
    guided_json: Any = None
    guided_regex: Any = None
    guided_choice: Any = None
    guided_grammar: Any = None
    structured_outputs: Any = None

    @property
    def stops(self) -> list[str]:
        """The client's stop strings."""
        if self.stop is None:
            return []
        return [self.stop] if isinstance(self.stop, str) else self.stop

    def check(self) -> None:
        """Raises BadRequest for what a worker cannot do."""
        refuse(self.n not in (None, 1), "n", "more than one answer to a request")
        if len(self.stops) > MOST_STOPS or any(len(stop) > LONGEST_STOP for stop in self.stops):
            raise BadRequest(f"'stop' takes {MOST_STOPS} texts of {LONGEST_STOP} characters at most", param="stop")
        refuse(self.logit_bias, "logit_bias", "a bias of single tokens")
        for name in ("min_p", "min_tokens", "ignore_eos"):
            refuse(getattr(self, name), name, "such a parameter")
        for name in ("guided_json", "guided_regex", "guided_choice", "guided_grammar", "structured_outputs"):
            refuse(getattr(self, name), name, "answers of a given form")


class Message(msgspec.Struct):
    role: str
    content: str | list[dict[str, Any]] | None = None
    tool_calls: list[Any] | None = None
    function_call: dict[str, Any] | None = None
    audio: dict[str, Any] | None = None


class ChatRequest(Sampling):
    messages: list[Message] = []
    max_completion_tokens: Tokens | None = None
    tools: list[Any] | None = None
    functions: list[Any] | None = None
    response_format: dict[str, Any] | None = None
    logprobs: bool | None = None
    audio: dict[str, Any] | None = None
    modalities: list[Any] | None = None
    web_search_options: dict[str, Any] | None = None
    continue_final_message: bool | None = None

    def check(self) -> None:
        super().check()
        if not self.messages:
            raise BadRequest("'messages' must be a list of at least one message", param="messages")
        refuse(self.tools, "tools", "tools")
        refuse(self.functions, "functions", "functions")
        refuse(self.logprobs, "logprobs", "log probabilities of a chat")
        refuse(self.audio, "audio", "audio")
        refuse(self.modalities not in (None, [], ["text"]), "modalities", "answers but texts")
        refuse(self.web_search_options is not None, "web_search_options", "search")
        refuse(self.continue_final_message, "continue_final_message", "answers that go on with a message")
        for number, message in enumerate(self.messages):
            for name in ("tool_calls", "function_call", "audio"):
                refuse(getattr(message, name), f"messages.{number}.{name}", "tools and no audio")
        form = (self.response_format or {}).get("type", "text")
        refuse(form != "text", "response_format", f"answers in the form {form!r:.40}")


class CompletionRequest(Sampling):
    prompt: str | list[Any] | None = None
    echo: bool | None = None
    logprobs: Annotated[int, Meta(ge=0, le=MOST)] | None = None
    best_of: Annotated[int, Meta(ge=1, le=MOST)] | None = None
    suffix: str | None = None
    use_beam_search: bool | None = None

    def check(self) -> None:
        super().check()
        refuse(self.suffix, "suffix", "text behind the answer")

    @property
    def text(self) -> str:
        """The one prompt. Raises BadRequest."""
        prompt = self.prompt[0] if isinstance(self.prompt, list) and len(self.prompt) == 1 else self.prompt
        if isinstance(prompt, str):
            return prompt
        refuse(isinstance(prompt, list) and all(isinstance(one, str) for one in prompt), "prompt", "several prompts")
        refuse(isinstance(prompt, list | int), "prompt", "prompts as numbers of tokens")
        raise BadRequest("'prompt' must be a text", param="prompt")


def read(body: bytes, kind: type[R]) -> R:
    """Decode a request.

    Raises:
        BadRequest: naming the field.
    """
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        where = _WHERE.search(str(error))
        param = re.sub(r"\[(\.\.\.|\d+)\]", "", where[1]) if where else ""
        words = _WHERE.sub("", str(error))
        raise BadRequest(f"'{param}': {words}" if param else words, param=param or None) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"the body is not JSON: {error}") from None


def refuse(wish: object, param: str, what: str) -> None:
    """Raise BadRequest if there is such a wish."""
    if wish:
        raise BadRequest(f"'{param}': the engine of this model, a FastChat worker, knows no {what}", param=param)
