"""The index of prompts: what was sent where, in bounded memory."""

from __future__ import annotations

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from hierarchy.prefix.fingerprint import PLACES, Fingerprint, Hasher
from hierarchy.prefix.index import ENTRY_BYTES, LEAST_ENTRIES, MAX_HOLDERS, PrefixIndex

HASHER = Hasher(b"key")
MEMORY = 16 * 1024 * 1024


def prompt(data: bytes) -> Fingerprint:
    fingerprint = HASHER.take([data], len(data))
    assert fingerprint is not None
    return fingerprint


def test_a_prompt_that_grows_matches_all_that_was_sent() -> None:
    index = PrefixIndex(MEMORY)
    index.note(prompt(b"x" * 1000), 7)
    assert index.matches(prompt(b"x" * 1000)) == {7: 1000}
    assert index.matches(prompt(b"x" * 1010)) == {7: 1000}
    assert index.matches(prompt(b"x" * 9000)) == {7: 1000}


def test_a_prompt_that_differs_matches_as_far_as_a_place_covers() -> None:
    index = PrefixIndex(MEMORY)
    index.note(prompt(b"x" * 5000), 1)
    match = index.matches(prompt(b"x" * 1000 + b"y" * 3000))[1]
    assert match == max(place for place in PLACES if place <= 1000)
    assert index.matches(prompt(b"y" * 5000)) == {}


def test_a_shorter_prompt_matches_no_more_than_itself() -> None:
    index = PrefixIndex(MEMORY)
    index.note(prompt(b"x" * 300), 1)
    assert index.matches(prompt(b"x" * 270)) == {1: 270}


def test_each_child_has_its_own_longest_match() -> None:
    index = PrefixIndex(MEMORY)
    index.note(prompt(b"s" * 1024 + b"a" * 1000), 1)
    index.note(prompt(b"s" * 1024 + b"b" * 1000), 2)
    assert index.matches(prompt(b"s" * 1024 + b"b" * 3000)) == {
        1: max(place for place in PLACES if place <= 1024),
        2: 2024,
    }


def test_the_last_children_are_kept_and_the_latest_is_last() -> None:
    index = PrefixIndex(MEMORY)
    one = prompt(b"x" * 300)
    for number in range(1, 31):
        index.note(one, number)
    index.note(one, 20)
    holders = index.holders(one.digests[0])
    assert len(holders) == MAX_HOLDERS
    assert holders[-2:] == [30, 20]
    index.note_one(one.digests[0], 25)
    assert index.holders(one.digests[0])[-1] == 25


def test_what_is_not_sent_for_long_is_forgotten_and_what_is_stays() -> None:
    index = PrefixIndex(MEMORY)
    kept = prompt(b"kept" * 300)
    index.note(kept, 1)
    for number in range(LEAST_ENTRIES):
        index.note(prompt(b"%d " % number * 200), 2)
        if number % 500 == 0:
            index.note(kept, 1)
    assert index.dropped
    assert index.matches(kept) == {1: 1200}
    assert index.matches(prompt(b"0 " * 200)) == {}


def test_it_holds_as_much_as_its_engines() -> None:
    index = PrefixIndex(1 << 40, engines=100)
    rng = Random(1)
    for _ in range(150_000):
        index.note(Fingerprint(300, [rng.getrandbits(48)]), 1)
    assert 50_000 < len(index) <= 100_000
    index.resize(0)
    for _ in range(30_000):
        index.note(Fingerprint(300, [rng.getrandbits(48)]), 1)
    assert len(index) <= LEAST_ENTRIES


@settings(max_examples=10, deadline=None)
@given(st.integers(50_000, 400_000), st.integers(0, 1000), st.booleans())
def test_it_is_bounded_in_bytes(memory: int, seed: int, shared: bool) -> None:
    index = PrefixIndex(memory, engines=1000)
    rng = Random(seed)
    for _ in range(2 * memory // ENTRY_BYTES // 10):
        digests = [rng.getrandbits(48) for _ in range(10)]
        for number in range(1, 4 if shared and rng.random() < 0.1 else 2):
            index.note(Fingerprint(PLACES[9], digests), number)
    assert index.memory_used() <= 1.25 * memory + 64 * 400


@given(st.lists(st.tuples(st.binary(min_size=256, max_size=600), st.integers(1, 5)), max_size=30))
def test_a_match_is_what_was_sent_to_that_child(sent: list[tuple[bytes, int]]) -> None:
    index = PrefixIndex(MEMORY)
    for data, number in sent:
        index.note(prompt(data), number)
    for data, number in sent:
        matches = index.matches(prompt(data))
        assert matches[number] <= len(data)
        assert set(matches) <= {number for _, number in sent}


def shared(one: bytes, other: bytes) -> int:
    """How many bytes are the same at the beginning of both."""
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3000), st.integers(1, 4)), max_size=40))
def test_what_follows_a_match_is_enough_to_note(sent: list[tuple[int, int, int]]) -> None:
    """While nothing is forgotten, no less is known than if each prompt were noted whole, and nothing that is not so."""
    whole, short = PrefixIndex(MEMORY), PrefixIndex(MEMORY)
    had: dict[int, list[bytes]] = {}
    for text, more, number in sent:
        data = b"%d" % text * 600 + b"x" * more
        one = prompt(data)
        known, all_known = short.matches(one), whole.matches(one)
        assert known.keys() == all_known.keys()
        for child, match in known.items():
            assert all_known[child] <= match <= max(shared(data, before) for before in had[child])
        whole.note(one, number)
        short.note(one, number, known.get(number, 0))
        had.setdefault(number, []).append(data)
