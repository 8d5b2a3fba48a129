"""Chat templates: each of FastChat's is rendered as FastChat does it; malformed ones are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hierarchy.errors import BadRequest, EngineUnreadable
from hierarchy.translation.chat_template import IMAGE_PLACEHOLDER, Conversation, render_chat
from hierarchy.translation.openai_request import Message
from hierarchy.translation.worker_profile import WorkerProfile

RECORDED = json.loads((Path(__file__).parents[1] / "data" / "fastchat" / "conversations.json").read_text())


def profile_of(conv: dict[str, Any], context_length: object = 2048) -> WorkerProfile:
    details = json.dumps({"context_length": context_length}).encode()
    return WorkerProfile.decode(json.dumps({"conv": conv}).encode(), details)


@pytest.mark.parametrize("recorded", RECORDED["recorded"], ids=lambda recorded: recorded["conv"]["name"])
def test_each_template_is_rendered_as_fastchat_does(recorded: dict[str, Any]) -> None:
    template = profile_of(recorded["conv"]).conversation
    assert template is not None
    for chat, prompt in zip(RECORDED["chats"], recorded["prompts"], strict=True):
        assert render_chat([Message(role, text) for role, text in chat], template).prompt == prompt


def test_each_separator_style_is_recorded() -> None:
    assert {recorded["conv"]["sep_style"] for recorded in RECORDED["recorded"]} == set(range(1, 20))


def test_content_in_parts() -> None:
    parts: list[dict[str, Any]] = [
        {"type": "text", "text": "What is"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}},
        {"type": "text", "text": "this?"},
    ]
    rendered = render_chat(
        [Message("developer", "Short."), Message("user", parts), Message("assistant", None)], Conversation()
    )
    assert rendered.prompt == f"Short.\nUSER: {IMAGE_PLACEHOLDER}What is\nthis?\nASSISTANT:ASSISTANT:"
    assert rendered.images == ["data:image/png;base64,AA"]


@pytest.mark.parametrize(
    ("message", "param"),
    [
        (Message("tool", "x"), "messages.1.role"),
        (Message("user", [{"type": "input_audio"}]), "messages.1.content"),
        (Message("assistant", [{"type": "image_url", "image_url": {"url": "x"}}]), "messages.1.content"),
        (Message("user", [{"type": "text", "text": 1}]), "messages.1.content"),
    ],
)
def test_a_message_that_the_template_has_no_place_for_is_named(message: Message, param: str) -> None:
    with pytest.raises(BadRequest) as caught:
        render_chat([Message("user", "a"), message], Conversation())
    assert caught.value.param == param


def test_a_template_cannot_read_python_attributes() -> None:
    template = Conversation(system_template="{system_message.__class__}{0}", system_message="x")
    assert template.prompt([]) == "{system_message.__class__}{0}\n"


@pytest.mark.parametrize("conv", [None, "Internal Server Error", {"roles": ["A"]}, {"sep_style": 20}, {"roles": 1}])
def test_a_malformed_template_is_unreadable(conv: Any) -> None:
    with pytest.raises(EngineUnreadable, match="conversation template"):
        profile_of(conv)


@pytest.mark.parametrize(("length", "expected"), [(2048, 2048), (None, None), ("x", None), (0, None), (-1, None)])
def test_a_malformed_context_length_is_ignored(length: object, expected: int | None) -> None:
    assert profile_of({}, length) == WorkerProfile(Conversation(), expected)


def test_a_worker_without_templates_is_tinychats() -> None:
    assert WorkerProfile.decode(None, None).is_tinychat
    assert not profile_of({}).is_tinychat
