"""Log probabilities: cut where a stream is, and put together again."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from hierarchy.translation.logprobs import behind, count, joined

cuts = st.lists(st.integers(0, 9), max_size=5)


def of(tokens: list[str]) -> dict[str, Any]:
    return {"tokens": list(tokens), "token_logprobs": [-0.5] * len(tokens), "top_logprobs": None}


@given(st.lists(st.text(max_size=3), max_size=9), cuts)
def test_what_was_cut_is_whole_again(tokens: list[str], at: list[int]) -> None:
    told, whole = 0, None
    for size in [*sorted(at), len(tokens)]:
        new = behind(of(tokens[:size]), told)
        told += count(new)
        whole = joined(whole, new)
    assert told == len(tokens)
    assert whole == (of(tokens) if tokens else None)


def test_none_of_none() -> None:
    assert (count(None), behind(None, 0), behind({}, 0), joined(None, None)) == (0, None, None, None)
    assert joined({"tokens": ["a"]}, None) == {"tokens": ["a"]}
