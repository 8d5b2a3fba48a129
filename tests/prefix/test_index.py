"""The index of prompts: what was sent where, in bounded memory."""

from __future__ import annotations

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from hierarchy.prefix.fingerprint import DIGEST_BYTES, PLACES, Fingerprint, Hasher
from hierarchy.prefix.index import ENTRY_BYTES, LATEST, LEAST_ENTRIES, MAX_HOLDERS, PrefixIndex

HASHER = Hasher(b"key")
MEMORY = 16 * 1024 * 1024


def prompt(data: bytes) -> Fingerprint:
    fingerprint = HASHER.take([data], len(data))
    assert fingerprint is not None
    return fingerprint


def test_a_prompt_that_grows_matches_all_that_was_sent() -> None:
    index = PrefixIndex(MEMORY)
    index.note(prompt(b"x" * 1000), 7)
    for length in (1000, 1010, 9000):
        assert 998 <= index.matches(prompt(b"x" * length))[7] <= 1000


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
    matches = index.matches(prompt(b"s" * 1024 + b"b" * 3000))
    assert matches[1] == max(place for place in PLACES if place <= 1024)
    assert 2022 <= matches[2] <= 2024


def test_the_last_children_are_kept_and_the_latest_is_last() -> None:
    index = PrefixIndex(MEMORY)
    one = prompt(b"x" * 300)
    for number in range(1, 31):
        index.note(one, number)
    index.note(one, 20)
    digest = int.from_bytes(one.digests[0], "big")
    holders = index.holders(digest)
    assert len(holders) == MAX_HOLDERS
    assert holders[-2:] == [30, 20]
    index.note_one(digest, 25)
    assert index.holders(digest)[-1] == 25


def test_what_is_not_sent_for_long_is_forgotten_and_what_is_stays() -> None:
    index = PrefixIndex(MEMORY)
    kept = prompt(b"kept" * 300)
    index.note(kept, 1)
    for number in range(LEAST_ENTRIES):
        index.note(prompt(b"%d " % number * 200), 2)
        if number % 200 == 0:
            index.note(kept, 1)
    assert index.dropped
    assert 1196 <= index.matches(kept)[1] <= 1200
    assert index.matches(prompt(b"0 " * 200)) == {}


def some(rng: Random, count: int = 1) -> Fingerprint:
    """A prompt that was never sent before."""
    return Fingerprint(PLACES[count - 1], tuple(rng.randbytes(DIGEST_BYTES) for _ in range(count)))


def test_it_holds_as_much_as_its_engines() -> None:
    index, rng = PrefixIndex(1 << 40, engines=30), Random(1)
    for _ in range(50_000):
        index.note(some(rng), 1)
    assert 25_000 < len(index) <= 30_000
    index.resize(0)
    for _ in range(60_000):
        index.note(some(rng), 1)
    assert len(index) <= LEAST_ENTRIES
    index.resize(20)
    for _ in range(40_000):
        index.note(some(rng), 1)
    assert 15_000 < len(index) <= 20_000


def test_less_memory_than_before_is_kept_at_once() -> None:
    index, rng = PrefixIndex(160_000, engines=20), Random(1)
    for _ in range(15_000):
        index.note(some(rng), 1)
    index.memory = 20_000
    index.resize(20)
    assert index.memory_used() <= 20_000
    for _ in range(3_000):
        index.note(some(rng), 1)
    assert 500 < len(index) <= 20_000 // ENTRY_BYTES


def test_what_was_sent_last_is_what_it_holds() -> None:
    index, rng = PrefixIndex(1 << 40, engines=0), Random(1)  # of 10,000 digests
    sent = [some(rng) for _ in range(20_000)]
    for one in sent:
        index.note(one, 1)
    known = [bool(index.matches(one)) for one in sent]
    assert sum(known[-2_500:]) > 2_490
    assert sum(known[-7_500:]) > 6_500
    assert sum(known[:5_000]) < 500


@settings(max_examples=10, deadline=None)
@given(st.integers(10_000, 60_000), st.integers(0, 1000), st.booleans())
def test_it_is_bounded_in_bytes(memory: int, seed: int, shared: bool) -> None:
    index, rng = PrefixIndex(memory, engines=1000), Random(seed)
    for _ in range(2 * memory // ENTRY_BYTES // 10):
        one = some(rng, 10)
        for number in range(1, 14 if shared and rng.random() < 0.1 else 2):
            index.note(one, number)
        assert index.memory_used() <= memory + 1000
    assert len(index) > 0.5 * memory / ENTRY_BYTES


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 200), st.integers(1, 4), st.integers(1, 15), st.booleans()), max_size=300))
def test_it_knows_what_a_plain_table_knows(sent: list[tuple[int, int, int, bool]]) -> None:
    """While nothing is forgotten, through all splits: who was sent what, in which order."""
    index = PrefixIndex(MEMORY)
    digests = [Random(number).randbytes(DIGEST_BYTES) for number in range(300)]
    plain: dict[bytes, list[int]] = {}
    for first, count, number, alone in sent:
        one = digests[first : first + count]
        index.note(Fingerprint(PLACES[count - 1], tuple(one)), number)
        if alone:
            index.note_one(int.from_bytes(one[0], "big"), number)
        for digest in one:
            holders = plain.setdefault(digest, [])
            if number not in holders[-LATEST:] or (alone and digest == one[0]):
                plain[digest] = [*[other for other in holders if other != number][1 - MAX_HOLDERS :], number]
    for digest, holders in plain.items():
        assert index.holders(int.from_bytes(digest, "big")) == holders
    assert len(index) == len(plain)


@given(st.lists(st.binary(min_size=DIGEST_BYTES, max_size=DIGEST_BYTES), min_size=1, max_size=100), st.integers(1, 3))
def test_digests_that_a_hostile_parent_makes_up_break_nothing(digests: list[bytes], number: int) -> None:
    """Those, too, that look like the bytes between two others."""
    index = PrefixIndex(MEMORY)
    for one in digests:
        index.note(Fingerprint(256, (one,)), number)
        for bucket in [bucket for bucket in index._buckets if bucket]:
            for at in range(len(bucket) - DIGEST_BYTES + 1):
                crafted = Fingerprint(256, (bucket[at : at + DIGEST_BYTES],))
                index.matches(crafted)
    known = len(index)
    for bucket in [bucket for bucket in index._buckets if bucket]:
        for at in range(len(bucket) - DIGEST_BYTES + 1):
            index.note(Fingerprint(256, (bucket[at : at + DIGEST_BYTES],)), number)
    assert len(index) >= known
    assert all(index.matches(Fingerprint(256, (one,))) == {number: 256} for one in digests)


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
