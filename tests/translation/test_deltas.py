"""The new parts of a growing text: all of it, once, but no stop string and nothing after one."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from hierarchy.translation.deltas import Deltas

texts = st.text(alphabet="ab#\n�é", max_size=30)
stop_strings = st.lists(st.text(alphabet="ab#", min_size=1, max_size=3), max_size=3)


@given(texts, stop_strings, st.lists(st.integers(0, 30), max_size=8), texts)
def test_the_deltas_are_the_text_up_to_the_first_stop_string(
    text: str, stops: list[str], sizes: list[int], echo: str
) -> None:
    deltas = Deltas(stops, echo)
    sent = ""
    for _, size in pairwise([0, *sorted(sizes)]):
        sent += deltas.feed(echo + text[:size])
        if deltas.stopped:
            break
    if not deltas.stopped:
        sent += deltas.end(echo + text)
    first = min((found for stop in stops if (found := text.find(stop)) >= 0), default=None)
    assert sent == (text if first is None else text[:first])
    assert deltas.stopped == (first is not None)


def test_an_incomplete_character_is_held() -> None:
    deltas = Deltas()
    assert [deltas.feed(text) for text in ("a�", "aé", "aé�")] == ["a", "é", ""]
    assert deltas.end("aé�") == "�"


def test_a_text_that_shrinks_or_changes_its_beginning_sends_nothing_twice() -> None:
    deltas = Deltas()
    assert [deltas.feed(text) for text in ("abc", "ab", "xyz", "xyzw")] == ["abc", "", "", "w"]


def test_an_unrequested_echo_is_removed_if_there_is_one() -> None:
    deltas = Deltas(unrequested_echo="Hi there")
    assert [deltas.feed(text) for text in ("Hi", "Hi there", "Hi there you")] == ["", "", " you"]
    assert Deltas(unrequested_echo="Hi there").feed("you") == "you"


@given(texts, stop_strings, st.lists(st.integers(0, 30), max_size=8), texts)
def test_a_stop_string_in_a_requested_echo_is_ignored(text: str, stops: list[str], sizes: list[int], echo: str) -> None:
    deltas = Deltas(stops, requested_echo=echo)
    sent = ""
    for size in sorted(sizes):
        sent += deltas.feed((echo + text)[:size])
        if deltas.stopped:
            break
    if not deltas.stopped:
        sent += deltas.end(echo + text)
    first = min((found for stop in stops if (found := text.find(stop)) >= 0), default=None)
    assert sent == echo + (text if first is None else text[:first])


def test_the_end_of_a_requested_echo_is_not_held_as_the_beginning_of_a_stop_string() -> None:
    assert Deltas(["##"], requested_echo="a#").feed("a#") == "a#"
