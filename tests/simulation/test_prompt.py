"""Prompts that share beginnings."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hierarchy.simulation.prompt import BYTES_PER_TOKEN, Prompt, Texts

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
    texts, (a, b) = Texts(), (made(one), made(other))
    same = sum(1 for _ in iter_same(one, other))
    assert a.ids[:same] == b.ids[:same]
    assert not set(a.ids[same:]) & set(b.ids[same:])
    size = a.ends[same - 1] * BYTES_PER_TOKEN if same else 0
    assert texts.of(a)[:size] == texts.of(b)[:size]
    assert len(texts.of(a)) == a.tokens * BYTES_PER_TOKEN


def iter_same(one: list[tuple[int, int]], other: list[tuple[int, int]]) -> list[tuple[int, int]]:
    same = []
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        same.append(a)
    return same


def test_the_kept_bytes_are_bounded_and_the_same_when_made_again() -> None:
    texts, prompts = Texts(most=1000), [Prompt().then(seed, 100) for seed in range(20)]
    first = [texts.of(prompt) for prompt in prompts]
    assert len(set(first)) == 20
    assert [texts.of(prompt) for prompt in prompts] == first
    assert "800 bytes" in repr(texts)
