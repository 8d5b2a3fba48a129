"""Changes to a body in pieces: some of its bytes are replaced, all others stay, and long pieces are not joined."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

Change = tuple[int, int, bytes]  #: from the first position to the second, these bytes; equal positions: put between


def spliced(parts: Iterable[bytes], changes: Sequence[Change]) -> list[bytes]:
    """The body with these changes, in pieces. changes: in their order, apart from each other, inside of the body."""
    made: list[bytes] = []
    at, offset, kept = 0, 0, 0  # the next change; where the piece begins; up to where the body is in `made`
    for part in parts:
        end = offset + len(part)
        while at < len(changes) and changes[at][0] < end:
            begin, stop, value = changes[at]
            if begin > kept:
                made.append(part[kept - offset : begin - offset])
            made.append(value)
            kept = stop
            at += 1
        if kept < end:
            made.append(part if kept <= offset else part[kept - offset :])
            kept = end
        offset = end
    return made


def moved(position: int, changes: Sequence[Change]) -> int:
    """Where a position of the body is after these changes, none of which it is in."""
    return position + sum([len(value) - (stop - begin) for begin, stop, value in changes if begin < position])
