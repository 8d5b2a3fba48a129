"""Chat templates: this project's rendering compared with FastChat's, and the recorded test data."""

from __future__ import annotations

import json
import random
from pathlib import Path

from hierarchy.translation.chat_template import render_chat
from hierarchy.translation.openai_request import Message
from hierarchy.translation.worker_profile import WorkerProfile
from tests.compat.programs import ROOT, Programs, needs_fastchat

pytestmark = needs_fastchat
RENDERER = Path(__file__).parent / "fastchat_conversations.py"
CHATS = 200
FRAGMENTS = [
    " ",
    "\n",
    "\n\n",
    "\r\n",
    "<n>",
    "###",
    "</s>",
    "{system_message}",
    "{}",
    "%s",
    "a",
    "Why?",
    "é",
    "世界",
    "🙂",
    ":",
]


def test_the_recorded_prompts_are_fastchats(programs: Programs, tmp_path: Path) -> None:
    found = tmp_path / "conversations.json"
    programs.run(str(RENDERER), str(found))
    assert found.read_text("utf-8") == (ROOT / "tests" / "data" / "fastchat" / "conversations.json").read_text("utf-8")


def some_chats() -> list[list[tuple[str, str]]]:
    """Random chats, the same each time: turns in any order, and texts that are difficult for templates."""
    rng = random.Random(7)

    def text() -> str:
        return "x" + "".join(rng.choices(FRAGMENTS, k=rng.randrange(6)))

    chats = []
    for _ in range(CHATS):
        chat = [(rng.choice(["user", "user", "assistant"]), text()) for _ in range(rng.randrange(1, 6))]
        if rng.random() < 0.4:
            chat.insert(0, ("system", rng.choice([text(), ""])))
        chats.append(chat)
    return chats


def test_any_chat_is_rendered_as_fastchat_does(programs: Programs) -> None:
    """With each template, including those that are too large to be recorded."""
    chats = some_chats()
    rendered = json.loads(programs.run(str(RENDERER), stdin=json.dumps(chats)))
    assert len(rendered) > 50
    different = []
    for one in rendered:
        template = WorkerProfile.decode(json.dumps({"conv": one["conv"]}).encode(), b"{}").conversation
        assert template is not None
        for chat, prompt in zip(chats, one["prompts"], strict=True):
            found = render_chat([Message(role, text) for role, text in chat], template).prompt
            if found != prompt:
                different.append((one["conv"]["name"], one["conv"]["sep_style"], chat, prompt, found))
    assert different == []
