"""The messages of a chat as turns of a FastChat conversation, as FastChat's own API server puts them.

Source: FastChat, fastchat/serve/openai_api_server.py `get_gen_params`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from hierarchy.errors import BadRequest
from hierarchy.translation.chat_template import IMAGE, Conversation, Turn
from hierarchy.translation.openai_request import Message


class Said(NamedTuple):
    """A chat as one text, and the images that belong into it."""

    prompt: str
    images: list[str]


def render(messages: Sequence[Message], template: Conversation) -> Said:
    """Put a chat into a template.

    Raises:
        BadRequest: a message that no template has a place for.
    """
    system: str | None = None
    turns: list[Turn] = []
    images: list[str] = []
    user, assistant = template.roles[:2]
    for number, message in enumerate(messages):
        text, shown = _content(message, f"messages.{number}.content")
        match message.role:
            case "system" | "developer":
                system = text
            case "user":
                turns.append((user, IMAGE * len(shown) + text))
                images += shown
            case "assistant":
                turns.append((assistant, text))
            case _:
                where = f"messages.{number}.role"
                raise BadRequest(
                    f"'{where}': the engine of this model, a FastChat worker, knows no role {message.role!r:.40}; "
                    "use system, user or assistant",
                    param=where,
                )
    return Said(template.prompt([*turns, (assistant, "")], system), images)


def _content(message: Message, where: str) -> tuple[str, list[str]]:
    """The text of a message, and the URLs of its images."""
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
                    f"'{where}': the engine of this model, a FastChat worker, knows texts, and images of users, only",
                    param=where,
                )
    return "\n".join(texts), images
