"""What FastChat itself makes of conversations, for tests to compare with. Runs in FastChat's environment.

Standard input is a JSON array of chats, each `[[role, text], ...]` with `system`, `user` and `assistant`. Standard
output is `[{"conv": template, "prompts": [one for each chat]}, ...]`, for each of its templates that a worker can have.
"""

from __future__ import annotations

import dataclasses
import json
import sys

from fastchat.conversation import conv_templates
from record_conversations import prompt


def main() -> None:
    chats = json.load(sys.stdin)
    rendered = [
        {
            "conv": dataclasses.asdict(template) | {"sep_style": int(template.sep_style)},
            "prompts": [prompt(template, chat) for chat in chats],
        }
        for template in conv_templates.values()
        if template.sep_style is not None
    ]
    json.dump(rendered, sys.stdout)


if __name__ == "__main__":
    main()
