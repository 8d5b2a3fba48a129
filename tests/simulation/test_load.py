"""The generated load."""

from __future__ import annotations

from itertools import islice, pairwise

import pytest

from hierarchy.simulation.load import HOT_TOKENS, KINDS, generated
from hierarchy.simulation.request import Turn


def turns(seed: int, chats: int, **more: float) -> list[list[Turn]]:
    load = generated(seed, chats, 10.0, **more)  # type: ignore[arg-type]
    return [list(one.turns) for one in load.conversations]


def test_the_same_seed_gives_the_same_load_in_whatever_order_its_turns_are_taken() -> None:
    ones, others = (list(generated(7, 30, 10.0).conversations) for _ in range(2))
    assert [one.begins_at for one in ones] == [one.begins_at for one in others]
    in_turn = [list(one.turns) for one in ones]
    backwards = [list(one.turns) for one in reversed(others)][::-1]
    assert in_turn == backwards
    assert in_turn != turns(8, 30)


def test_each_prompt_of_a_conversation_begins_with_the_one_before_and_its_response() -> None:
    for conversation in turns(1, 40):
        for before, after in pairwise(conversation):
            assert after.prompt.ids[: len(before.continued.ids)] == before.continued.ids
            assert before.continued.tokens == before.prompt.tokens + before.output_tokens
            assert after.after_s > 0


def test_conversations_share_beginnings_and_nothing_else() -> None:
    found = turns(1, 200)
    first = [conversation[0].prompt.ids[0] for conversation in found]
    assert len(set(first)) <= sum(kind.openings for kind in KINDS)
    ends = [conversation[-1].continued.ids[-1] for conversation in found]
    assert len(set(ends)) == len(ends)


def test_requests_come_at_the_rate() -> None:
    load = generated(3, 3000, 20.0)
    counted = last = 0.0
    for one in load.conversations:
        counted += sum(1 for _ in one.turns)
        last = one.begins_at
    assert counted / last == pytest.approx(20.0, rel=0.1)
    assert load.total == 3000


def test_every_prompt_can_begin_with_the_same_tokens() -> None:
    prompts = [conversation[0].prompt for conversation in turns(1, 50, shared_start=300)]
    assert {prompt.ends[0] for prompt in prompts} == {300}
    assert len({prompt.ids[0] for prompt in prompts}) == 1


def test_a_document_becomes_hot() -> None:
    prompts = [conversation[0].prompt for conversation in turns(1, 400, hot_at_s=0.0)]
    hot = [prompt for prompt in prompts if len(prompt.ids) == 3 and prompt.ends[1] - prompt.ends[0] == HOT_TOKENS]
    documents = [prompt for prompt in prompts if len(prompt.ids) == 3]
    assert len({prompt.ids[1] for prompt in hot}) == 1
    assert 0.2 < len(hot) / len(documents) < 0.5


def test_a_long_load_takes_little_memory() -> None:
    load = generated(1, 10**7, 1e6)
    assert len(list(islice(load.conversations, 5))) == 5
