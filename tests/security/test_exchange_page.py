"""The signed pages with which two instances of a parent exchange records."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hierarchy.errors import InvalidToken
from hierarchy.gossip import Board
from hierarchy.security.exchange_page import MAX_PAGE, MAX_RECORDS_BYTES, PageSigner
from hierarchy.security.tokens import Signer
from hierarchy.wire.record import MAX_VALUE, Record
from tests.clocks import Clock

KEY, OTHER_KEY = b"k" * 32, b"o" * 32
RECORD = Record("root", "t", "k", 5, {"v": "é"}, mac="0" * 64)


def signer(*accepted: bytes, key: bytes = KEY, parent: str = "root", clock: Clock | None = None) -> PageSigner:
    return PageSigner(parent, key, "root-1", clock or Clock(), accepted)


def test_a_page_is_read_with_the_key_that_signed_it_or_an_accepted_one() -> None:
    page = signer().sign([RECORD], 7, nonce="n", seen=3, seen_of="root-2")
    for reader in (signer(), signer(KEY, key=OTHER_KEY)):
        read = reader.read(page)
        assert (read.shared, read.revision, read.nonce, read.seen, read.seen_of) == ([RECORD], 7, "n", 3, "root-2")
        assert (read.iss, read.began) == ("root-1", None)
    for reader in (signer(key=OTHER_KEY), signer(parent="site-a")):
        with pytest.raises(InvalidToken, match=r"another key, or for another parent|not a page"):
            reader.read(page)


def test_a_page_is_no_token_and_a_token_no_page() -> None:
    tokens = Signer("root", KEY, Clock())
    with pytest.raises(InvalidToken):
        tokens.check(signer().sign([], 0))
    with pytest.raises(InvalidToken):
        signer().read(tokens.join_token("site-a", 60))


def test_the_largest_page_is_within_the_limit() -> None:
    board = Board("root", (KEY,))
    for number in range(50):
        board.publish("t", f"{number}", {"v": "x" * (MAX_VALUE - 100)})
    shared, revision = board.news(0, ("root",), MAX_RECORDS_BYTES)
    assert revision == len(shared) == 7
    page = signer().sign(shared, 2**62, nonce="n" * 22, answers="n" * 22, seen=2**62, seen_of="i" * 16, began=1.5e9)
    assert len(page) < MAX_PAGE
    assert signer().read(page).shared == shared
    with pytest.raises(InvalidToken, match="too long"):
        signer().read("a" * (MAX_PAGE + 1))


@given(st.text(max_size=200) | st.binary(max_size=100).map(lambda data: data.decode("latin-1")))
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(InvalidToken):
        signer().read(text)


@given(st.integers(0), st.characters(codec="ascii"))
def test_a_changed_page_is_refused(place: int, character: str) -> None:
    page = signer().sign([RECORD], 1)
    place %= len(page) - 1  # the last character has bits that mean nothing
    changed = page[:place] + character + page[place + 1 :]
    if changed != page:
        with pytest.raises(InvalidToken):
            signer().read(changed)


def test_a_page_is_valid_for_five_minutes_in_both_directions() -> None:
    clock = Clock()
    pages = signer(clock=clock)
    page = pages.sign([], 0)
    for offset in (0, 300, -300):
        clock.now = 1000.0 + offset
        assert pages.read(page)
    for offset in (301, -301):
        clock.now = 1000.0 + offset
        with pytest.raises(InvalidToken, match="not made now"):
            pages.read(page)
