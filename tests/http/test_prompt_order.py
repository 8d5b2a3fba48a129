"""The order of a prompt's parts against chat templates: what is claimed of a cache beside what it has.

The renderers below have the order of parts of templates in use, and no more of them. How real ones compare is in
docs/explanation/prefix-caches.md.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from hierarchy.http.model_field import plain_prompt

Body = dict[str, Any]
ROOM = 0.06  # of a prompt, for JSON's own characters beside a template's


def _messages(messages: list[Any]) -> str:
    """User, assistant, calls of tools and their results, as most templates write them."""
    text = ""
    for message in messages:
        calls = "".join(json.dumps(call["function"]) for call in message.get("tool_calls", ()))
        content = message["content"]
        shown = content if isinstance(content, str) else "".join(part.get("text", "<image>") for part in content)
        text += f"<{message['role']}>{shown}{calls}<end>"
    return text


def _parts(body: Body) -> tuple[str, str, list[Any]]:
    messages = body["messages"]
    system = messages[0]["content"] if messages[0]["role"] == "system" else ""
    return system, json.dumps(body.get("tools", "")), messages[1:] if system else messages


def system_then_tools(body: Body) -> str:
    """Qwen 2.5 and Qwen3-Coder, Llama 3.1 (whose tools begin the first user's message), DeepSeek, Nemotron, Gemma 4."""
    system, tools, messages = _parts(body)
    return f"<system>date {system}{tools}<end>{_messages(messages)}"


def tools_then_system(body: Body) -> str:
    """Granite, Kimi, Hermes, later Qwen."""
    system, tools, messages = _parts(body)
    return f"<tools>{tools}<end><system>{system}<end>{_messages(messages)}"


def system_in_the_first_message(body: Body) -> str:
    """Gemma 2, Mistral without tools."""
    system, tools, messages = _parts(body)
    return f"<user>{tools}{system}{_messages(messages)}"


def words(rng: Random, count: int) -> str:
    return " ".join(f"w{rng.randrange(1000)}" for _ in range(count))


def tool(rng: Random, number: int) -> Body:
    return {"type": "function", "function": {"name": f"f{number}", "description": words(rng, 30), "parameters": {}}}


def turn(rng: Random, *, tools: bool, images: bool) -> list[Any]:
    asked: Any = words(rng, 60)
    if images:
        asked = [{"type": "text", "text": asked}, {"type": "image_url", "image_url": {"url": "data:" + words(rng, 9)}}]
    made: list[Any] = [{"role": "user", "content": asked}]
    if tools:
        call = {"id": "c1", "type": "function", "function": {"name": "f0", "arguments": words(rng, 3)}}
        made.append({"role": "assistant", "content": "", "tool_calls": [call]})
        made.append({"role": "tool", "tool_call_id": "c1", "content": words(rng, 40)})
    return [*made, {"role": "assistant", "content": words(rng, 40)}]


def conversation(rng: Random, *, system: bool, tools: bool, images: bool) -> Body:
    messages = [{"role": "system", "content": words(rng, 100)}] if system else []
    for _ in range(3):
        messages += turn(rng, tools=tools, images=images)
    body = {"messages": [*messages, {"role": "user", "content": words(rng, 30)}]}
    return {**body, "tools": [tool(rng, number) for number in range(3)]} if tools else body


def grown(rng: Random, body: Body) -> Body:
    more = [{"role": "assistant", "content": words(rng, 40)}, {"role": "user", "content": words(rng, 30)}]
    return {**body, "messages": [*body["messages"], *more]}


def edited(rng: Random, body: Body) -> Body:
    changed = copy.deepcopy(body)
    rng.choice([one for one in changed["messages"] if one["role"] == "user"])["content"] = words(rng, 40)
    return changed


def begun_anew(rng: Random, body: Body) -> Body:
    first = next(at for at, one in enumerate(body["messages"]) if one["role"] == "user")
    return {**body, "messages": [*body["messages"][:first], {"role": "user", "content": words(rng, 60)}]}


def with_another_tool(rng: Random, body: Body) -> Body:
    return {**body, "tools": [*body["tools"][:-1], tool(rng, 9)]} if "tools" in body else body


def with_another_system(rng: Random, body: Body) -> Body:
    if body["messages"][0]["role"] != "system":
        return body
    return {**body, "messages": [{"role": "system", "content": words(rng, 100)}, *body["messages"][1:]]}


def shared(one: str | bytes, other: str | bytes) -> int:
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def parts_of(body: Body) -> bytes:
    prompt = plain_prompt(json.dumps({"model": "m", **body}).encode())[2]
    assert prompt is not None
    return b"".join(bytes(part) for part in prompt.parts)


def claimed_and_true(rng: Random, render: Callable[[Body], str], change: Any, **fields: bool) -> tuple[float, float]:
    """Of a prompt that follows another one: the part that its bytes share with the other's, and that the engine has."""
    before = conversation(rng, **fields)
    after = change(rng, before)
    one, two = parts_of(before), parts_of(after)
    text = render(after)
    return shared(one, two) / len(two), shared(render(before), text) / len(text)


KINDS = [
    {"system": bool(kind & 1), "tools": bool(kind & 2), "images": bool(kind & 4)} for kind in range(8)
]  # fmt: skip


@pytest.mark.parametrize("change", [grown, edited, begun_anew, with_another_tool, with_another_system])
@pytest.mark.parametrize("fields", KINDS, ids=lambda one: "-".join(key for key, is_so in one.items() if is_so) or "no")
def test_what_is_claimed_is_what_the_engine_has(change: Any, fields: dict[str, bool]) -> None:
    """With the usual order: neither a match that the engine does not have, nor a missed one."""
    for seed in range(4):
        claimed, true = claimed_and_true(Random(seed), system_then_tools, change, **fields)
        assert abs(claimed - true) < ROOM + 0.08 * fields["images"]  # an engine sees an image, not its characters


@pytest.mark.parametrize("render", [tools_then_system, system_in_the_first_message])
@pytest.mark.parametrize("change", [grown, edited, begun_anew])
@pytest.mark.parametrize(
    "fields", KINDS[:4], ids=lambda one: "-".join(key for key, is_so in one.items() if is_so) or "no"
)
def test_other_orders_agree_while_system_and_tools_stay(render: Any, change: Any, fields: dict[str, bool]) -> None:
    for seed in range(4):
        claimed, true = claimed_and_true(Random(seed), render, change, **fields)
        assert abs(claimed - true) < ROOM


def test_where_the_tools_come_first_other_tools_claim_no_more_than_the_system_prompt() -> None:
    rng = Random(1)
    before = conversation(rng, system=True, tools=True, images=False)
    after = with_another_tool(rng, {**before, "tools": [tool(rng, 7), *before["tools"][1:]]})
    claimed = shared(parts_of(before), parts_of(after))
    assert shared(tools_then_system(before), tools_then_system(after)) < 100
    assert claimed < len(before["messages"][0]["content"]) + 200
