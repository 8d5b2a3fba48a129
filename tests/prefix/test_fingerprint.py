"""Fingerprints: what grows keeps what it had, and one salt or key more makes it another prompt."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from hierarchy.prefix.fingerprint import LEAST, MAX_DIGESTS, PLACES, Hasher

HASHER = Hasher(b"key")
MESSAGES = st.lists(st.integers(0, 40_000).map(lambda size: b"%d" % size * (size // 5 + 1)), min_size=1, max_size=6)


def digests(parts: list[bytes], salt: int = 0, hasher: Hasher = HASHER) -> list[bytes]:
    """Of the prompt that these parts make up."""
    fingerprint = hasher.take(parts, sum(map(len, parts)), salt)
    return [] if fingerprint is None else list(fingerprint.digests)


def test_places_are_multiples_of_64_that_grow_by_a_quarter() -> None:
    assert len(PLACES) == MAX_DIGESTS
    assert PLACES[0] == LEAST
    assert all(place % 64 == 0 for place in PLACES)
    assert all(1.1 < later / earlier < 1.4 for earlier, later in itertools.pairwise(PLACES))
    assert sum(place <= 400_000 for place in PLACES) == 33


def test_a_prompt_below_the_least_has_none() -> None:
    assert HASHER.take([b"x" * 255], 255) is None
    assert len(digests([b"x" * 256])) == 1


@given(MESSAGES, MESSAGES)
def test_a_conversation_that_grows_keeps_its_digests(before: list[bytes], more: list[bytes]) -> None:
    had, has = digests(before), digests(before + more)
    assert has[: len(had)] == had


@given(MESSAGES)
def test_the_parts_do_not_matter(parts: list[bytes]) -> None:
    whole = b"".join(parts)
    assert digests(parts) == digests([whole])
    halves = [whole[at : at + 1000] for at in range(0, len(whole), 1000)]
    assert digests(halves) == digests([whole])


@given(st.binary(min_size=2000, max_size=4000), st.integers(0, 1999))
def test_digests_before_a_difference_are_equal_and_none_behind_it(data: bytes, at: int) -> None:
    other = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
    for place, one, two in zip(PLACES, digests([data]), digests([other]), strict=False):
        assert (one == two) is (place <= at)


def test_what_is_hashed_is_bounded() -> None:
    long = b"x" * (PLACES[-1] + 1000)
    fingerprint = HASHER.take([long[:100_000], long[100_000:]], len(long))
    assert fingerprint is not None
    assert len(fingerprint.digests) == MAX_DIGESTS
    assert list(fingerprint.digests) == digests([long])


def test_another_key_and_another_salt_make_other_digests() -> None:
    prompt = [b"x" * 3000]
    salt = HASHER.salt("model")
    assert not set(digests(prompt)) & set(digests(prompt, hasher=Hasher(b"other")))
    assert not set(digests(prompt)) & set(digests(prompt, salt))
    assert digests(prompt, salt) == digests(prompt, salt ^ 5 ^ 5)


def test_salts_are_bounded_and_the_same_again() -> None:
    hasher = Hasher(b"key")
    first = hasher.salt("m")
    for number in range(3000):
        hasher.salt(f"m{number}")
    assert hasher.salt("m") == first != 0
