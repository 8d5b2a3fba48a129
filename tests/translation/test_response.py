"""What translators share: responses that pass through, and log probabilities."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hierarchy.translation import BadEngineResponse, PassThrough
from hierarchy.translation.response import append_logprobs, count_logprobs, skip_logprobs
from tests.translation.support import translate

lengths = st.lists(st.integers(0, 9), max_size=5)


def logprobs_of(tokens: list[str]) -> dict[str, Any]:
    return {"tokens": list(tokens), "token_logprobs": [-0.5] * len(tokens), "top_logprobs": None}


@given(st.lists(st.text(max_size=3), max_size=9), lengths)
def test_appending_the_parts_of_logprobs_restores_them(tokens: list[str], sizes: list[int]) -> None:
    sent, whole = 0, None
    for size in [*sorted(sizes), len(tokens)]:
        new = skip_logprobs(logprobs_of(tokens[:size]), sent)
        sent += count_logprobs(new)
        whole = append_logprobs(whole, new)
    assert sent == len(tokens)
    assert whole == (logprobs_of(tokens) if tokens else None)


def test_missing_logprobs() -> None:
    assert (count_logprobs(None), skip_logprobs(None, 0), skip_logprobs({}, 0)) == (0, None, None)
    assert append_logprobs(None, None) is None
    assert append_logprobs({"tokens": ["a"]}, None) == {"tokens": ["a"]}


def test_a_response_that_passes_through_always_has_status_200() -> None:
    assert translate(PassThrough(), [b'{"conv"', b": {}}"]) == b'{"conv": {}}'
    translator = PassThrough()
    body = json.loads(translate(translator, [b'{"detail":"Not Found"}'], 404))
    assert (translator.status, body["error_code"], "conv" in body) == (200, 50001, False)
    with pytest.raises(BadEngineResponse, match="answered 500"):
        translate(PassThrough(), [b"Internal Server Error"], 500)
