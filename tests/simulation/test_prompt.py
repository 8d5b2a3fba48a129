"""Prompts that share beginnings."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hierarchy.simulation.prompt import BYTES_PER_TOKEN, Prompt, text

PARTS = st.lists(st.tuples(st.integers(0, 3), st.integers(1, 50)), max_size=6)


def made(parts: list[tuple[int, int]]) -> Prompt:
    prompt = Prompt()
    for seed, tokens in parts:
        prompt = prompt.then(seed, tokens)
    return prompt


@given(PARTS, PARTS)
def test_prompts_share_the_ids_of_what_they_share_in_bytes(
    one: list[tuple[int, int]], other: list[tuple[int, int]]
) -> None:
    a, b = made(one), made(other)
    same = sum(1 for _ in iter_same(one, other))
    assert a.ids[:same] == b.ids[:same]
    assert not set(a.ids[same:]) & set(b.ids[same:])
    size = a.ends[same - 1] * BYTES_PER_TOKEN if same else 0
    text_a, text_b = b"".join(text(a)), b"".join(text(b))
    assert text_a[:size] == text_b[:size]
    assert len(text_a) == a.tokens * BYTES_PER_TOKEN
    if one and other and not same and one[0][0] != other[0][0]:
        assert text_a[:4] != text_b[:4]


def iter_same(one: list[tuple[int, int]], other: list[tuple[int, int]]) -> list[tuple[int, int]]:
    same = []
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        same.append(a)
    return same
