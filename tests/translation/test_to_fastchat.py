"""OpenAI's requests, translated for a FastChat worker."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hierarchy.errors import BadRequest
from hierarchy.translation import FASTCHAT_PATHS, OPENAI_PATHS, to_fastchat, to_openai
from hierarchy.translation.chat_template import Conversation
from hierarchy.translation.worker_profile import NO_PROFILE, WorkerProfile
from tests.translation.support import frame, translate

PROFILE = WorkerProfile(Conversation(stop_str="</s>", stop_token_ids=[2]), 100)
CHAT, TEXT, EMBED = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
HI = [{"role": "user", "content": "Hi"}]


def worker_request(
    path: str, *, tokens: int | None = 10, profile: WorkerProfile = PROFILE, **fields: Any
) -> dict[str, Any]:
    found = to_fastchat(path, json.dumps({"model": "m", **fields}).encode())
    decoded: dict[str, Any] = json.loads(found.body(profile, "own", tokens))
    return decoded


def error_of(path: str, **fields: Any) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        worker_request(path, **fields)
    return caught.value


def test_a_chat_is_rendered_by_the_workers_template() -> None:
    assert worker_request(CHAT, messages=HI, temperature=0, stop="END", top_k=5) == {
        "model": "own",
        "prompt": "\nUSER: Hi\nASSISTANT:",
        "temperature": 0,
        "top_p": 1.0,
        "top_k": 5,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "repetition_penalty": 1.0,
        "max_new_tokens": 89,
        "echo": False,
        "stop": ["END", "</s>"],
        "stop_token_ids": [2],
    }


def test_a_completion_uses_no_template() -> None:
    found = worker_request(TEXT, prompt=["Once"], echo=True, logprobs=2, best_of=3)
    assert (found["prompt"], found["stop"], found["stop_token_ids"], found["max_new_tokens"]) == ("Once", [], [], 16)
    assert (found["echo"], found["logprobs"], found["best_of"]) == (True, 2, 3)
    assert "use_beam_search" not in found
    assert worker_request(TEXT, prompt="a", use_beam_search=True)["use_beam_search"] is True


@pytest.mark.parametrize(
    ("requested", "profile", "tokens", "limit"),
    [
        ({"max_tokens": 5}, PROFILE, 10, 5),
        ({"max_tokens": 5000}, PROFILE, 10, 89),  # with more, a worker would cut off the prompt; one token stays free
        ({"max_completion_tokens": 7, "max_tokens": 5}, PROFILE, 10, 7),
        ({}, PROFILE, None, 256),
        ({}, WorkerProfile(Conversation(), None), None, 256),
        ({"max_tokens": 5000}, WorkerProfile(Conversation(), None), None, 5000),
    ],
)
def test_the_limit_of_the_answer(
    requested: dict[str, int], profile: WorkerProfile, tokens: int | None, limit: int
) -> None:
    assert worker_request(CHAT, messages=HI, profile=profile, tokens=tokens, **requested)["max_new_tokens"] == limit


def test_a_prompt_that_fills_the_context_is_refused() -> None:
    for tokens in (99, 100, 1000):
        error = error_of(CHAT, messages=HI, tokens=tokens)
        assert (error.param, f"alone has {tokens}" in str(error)) == ("messages", True)
    assert worker_request(CHAT, messages=HI, tokens=98)["max_new_tokens"] == 1


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        (CHAT, {"messages": HI, "n": 2}, "n"),
        (CHAT, {"messages": HI, "tools": [{}]}, "tools"),
        (CHAT, {"messages": HI, "response_format": {"type": "json_object"}}, "response_format"),
        (CHAT, {"messages": HI, "logprobs": True}, "logprobs"),
        (CHAT, {"messages": HI, "logit_bias": {"5": 1}}, "logit_bias"),
        (CHAT, {"messages": HI, "max_tokens": 0}, "max_tokens"),
        (CHAT, {"messages": HI, "stop": ["a"] * 65}, "stop"),
        (CHAT, {"messages": HI, "stop": "a" * 1001}, "stop"),
        (CHAT, {"messages": HI, "top_k": 10**30}, "top_k"),
        (CHAT, {"messages": HI, "temperature": "hot"}, "temperature"),
        (CHAT, {"messages": HI, "temperature": -1}, "temperature"),
        (CHAT, {"messages": HI, "temperature": 2.5}, "temperature"),
        (CHAT, {"messages": HI, "top_p": 1.5}, "top_p"),
        (CHAT, {"messages": HI, "top_k": -2}, "top_k"),
        (CHAT, {"messages": HI, "modalities": ["text", "audio"]}, "modalities"),
        (CHAT, {"messages": HI, "guided_json": {"type": "object"}}, "guided_json"),
        (CHAT, {"messages": HI, "min_p": 0.1}, "min_p"),
        (CHAT, {"messages": HI, "web_search_options": {}}, "web_search_options"),
        (CHAT, {"messages": [*HI, {"role": "assistant", "tool_calls": [{"id": "1"}]}]}, "messages.1.tool_calls"),
        (TEXT, {"prompt": "a", "ignore_eos": True}, "ignore_eos"),
        (CHAT, {"messages": [{"content": "x"}]}, "messages"),
        (CHAT, {"messages": []}, "messages"),
        (CHAT, {}, "messages"),
        (TEXT, {"prompt": ["a", "b"]}, "prompt"),
        (TEXT, {"prompt": [1, 2]}, "prompt"),
        (TEXT, {"prompt": [[1, 2]]}, "prompt"),
        (TEXT, {}, "prompt"),
        (TEXT, {"prompt": "a", "suffix": "b"}, "suffix"),
        (EMBED, {"input": [1, 2]}, "input"),
        (EMBED, {"input": []}, "input"),
        (EMBED, {"input": "a", "dimensions": 3}, "dimensions"),
        (EMBED, {"input": "a", "encoding_format": "int8"}, "encoding_format"),
    ],
)
def test_a_parameter_that_workers_do_not_support_is_named(path: str, fields: dict[str, Any], param: str) -> None:
    error = error_of(path, **fields)
    assert error.param == param
    assert f"'{param}'" in str(error)


def test_a_parameter_that_changes_nothing_is_ignored() -> None:
    ignored: dict[str, Any] = {
        "user": "me",
        "metadata": {},
        "n": 1,
        "tools": [],
        "logit_bias": {},
        "response_format": {"type": "text"},
    }
    ignored |= {"store": False, "seed": 7, "modalities": ["text"], "min_p": 0, "guided_json": None, "top_k": 0}
    assert worker_request(CHAT, messages=HI, **ignored) == worker_request(CHAT, messages=HI)


def test_tinychats_workers_serve_completions_only() -> None:
    assert "/v1/completions" in str(error_of(CHAT, messages=HI, profile=NO_PROFILE))
    assert worker_request(TEXT, prompt="a", profile=NO_PROFILE, tokens=None)["max_new_tokens"] == 16


@pytest.mark.parametrize("profile", [PROFILE, NO_PROFILE])
def test_a_requested_echo_is_complete_despite_stop_strings_in_it(profile: WorkerProfile) -> None:
    found = to_fastchat(TEXT, json.dumps({"prompt": "a\nb", "echo": True, "stop": "\n"}).encode())
    completion = json.loads(translate(found.translator(profile, "m"), [frame("a\nbC"), frame("a\nbCD\nE")]))
    assert completion["choices"][0]["text"] == "a\nbCD"


def test_embeddings() -> None:
    assert worker_request(EMBED, input="a") == {"model": "own", "input": ["a"], "encoding_format": None}
    assert worker_request(EMBED, input=["a", "b"], encoding_format="base64")["input"] == ["a", "b"]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
field_names = st.sampled_from(
    ["messages", "prompt", "input", "stop", "stream", "stream_options", "max_tokens", "role", "n", "echo", "images"]
)


@given(
    st.sampled_from(sorted(OPENAI_PATHS | FASTCHAT_PATHS)),
    st.dictionaries(field_names, json_values, max_size=4),
    st.binary(),
)
def test_any_body_is_translated_or_refused(path: str, body: dict[str, Any], junk: bytes) -> None:
    for data in (json.dumps(body).encode(), junk):
        with contextlib.suppress(BadRequest):
            if path in OPENAI_PATHS:
                json.loads(to_fastchat(path, data).body(PROFILE, "m", 3))
            else:
                json.loads(to_openai(path, data).body("m"))
