"""What the engine's prompt is made of, in a body: the same by each way of reading, and stable as a chat grows."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hierarchy.http.model_field import find_model, plain_prompt, prompt_in, scan_for
from hierarchy.http.prompt import MAX_SHOWN, MOST_LEADING, Prompt, leading_end, prompt_of

SYSTEM = {"role": "system", "content": "You are kind. " * 30}
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
texts = st.text(max_size=30)
roles = st.sampled_from(["system", "developer", "user", "assistant", "tool"])
values = st.recursive(
    st.none() | st.integers() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=2),
)
messages = st.lists(st.fixed_dictionaries({"role": roles, "content": texts | st.lists(texts, max_size=2)}), max_size=6)


def prompt_by_pieces(body: bytes, step: int = 1 << 20) -> Prompt:
    pieces, scan = [body[at : at + step] for at in range(0, len(body), step)], scan_for(b"")
    for piece in pieces:
        scan.feed(piece)
    return prompt_in(pieces, scan.finish())


def prompt(body: bytes) -> bytes:
    """Read in each way, which must agree."""
    found = prompt_by_pieces(body)
    whole = b"".join(found.parts)
    assert found.length == len(whole)
    assert b"".join(prompt_by_pieces(body, 777).parts) == whole
    model, _, plain = plain_prompt(body)
    if model:
        assert plain is not None
        assert b"".join(plain.parts) == whole
        for name in ("cache_salt", "cache_key", "previous", "user", "length", "first"):
            assert getattr(plain, name) == getattr(found, name)
    return whole


def body(**fields: Any) -> bytes:
    return json.dumps({"model": "m", "temperature": 0.5, **fields}).encode()


def text(value: Any) -> bytes:
    return json.dumps(value).encode()


def test_the_system_comes_first_then_the_tools_then_the_messages() -> None:
    user = {"role": "user", "content": "hi"}
    assert prompt(body(messages=[SYSTEM, user], tools=TOOLS)) == text(SYSTEM) + b"," + text(TOOLS) + b" " + text(user)
    assert prompt(body(tools=TOOLS, messages=[user])) == text(TOOLS) + text(user)
    assert prompt(body(messages=[SYSTEM, user], tools=None)) == text(SYSTEM) + b", " + text(user)
    assert prompt(body(messages=[user], tools=TOOLS, system="s")) == text("s") + text(TOOLS) + text(user)
    assert prompt(body(input="hello", instructions="i", tools=TOOLS)) == text("i") + text(TOOLS) + b'"hello'
    assert prompt(body(prompt="once")) == b'"once'
    assert prompt(body()) == prompt(body(messages=[], prompt=None)) == b""


@given(messages, messages, st.booleans(), st.sampled_from([0, 70_000]))
def test_a_conversation_that_grows_at_its_end_begins_as_before(
    before: list[Any], more: list[Any], tools: bool, size: int
) -> None:
    head = [SYSTEM, {"role": "user", "content": "x" * size}]
    fields = {"tools": TOOLS} if tools else {}
    short, long = (prompt(body(messages=head + rest, **fields)) for rest in (before, before + more))
    assert long.startswith(short)


@pytest.mark.parametrize("name", ["prompt", "input"])
def test_a_text_that_grows_begins_as_before(name: str) -> None:
    assert prompt(body(**{name: "abc def"})).startswith(prompt(body(**{name: "abc"})))
    assert prompt(body(**{name: ["a", "b", "c"]})).startswith(prompt(body(**{name: ["a", "b"]})))


def test_marks_of_caches_move_without_a_change() -> None:
    def message(number: int, *, mark: bool) -> dict[str, Any]:
        block: dict[str, Any] = {"type": "text", "text": f"turn {number}"}
        if mark:
            block["cache_control"] = {"type": "ephemeral", "ttl": "5m"}
        return {"role": "user", "content": [block]}

    first = prompt(body(messages=[message(1, mark=True)]))
    second = prompt(body(messages=[message(1, mark=False), message(2, mark=True), message(3, mark=True)]))
    assert second.startswith(first)
    assert b"cache_control" not in second


def test_a_line_about_billing_is_no_prompt() -> None:
    one, two = (
        prompt(
            body(
                system=[
                    {"type": "text", "text": f"x-anthropic-billing-header: cch={cch};"},
                    {"type": "text", "text": "s"},
                ],
                messages=[{"role": "user", "content": "hi"}],
            )
        )
        for cch in ("00001", "abcde")
    )
    assert one == two


def test_what_else_a_fingerprint_depends_on() -> None:
    found = plain_prompt(body(prompt="p", cache_salt="s", prompt_cache_key="k", previous_response_id="r", user="u"))[2]
    assert found is not None
    assert (found.cache_salt, found.cache_key, found.previous, found.user) == (b'"s"', b'"k"', b'"r"', b'"u"')
    nothing = plain_prompt(body(prompt="p", user=None))[2]
    assert nothing is not None
    assert nothing.user == nothing.cache_salt == b""


def test_the_first_message_that_is_not_the_systems() -> None:
    user = {"role": "user", "content": "hi"}
    for fields in ({}, {"tools": TOOLS}):
        found = plain_prompt(body(messages=[SYSTEM, SYSTEM, user, SYSTEM], **fields))[2]
        assert found is not None
        assert found.first == text(user)


@pytest.mark.parametrize(
    ("messages", "leading"),
    [
        (b'{"role":"system","content":"x"},{"role":"user","content":"y"}', b'{"role":"system","content":"x"},'),
        (b'{"role":"system","content":"a \\" \\\\"} , {"role":"user"}', b'{"role":"system","content":"a \\" \\\\"} ,'),
        (b' { "role" : "developer" , "content":"x"}', b' { "role" : "developer" , "content":"x"}'),
        (b'{"role":"system","content":["x"]},{"role":"user"}', b'{"role":"system","content":["x"]},'),
        (b'{"content":"x","role":"system"}, {"role":"user"}', b'{"content":"x","role":"system"},'),
        (b'{"role":"system","content":"x","name":"n"},{"role":"system","content":"y"},5',
         b'{"role":"system","content":"x","name":"n"},{"role":"system","content":"y"},'),
        (b'{"content":"\\"role\\":\\"system\\"}","role":"user"}', b""), (b'{"role":"user","content":"x"}', b""),
        (b"5", b""), (b'"role"', b""), (b"{}", b""), (b"", b""), (b'{"role":"system","content":"cut', b""),
    ],
)  # fmt: skip
def test_where_the_systems_messages_end(messages: bytes, leading: bytes) -> None:
    assert messages[: leading_end(memoryview(messages))] == leading


def test_a_prompt_is_read_as_far_as_a_fingerprint_reaches() -> None:
    found = prompt_by_pieces(body(messages=[{"role": "user", "content": "x" * 3 * MAX_SHOWN}]), 64 * 1024)
    assert MAX_SHOWN - 16 < found.length <= MAX_SHOWN


@given(st.dictionaries(st.sampled_from(["messages", "tools", "prompt", "input", "system", "user"]), values))
def test_any_body_has_one_prompt_whatever_its_fields_are(fields: dict[str, Any]) -> None:
    raw = json.dumps({"model": "m", **fields}).encode()
    found = find_model(raw)
    assert all(begin < end <= len(raw) for begin, end in found.parts.values())
    prompt(raw)


SPACES = st.sampled_from(["", " ", "\n\t"])
MESSAGES = st.lists(
    st.dictionaries(
        st.sampled_from(["role", "content", "name", "x"]),
        st.sampled_from(["system", "developer", "user", 'a "quoted" \\ text', [{"type": "text", "text": "]}"}], {}, 7]),
        max_size=4,
    ),
    max_size=5,
)


@given(MESSAGES, SPACES, SPACES)
def test_messages_of_the_system_are_told_from_the_others_however_they_are_written(
    messages: list[dict[str, Any]], before: str, after: str
) -> None:
    written = [before + json.dumps(one) + after for one in messages]
    leading = 0
    for one in messages:
        names = list(one)
        if "role" not in names[:1] + names[-1:] or one["role"] not in ("system", "developer"):
            break  # the role is looked for at the beginning and at the end only
        leading += 1
    whole = ",".join(written)
    expected = ",".join(written[:leading]) + ("," if 0 < leading < len(written) else "")
    assert whole[: leading_end(whole.encode())].rstrip() == expected.rstrip()


def test_only_so_many_messages_of_the_system_are_told_from_the_others() -> None:
    many = [{"role": "system", "content": "x"}] * 1000 + [{"content": "y", "role": "user"}]
    one = json.dumps(many[0])
    assert leading_end(json.dumps(many)[1:-1].encode()) == len(f"{one}, ") * MOST_LEADING - 1


@pytest.mark.parametrize(
    "messages",
    [
        b'{"role":"system","content":"' + rb"\"" * 500_000,
        b'{"role":"system","content":"' + b"\\\\" * 500_000,
        b'{"role":"system","content":' + b"[" * 1_000_000,
        b'{"content":"' + rb",\"cache_control\":{" * 50_000,
        b'{"role":"system","x":' + b'"",' * 300_000,
        b" " * 1_000_000,
        b"{}," * 300_000,
        b"1," * 500_000,
    ],
)
def test_a_prompt_that_takes_long_to_look_at_does_not_exist(messages: bytes) -> None:
    prompt = prompt_of({"messages": memoryview(b"[" + messages + b"]"), "tools": memoryview(b"[1]")})
    assert prompt.length >= len(messages.rstrip())
    assert len(prompt.first) <= len(messages)
