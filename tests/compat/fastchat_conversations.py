"""Render chats with FastChat's own conversation templates. Runs in FastChat's environment, .venv/compat.

    fastchat_conversations.py FILE    record a few chats in each template, as test data
    fastchat_conversations.py         render the chats of standard input in each template

Standard input is a JSON array of chats, each `[[role, text], ...]` with `system`, `user` and `assistant`. Standard
output is `[{"conv": template, "prompts": [one for each chat]}, ...]`, for each template that a worker can have.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fastchat.conversation import Conversation, conv_templates

Chat = Sequence[tuple[str, str]]
CHATS: Sequence[Chat] = (
    (("user", "Hi there!"),),
    (("system", "Be brief."), ("user", "Hi <n>"), ("assistant", "Hello.\n\nYes?\r\n"), ("user", "Why?")),
    (("system", ""), ("user", "a"), ("user", "b")),
)
RECORDED_BYTES = 3000  # a larger template consists of long examples, which test nothing new


def prompt(template: Conversation, chat: Chat) -> str:
    """The prompt for a chat, filled in as FastChat's API server does it."""
    conversation = template.copy()
    for role, text in chat:
        if role == "system":
            conversation.set_system_message(text)
        else:
            conversation.append_message(conversation.roles[role == "assistant"], text)
    conversation.append_message(conversation.roles[1], None)
    return str(conversation.get_prompt())


def rendered(chats: Sequence[Chat]) -> Iterator[dict[str, Any]]:
    """All templates, with the prompts of these chats. A template without a style is for a service with its own API."""
    for template in conv_templates.values():
        if template.sep_style is not None:
            fields = dataclasses.asdict(template) | {"sep_style": int(template.sep_style)}
            yield {"conv": fields, "prompts": [prompt(template, chat) for chat in chats]}


def record(file: Path) -> None:
    """Write the test data."""
    recorded = [row for row in rendered(CHATS) if len(json.dumps(row["conv"])) <= RECORDED_BYTES]
    text = json.dumps({"chats": CHATS, "recorded": recorded}, ensure_ascii=False, separators=(",", ":"))
    file.write_text(text, encoding="utf-8")
    styles = sorted({row["conv"]["sep_style"] for row in recorded})
    sys.stdout.write(f"{len(recorded)} templates in {len(styles)} styles: {styles}\n")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        record(Path(sys.argv[1]))
    else:
        json.dump(list(rendered(json.load(sys.stdin))), sys.stdout)
