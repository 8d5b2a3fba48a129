"""What is new in a growing text: everything, once, and nothing of a stop string or behind it."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from hierarchy.translation.deltas import Deltas

texts = st.text(alphabet="ab#\n�é", max_size=30)
stops = st.lists(st.text(alphabet="ab#", min_size=1, max_size=3), max_size=3)


@given(texts, stops, st.lists(st.integers(0, 30), max_size=8), texts)
def test_what_is_told_is_the_text_up_to_the_first_stop(text: str, stop: list[str], at: list[int], echoed: str) -> None:
    deltas = Deltas(stop, echoed)
    said = ""
    for _, size in pairwise([0, *sorted(at)]):
        said += deltas.feed(echoed + text[:size])
        if deltas.stopped:
            break
    if not deltas.stopped:
        said += deltas.end(echoed + text)
    first = min((found for one in stop if (found := text.find(one)) >= 0), default=None)
    assert said == (text if first is None else text[:first])
    assert deltas.stopped == (first is not None)


def test_a_character_that_is_not_whole_yet_waits() -> None:
    deltas = Deltas()
    assert [deltas.feed(text) for text in ("a�", "aé", "aé�")] == ["a", "é", ""]
    assert deltas.end("aé�") == "�"


def test_a_text_that_shrinks_or_changes_its_past_tells_nothing_twice() -> None:
    deltas = Deltas()
    assert [deltas.feed(text) for text in ("abc", "ab", "xyz", "xyzw")] == ["abc", "", "", "w"]


def test_an_echo_that_did_not_come_is_not_missed() -> None:
    deltas = Deltas(echoed="Hi there")
    assert [deltas.feed(text) for text in ("Hi", "Hi there", "Hi there you")] == ["", "", " you"]
    assert Deltas(echoed="Hi there").feed("you") == "you"


@given(texts, stops, st.lists(st.integers(0, 30), max_size=8), texts)
def test_a_stop_string_in_a_prompt_that_was_asked_for_stops_nothing(
    text: str, stop: list[str], at: list[int], kept: str
) -> None:
    deltas = Deltas(stop, kept=kept)
    said = ""
    for size in sorted(at):
        said += deltas.feed((kept + text)[:size])
        if deltas.stopped:
            break
    if not deltas.stopped:
        said += deltas.end(kept + text)
    first = min((found for one in stop if (found := text.find(one)) >= 0), default=None)
    assert said == kept + (text if first is None else text[:first])


def test_nothing_of_a_kept_prompt_is_held_back_as_the_beginning_of_a_stop_string() -> None:
    assert Deltas(["##"], kept="a#").feed("a#") == "a#"
