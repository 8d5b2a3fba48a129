"""Traces in each format, and what is wrong with those that cannot be read. The samples are made for these tests."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hierarchy.errors import UsageError
from hierarchy.simulation.request import Conversation
from hierarchy.simulation.traces.read import read_trace

MOONCAKE = """\
{"timestamp": 1000, "input_length": 1100, "output_length": 20, "hash_ids": [1, 2, 3]}
{"timestamp": 1500, "input_length": 1030, "output_length": 5, "hash_ids": [1, 2, 4]}

{"timestamp": 3000, "input_length": 512, "output_length": 1, "hash_ids": [1]}
"""
AZURE = """\
TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:15:46.6805900,374,44
2023-11-16 18:15:50.9951690,396,109
"""
BURSTGPT = """\
Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type
5,ChatGPT,472,18,490,Conversation log
45,ChatGPT,1087,0,1087,Conversation log
118,GPT-4,417,276,693,API log
"""
CONVERSATION = [
    {"from": "human", "value": "How high is Ben Nevis?"},
    {"from": "gpt", "value": "1,345 metres."},
    {"from": "human", "value": "And Snowdon?"},
    {"from": "gpt", "value": "1,085 metres."},
]
SHAREGPT = json.dumps(
    [{"id": "a", "conversations": CONVERSATION}, {"id": "b", "conversations": CONVERSATION[:2]}], indent=1
)
MESSAGES = (
    json.dumps({"messages": [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hi"}]}) + "\n"
)
PROMPTS = '{"prompt": "one two three", "output_tokens": 7}\n{"prompt": "one"}\n'


def loaded(folder: Path, text: str, rate: float | None = None) -> list[Conversation]:
    file = folder / "trace"
    file.write_text(text, "utf-8")
    make = read_trace(file, rate, seed=1)
    load = make()
    conversations = list(load.conversations)
    assert len(conversations) == load.total
    assert len(list(make().conversations)) == load.total  # each policy gets it anew
    return conversations


def test_mooncake(tmp_path: Path) -> None:
    conversations = loaded(tmp_path, MOONCAKE)
    assert [one.begins_at for one in conversations] == [0.0, 0.5, 2.0]
    (first,), (second,), _ = (list(one.turns) for one in conversations)
    assert first.prompt.ids == (1, 2, 3)
    assert first.prompt.ends == (512, 1024, 1100)
    assert second.prompt.ids[:2] == first.prompt.ids[:2]
    assert second.output_tokens == 5


def test_azure(tmp_path: Path) -> None:
    conversations = loaded(tmp_path, AZURE)
    assert [one.begins_at for one in conversations] == pytest.approx([0.0, 4.314579])
    turns = [next(one.turns) for one in conversations]
    assert [(turn.prompt.tokens, turn.output_tokens) for turn in turns] == [(374, 44), (396, 109)]
    assert turns[0].prompt.ids != turns[1].prompt.ids


def test_burstgpt(tmp_path: Path) -> None:
    conversations = loaded(tmp_path, BURSTGPT)
    assert [one.begins_at for one in conversations] == [0.0, 113.0]  # one had no response
    assert next(conversations[1].turns).prompt.tokens == 417


def test_sharegpt(tmp_path: Path) -> None:
    one, other = loaded(tmp_path, SHAREGPT, rate=1.0)
    first, second = one.turns
    assert (first.after_s, second.after_s > 0) == (0.0, True)
    assert second.prompt.ids[:2] == first.continued.ids
    assert next(other.turns).prompt == first.prompt  # the same text
    assert first.output_tokens == 3


@pytest.mark.parametrize("text", [MESSAGES * 3, PROMPTS], ids=["messages", "prompts"])
def test_json_lines_without_times(text: str, tmp_path: Path) -> None:
    conversations = loaded(tmp_path, text, rate=2.0)
    assert all(next(one.turns).prompt.tokens for one in conversations)


@pytest.mark.parametrize("text", [MOONCAKE, AZURE, BURSTGPT], ids=["mooncake", "azure", "burstgpt"])
def test_a_rate_stretches_the_times(text: str, tmp_path: Path) -> None:
    conversations = loaded(tmp_path, text, rate=0.5)
    assert conversations[-1].begins_at == pytest.approx(len(conversations) / 0.5)


def test_a_long_array_is_read_in_parts(tmp_path: Path) -> None:
    long = {"conversations": [{"from": "human", "value": "x" * 3_000_000}, {"from": "gpt", "value": "y"}]}
    text = "[\n" + ",\n".join([json.dumps(long), *[json.dumps({"conversations": CONVERSATION})] * 5000]) + "\n]\n"
    conversations = loaded(tmp_path, text, rate=1.0)
    assert len(conversations) == 5001
    assert next(conversations[0].turns).prompt.tokens == 750_000


BAD = [
    pytest.param(MOONCAKE + "{", "trace:5: is not JSON", id="not JSON"),
    pytest.param(MOONCAKE + "[]\n", 'trace:5: "input_length" is missing', id="not an object"),
    pytest.param(
        MOONCAKE.replace('"output_length": 5', '"output_length": -5'),
        'trace:2: "output_length" is -5, not a number of 0 or more',
        id="negative",
    ),
    pytest.param(
        MOONCAKE.replace("[1, 2, 4]", "[1, 2]"), 'trace:2: "input_length" is 1030, but "hash_ids" has 2', id="blocks"
    ),
    pytest.param(MOONCAKE.replace("[1, 2, 4]", '[1, 2, "4"]'), 'trace:2: "hash_ids" is not a list', id="ids"),
    pytest.param(
        MOONCAKE.replace("1030", "1030.5"), 'trace:2: "input_length" is 1030.5; write a whole', id="half a token"
    ),
    pytest.param(MOONCAKE.replace("1030", "true"), 'trace:2: "input_length" is True, not a number', id="a truth"),
    pytest.param(AZURE.replace("396", ""), 'trace:3: "ContextTokens" is missing', id="empty cell"),
    pytest.param(AZURE.replace("109", "x"), "trace:3: \"GeneratedTokens\" is 'x', not a number", id="text"),
    pytest.param(AZURE.replace("2023-11-16 18:15:50.9951690", "soon"), "trace:3: \"TIMESTAMP\" is 'soon'", id="date"),
    pytest.param(BURSTGPT.replace("472", "1e300"), "trace:2: \"Request tokens\" is '1e300', not", id="too large"),
    pytest.param(SHAREGPT[:-3], "trace:27: the array has no end|trace:2", id="cut off"),
    pytest.param(SHAREGPT.replace('"gpt"', '"robot"', 1), 'trace:2: a message is from "robot"', id="unknown sender"),
    pytest.param(
        SHAREGPT.replace('"value"', '"text"', 1), 'trace:2: a message has no texts "from" and "value"', id="no text"
    ),
    pytest.param('[{"conversations": []}, nul]', "trace:1: the entry that begins here is not JSON", id="bad entry"),
    pytest.param('[{"id": 1}]', 'trace:1: has no list "conversations"', id="no conversations"),
    pytest.param(PROMPTS + '{"prompt": 3}\n', 'trace:3: has no text "prompt"', id="no prompt"),
    pytest.param("a,b\n1,2\n", "trace:1: is not a trace that is known here", id="unknown"),
    pytest.param("", "trace:1: is not a trace that is known here", id="empty"),
    pytest.param("[]", "trace: has no requests", id="no entries"),
    pytest.param("TIMESTAMP,ContextTokens,GeneratedTokens\n", "trace: has no requests", id="only a head"),
]


@pytest.mark.parametrize(("text", "message"), BAD)
def test_what_is_wrong_is_one_line_with_its_place(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        loaded(tmp_path, text, rate=1.0)
    assert "\n" not in str(caught.value)


def test_a_trace_without_times_needs_a_rate(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has no times; add --rate"):
        loaded(tmp_path, SHAREGPT)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"missing: cannot be read \(No such file or directory\); check the path"):
        read_trace(tmp_path / "missing", 1.0, 1)
    packed = tmp_path / "packed"
    packed.write_bytes(b"\x1f\x8b\x08\xff\xff")
    with pytest.raises(UsageError, match="is not UTF-8; unpack it first"):
        read_trace(packed, 1.0, 1)
    late = tmp_path / "late"
    late.write_bytes(MOONCAKE.encode() + b"\xff\n")
    with pytest.raises(UsageError, match="late:5: is not UTF-8"):
        read_trace(late, 1.0, 1)
