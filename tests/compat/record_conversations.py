"""Record what FastChat makes of its conversation templates, as test data: record_conversations.py FILE

Runs where FastChat's own package is installed: .venv/compat/bin/python, which `make test` makes.
"""

import dataclasses
import json
import sys
from pathlib import Path

from fastchat.conversation import Conversation, conv_templates

CHATS = (
    (("user", "Hi there!"),),
    (("system", "Be brief."), ("user", "Hi <n>"), ("assistant", "Hello.\n\nYes?\r\n"), ("user", "Why?")),
    (("system", ""), ("user", "a"), ("user", "b")),
)


def prompt(template: Conversation, chat: tuple[tuple[str, str], ...]) -> str:
    """As FastChat's API server fills it."""
    conversation = template.copy()
    for role, text in chat:
        if role == "system":
            conversation.set_system_message(text)
        else:
            conversation.append_message(conversation.roles[role == "assistant"], text)
    conversation.append_message(conversation.roles[1], None)
    return conversation.get_prompt()


def main() -> None:
    recorded = []
    styles = {}
    for template in conv_templates.values():
        if template.sep_style is None:
            continue  # of services that have an API of their own; no worker can have it
        fields = dataclasses.asdict(template) | {"sep_style": int(template.sep_style)}
        if len(json.dumps(fields)) > 3000:
            continue  # long examples, which say nothing new
        recorded.append({"conv": fields, "prompts": [prompt(template, chat) for chat in CHATS]})
        styles[int(template.sep_style)] = template.name
    text = json.dumps({"chats": CHATS, "recorded": recorded}, ensure_ascii=False, separators=(",", ":"))
    Path(sys.argv[1]).write_text(text, encoding="utf-8")
    sys.stdout.write(f"{len(recorded)} templates in {len(styles)} styles: {sorted(styles)}\n")


if __name__ == "__main__":
    main()
