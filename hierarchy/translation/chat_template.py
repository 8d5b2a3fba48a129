"""FastChat's chat templates: how the messages of a chat become the prompt that a model continues.

Source: FastChat, fastchat/conversation.py `Conversation` (whose `sep_style` is the number of a `SeparatorStyle`) and
fastchat/serve/openai_api_server.py `get_gen_params`. tests/data/fastchat has the prompts that FastChat makes with each
of its templates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from hierarchy.errors import BadRequest
from hierarchy.translation.openai_request import Message

IMAGE_PLACEHOLDER = "$$<image>$$"  # in a prompt, where the worker inserts an image
Turn = tuple[str, str]  # role as the template names it, text; the text is "" for the turn that the model writes


class Conversation(msgspec.Struct, frozen=True):
    """A worker's chat template, in FastChat's own fields."""

    name: str = ""
    #: the system message's place in the prompt
    system_template: str = "{system_message}"
    #: used if the client sends none
    system_message: str = ""
    #: the names of the user and the assistant, then others
    roles: tuple[str, ...] = ("USER", "ASSISTANT")
    #: examples (role, text) that precede the client's messages
    messages: tuple[tuple[str, str], ...] = ()
    offset: int = 0
    #: a key of `_STYLES`
    sep_style: int = 1
    #: after each turn; `sep2`, where it is used, after those of the assistant
    sep: str = "\n"
    sep2: str | None = None
    stop_str: str | list[str] | None = None
    stop_token_ids: list[int] | None = None

    @property
    def stop_strings(self) -> list[str]:
        """The strings that end a generation."""
        if isinstance(self.stop_str, str):
            return [self.stop_str]
        return self.stop_str or []

    def prompt(self, turns: Sequence[Turn], system: str | None = None) -> str:
        """The prompt for the template's examples and then `turns`. system: replaces `system_message`.

        Raises:
            KeyError: `sep_style` is not one of `KNOWN_STYLES`.
        """
        message = self.system_message if system is None else system
        rendered = self.system_template.replace("{system_message}", message)
        return _STYLES[self.sep_style](_Chat(self, message, rendered, [*self.messages, *turns]))


class RenderedChat(NamedTuple):
    """A chat as a prompt, and the URLs of the images for its placeholders."""

    prompt: str
    images: list[str]


def render_chat(messages: Sequence[Message], template: Conversation) -> RenderedChat:
    """Make a chat into a prompt.

    Raises:
        BadRequest: the template has no place for one of the messages.
    """
    system: str | None = None
    turns: list[Turn] = []
    images: list[str] = []
    user, assistant = template.roles[:2]
    for index, message in enumerate(messages):
        text, urls = _content(message, f"messages.{index}.content")
        match message.role:
            case "system" | "developer":
                system = text
            case "user":
                turns.append((user, IMAGE_PLACEHOLDER * len(urls) + text))
                images += urls
            case "assistant":
                turns.append((assistant, text))
            case _:
                param = f"messages.{index}.role"
                raise BadRequest(
                    f"'{param}': the engine of this model, a FastChat worker, does not support the role "
                    f"{message.role!r:.40}; use system, user or assistant",
                    param=param,
                )
    return RenderedChat(template.prompt([*turns, (assistant, "")], system), images)


def _content(message: Message, param: str) -> tuple[str, list[str]]:
    """The text of a message, and the URLs of its images. param: names the content in an error."""
    if message.content is None:
        return "", []
    if isinstance(message.content, str):
        return message.content, []
    texts, images = [], []
    for part in message.content:
        match part:
            case {"type": "text", "text": str(text)}:
                texts.append(text)
            case {"type": "image_url", "image_url": {"url": str(url)}} if message.role == "user":
                images.append(url)
            case _:
                raise BadRequest(
                    f"'{param}': the engine of this model, a FastChat worker, supports text, and images from the user, "
                    "only",
                    param=param,
                )
    return "\n".join(texts), images


class _Chat(NamedTuple):
    """What a separator style renders."""

    template: Conversation
    system: str  # the system message
    rendered_system: str  # the system message in its template
    turns: list[Turn]

    @property
    def seps(self) -> tuple[str, str]:
        return self.template.sep, self.template.sep2 or ""


@dataclass(frozen=True)
class _Style:
    """The usual kind of separator style: each turn is `role + after_role + text + after_text`."""

    #: what precedes all turns
    opening: Callable[[_Chat], str]
    after_role: str
    #: `{sep}` is the turn's separator
    after_text: str
    #: after the role of the turn that the model writes
    after_last_role: str
    #: the separator is always `sep`; otherwise `sep` and `sep2` in turn
    one_sep: bool = True

    def __call__(self, chat: _Chat) -> str:
        prompt = self.opening(chat)
        for index, (role, text) in enumerate(chat.turns):
            sep = chat.seps[0 if self.one_sep else index % 2]
            after_text = self.after_text.replace("{sep}", sep)
            prompt += role + (self.after_role + text + after_text if text else self.after_last_role)
        return prompt


def _system(chat: _Chat) -> str:
    return chat.rendered_system


def _system_sep(chat: _Chat) -> str:
    return chat.rendered_system + chat.seps[0]


def _system_sep_if_rendered(chat: _Chat) -> str:
    return chat.rendered_system + chat.seps[0] if chat.rendered_system else ""


def _system_sep_line_if_rendered(chat: _Chat) -> str:
    return f"{chat.rendered_system}{chat.seps[0]}\n" if chat.rendered_system else ""


def _system_if_given(chat: _Chat) -> str:
    return chat.rendered_system if chat.system else ""


def _system_sep_if_given(chat: _Chat) -> str:
    return chat.rendered_system + chat.seps[0] if chat.system else ""


def _llama2(chat: _Chat) -> str:
    prompt = chat.rendered_system if chat.system else "[INST] "
    for index, (_, text) in enumerate(chat.turns):
        tag = chat.template.roles[index % 2]
        if not text:
            prompt += tag
        elif index == 0:
            prompt += text + " "
        else:
            prompt += f"{tag} {text}{chat.seps[index % 2]}"
    return prompt


def _chatglm(chat: _Chat) -> str:
    sep, first = chat.seps[0], 1 if chat.template.name == "chatglm2" else 0
    prompt = chat.rendered_system + sep if chat.rendered_system else ""
    for index, (role, text) in enumerate(chat.turns):
        if index % 2 == 0:
            prompt += f"[Round {index // 2 + first}]{sep}"
        prompt += f"{role}：{text}{sep}" if text else f"{role}："
    return prompt


def _chatintern(chat: _Chat) -> str:
    prompt = chat.rendered_system
    for index, (role, text) in enumerate(chat.turns):
        prompt += "<s>" if index % 2 == 0 else ""
        prompt += f"{role}:{text}{chat.seps[index % 2]}\n" if text else f"{role}:"
    return prompt


def _dolly(chat: _Chat) -> str:
    prompt = chat.rendered_system
    for index, (role, text) in enumerate(chat.turns):
        end = "\n\n" if index % 2 else ""
        prompt += f"{role}:\n{text}{chat.seps[index % 2]}{end}" if text else f"{role}:\n"
    return prompt


def _rwkv(chat: _Chat) -> str:
    prompt = chat.rendered_system
    for role, text in chat.turns:
        lines = text.replace("\r\n", "\n").replace("\n\n", "\n")
        prompt += f"{role}: {lines}\n\n" if text else f"{role}:"
    return prompt


def _metamath(chat: _Chat) -> str:
    prompt = _system_sep_if_rendered(chat)
    for index, (role, text) in enumerate(chat.turns):
        before, after = (":\n", chat.seps[0]) if index % 2 == 0 else (": " + chat.seps[1], "")
        prompt += role + before + (text + after if text else "")
    return prompt


def _yuan2(chat: _Chat) -> str:
    prompt = chat.rendered_system + chat.seps[1] if chat.system else ""
    prompt += "".join(f"{text}<n>" for _, text in chat.turns if text)
    return prompt.rstrip("<n>") + chat.seps[0]  # strips any of these three characters, as FastChat does


_STYLES: dict[int, Callable[[_Chat], str]] = {
    1: _Style(_system_sep, ": ", "{sep}", ":"),  # ADD_COLON_SINGLE
    2: _Style(_system_sep, ": ", "{sep}", ":", one_sep=False),  # ADD_COLON_TWO
    3: _Style(_system_sep, ": ", "{sep}", ": "),  # ADD_COLON_SPACE_SINGLE
    4: _Style(_system, "", "{sep}", ""),  # NO_COLON_SINGLE
    5: _Style(_system, "", "{sep}", "", one_sep=False),  # NO_COLON_TWO
    6: _Style(_system_sep_if_rendered, "\n", "{sep}", "\n"),  # ADD_NEW_LINE_SINGLE
    7: _llama2,  # LLAMA2
    8: _chatglm,  # CHATGLM
    9: _Style(_system_sep_line_if_rendered, "\n", "{sep}\n", "\n"),  # CHATML
    10: _chatintern,  # CHATINTERN
    11: _dolly,  # DOLLY
    12: _rwkv,  # RWKV
    13: _Style(_system, ": <s>", "</s>", ": <s>"),  # PHOENIX
    14: _Style(_system_sep, ":\n", "{sep}", ":\n"),  # ROBIN
    15: _Style(_system_sep_if_given, ": ", "{sep}", ":"),  # FALCON_CHAT
    16: _Style(_system_if_given, "\n", "", ""),  # CHATGLM3
    17: _Style(_system, ": ", "{sep}", ":", one_sep=False),  # DEEPSEEK_CHAT
    18: _metamath,  # METAMATH
    19: _yuan2,  # YUAN2
}
KNOWN_STYLES = frozenset(_STYLES)  # numbers of `SeparatorStyle`
