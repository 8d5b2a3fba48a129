"""FastChat's requests, translated for an engine of OpenAI's family."""

from __future__ import annotations

import json
from typing import Any

import pytest

from hierarchy.errors import BadRequest
from hierarchy.translation import to_openai


def engine_request(path: str = "/worker_generate_stream", **fields: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(to_openai(path, json.dumps({"prompt": "p", **fields}).encode()).body("own"))
    return found


def test_a_request_for_an_engine() -> None:
    neutral: dict[str, Any] = {
        "temperature": 0.7,
        "top_k": -1,
        "presence_penalty": 0,
        "repetition_penalty": 1.0,
        "stop_token_ids": [],
    }
    assert engine_request(**neutral, stop=None, images=[], use_beam_search=False) == {
        "model": "own",
        "prompt": "p",
        "max_tokens": 256,
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0.7,
    }
    more: dict[str, Any] = {
        "top_k": 5,
        "top_p": 0.5,
        "stop": ["a"],
        "stop_token_ids": [2],
        "repetition_penalty": 1.1,
        "logprobs": 1,
    }
    found = engine_request("/worker_generate", max_new_tokens=9, **more)
    assert found == {"model": "own", "prompt": "p", "max_tokens": 9, "stream": False, **more}


@pytest.mark.parametrize(
    "fields",
    [
        {"images": ["x"]},
        {"use_beam_search": True},
        {"prompt": 1},
        {"max_new_tokens": 1e300},
        {"max_new_tokens": -1},
        {"max_new_tokens": 0.5},
        {"max_new_tokens": 0},
    ],
)
def test_a_request_that_the_engine_does_not_support_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(BadRequest):
        engine_request(**fields)
