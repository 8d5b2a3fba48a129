"""Changes to a body in pieces are those to the whole body."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hierarchy.http.splice import Change, moved, spliced

PIECES = st.lists(st.binary(max_size=6), max_size=6)


def changes_of(size: int, cuts: list[int], values: list[bytes]) -> list[Change]:
    """Changes between some positions of a body, which are apart from each other."""
    marks = sorted({cut for cut in cuts if cut < size})
    return [(begin, end, value) for begin, end, value in zip(marks[::2], marks[1::2], values, strict=False)]


@given(PIECES, st.lists(st.integers(0, 36), max_size=10), st.lists(st.binary(max_size=3), max_size=5))
def test_the_pieces_do_not_matter(parts: list[bytes], cuts: list[int], values: list[bytes]) -> None:
    whole = b"".join(parts)
    changes = changes_of(len(whole), cuts, values)
    expected = whole
    for begin, end, value in reversed(changes):
        expected = expected[:begin] + value + expected[end:]
    assert b"".join(spliced(parts, changes)) == expected
    for position in range(len(whole)):
        if not any(begin <= position < end for begin, end, _ in changes):
            assert expected[moved(position, changes)] == whole[position]


def test_bytes_are_put_between_others() -> None:
    changes = [(2, 2, b"--"), (4, 4, b"+")]
    assert b"".join(spliced([b"abc", b"def"], changes)) == b"ab--cd+ef"
    assert [moved(position, changes) for position in (1, 2, 3, 4, 5)] == [1, 2, 5, 6, 8]


def test_a_piece_without_a_change_is_not_copied() -> None:
    large = bytes(100)
    assert spliced([large, b"x"], [(100, 101, b"y")])[0] is large
