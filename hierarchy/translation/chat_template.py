"""A FastChat conversation template: how messages become the one text that a model continues.

Source: FastChat, fastchat/conversation.py; `sep_style` crosses the wire as the number of its `SeparatorStyle`. What it
makes of each of its templates is recorded in tests/data/fastchat.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import msgspec

IMAGE = "$$<image>$$"  # stands in a prompt where an image belongs
Turn = tuple[str, str]  # role as the template names it, text; "" for the turn that the model shall take


class Conversation(msgspec.Struct, frozen=True):
    """A template as a worker tells it. messages: examples that stand before the client's own."""

    name: str = ""
    system_template: str = "{system_message}"
    system_message: str = ""
    roles: tuple[str, ...] = ("USER", "ASSISTANT")
    messages: tuple[tuple[str, str], ...] = ()
    offset: int = 0
    sep_style: int = 1
    sep: str = "\n"
    sep2: str | None = None
    stop_str: str | list[str] | None = None
    stop_token_ids: list[int] | None = None

    @property
    def stops(self) -> list[str]:
        """The strings that end an answer."""
        if isinstance(self.stop_str, str):
            return [self.stop_str]
        return self.stop_str or []

    def prompt(self, turns: Sequence[Turn], system: str | None = None) -> str:
        """The text for these turns behind the template's own. system: instead of its system message.

        Raises:
            KeyError: its separator style is not known.
        """
        message = self.system_message if system is None else system
        shown = self.system_template.replace("{system_message}", message)
        return _STYLES[self.sep_style](_Parts(self, message, shown, [*self.messages, *turns]))


class _Parts(NamedTuple):
    template: Conversation
    message: str  # of the system
    shown: str  # that message in its template
    turns: list[Turn]

    @property
    def seps(self) -> tuple[str, str]:
        return self.template.sep, self.template.sep2 or ""


@dataclass(frozen=True)
class _Style:
    """The usual kind: what stands before the turns, and around each; `{sep}` is the turn's separator.

    opening: before all turns, given whether there is a system message and what it looks like. said: between a role and
    its text. after: behind the text. unsaid: behind the role whose turn it is.
    """

    opening: Callable[[_Parts], str]
    said: str
    after: str
    unsaid: str
    one_sep: bool = True

    def __call__(self, parts: _Parts) -> str:
        text = self.opening(parts)
        for number, (role, said) in enumerate(parts.turns):
            sep = parts.seps[0 if self.one_sep else number % 2]
            text += role + (self.said + said + self.after.replace("{sep}", sep) if said else self.unsaid)
        return text


def _shown(parts: _Parts) -> str:
    return parts.shown


def _shown_sep(parts: _Parts) -> str:
    return parts.shown + parts.seps[0]


def _shown_sep_if_any(parts: _Parts) -> str:
    return parts.shown + parts.seps[0] if parts.shown else ""


def _shown_line_if_any(parts: _Parts) -> str:
    return f"{parts.shown}{parts.seps[0]}\n" if parts.shown else ""


def _shown_if_said(parts: _Parts) -> str:
    return parts.shown if parts.message else ""


def _shown_sep_if_said(parts: _Parts) -> str:
    return parts.shown + parts.seps[0] if parts.message else ""


def _llama2(parts: _Parts) -> str:
    text = parts.shown if parts.message else "[INST] "
    for number, (_, said) in enumerate(parts.turns):
        tag = parts.template.roles[number % 2]
        if not said:
            text += tag
        elif number == 0:
            text += said + " "
        else:
            text += f"{tag} {said}{parts.seps[number % 2]}"
    return text


def _chatglm(parts: _Parts) -> str:
    sep, first = parts.seps[0], 1 if parts.template.name == "chatglm2" else 0
    text = parts.shown + sep if parts.shown else ""
    for number, (role, said) in enumerate(parts.turns):
        if number % 2 == 0:
            text += f"[Round {number // 2 + first}]{sep}"
        text += f"{role}：{said}{sep}" if said else f"{role}："
    return text


def _chatintern(parts: _Parts) -> str:
    text = parts.shown
    for number, (role, said) in enumerate(parts.turns):
        text += "<s>" if number % 2 == 0 else ""
        text += f"{role}:{said}{parts.seps[number % 2]}\n" if said else f"{role}:"
    return text


def _dolly(parts: _Parts) -> str:
    text = parts.shown
    for number, (role, said) in enumerate(parts.turns):
        end = "\n\n" if number % 2 else ""
        text += f"{role}:\n{said}{parts.seps[number % 2]}{end}" if said else f"{role}:\n"
    return text


def _rwkv(parts: _Parts) -> str:
    text = parts.shown
    for role, said in parts.turns:
        lines = said.replace("\r\n", "\n").replace("\n\n", "\n")
        text += f"{role}: {lines}\n\n" if said else f"{role}:"
    return text


def _metamath(parts: _Parts) -> str:
    text = _shown_sep_if_any(parts)
    for number, (role, said) in enumerate(parts.turns):
        before, after = (":\n", parts.seps[0]) if number % 2 == 0 else (": " + parts.seps[1], "")
        text += role + before + (said + after if said else "")
    return text


def _yuan2(parts: _Parts) -> str:
    text = parts.shown + parts.seps[1] if parts.message else ""
    text += "".join(f"{said}<n>" for _, said in parts.turns if said)
    return text.rstrip("<n>") + parts.seps[0]  # any of these three characters, as the original has it


_STYLES: dict[int, Callable[[_Parts], str]] = {
    1: _Style(_shown_sep, ": ", "{sep}", ":"),
    2: _Style(_shown_sep, ": ", "{sep}", ":", one_sep=False),
    3: _Style(_shown_sep, ": ", "{sep}", ": "),
    4: _Style(_shown, "", "{sep}", ""),
    5: _Style(_shown, "", "{sep}", "", one_sep=False),
    6: _Style(_shown_sep_if_any, "\n", "{sep}", "\n"),
    7: _llama2,
    8: _chatglm,
    9: _Style(_shown_line_if_any, "\n", "{sep}\n", "\n"),
    10: _chatintern,
    11: _dolly,
    12: _rwkv,
    13: _Style(_shown, ": <s>", "</s>", ": <s>"),
    14: _Style(_shown_sep, ":\n", "{sep}", ":\n"),
    15: _Style(_shown_sep_if_said, ": ", "{sep}", ":"),
    16: _Style(_shown_if_said, "\n", "", ""),
    17: _Style(_shown, ": ", "{sep}", ":", one_sep=False),
    18: _metamath,
    19: _yuan2,
}
KNOWN_STYLES = frozenset(_STYLES)
