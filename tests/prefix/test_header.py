"""The header field of a fingerprint: what was written is read, and what has another form is none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hierarchy.prefix.fingerprint import DIGEST_BYTES, MAX_DIGESTS, MAX_LENGTH, PLACES, Fingerprint
from hierarchy.prefix.header import MAX_FIELD, decode, encode

DIGEST = st.integers(0, (1 << 48) - 1)
DIGESTS = st.lists(st.binary(min_size=DIGEST_BYTES, max_size=DIGEST_BYTES), min_size=1, max_size=MAX_DIGESTS)


@given(DIGESTS, st.integers(0, 1 << 31), DIGEST, DIGEST)
def test_what_is_written_is_read(digests: list[bytes], more: int, session: int, sticky: int) -> None:
    fingerprint = Fingerprint(PLACES[len(digests) - 1] + more, tuple(digests), session, sticky)
    value = encode(fingerprint)
    assert len(value) <= MAX_FIELD
    assert decode(value) == fingerprint


def test_a_prompt_that_only_continues_a_response() -> None:
    assert decode(encode(Fingerprint(20, (), 0, 5))) == Fingerprint(20, (), 0, 5)
    assert decode(encode(Fingerprint(20, (), 7, 0))) == Fingerprint(20, (), 7, 0)


@pytest.mark.parametrize(
    "value",
    [
        b"", b";", b"300", b"300;", b"300;AAAA", b"300;AAAAAAA=", b"300;AAAAAA==", b"x;AAAAAAAA", b"-1;AAAAAAAA",
        b"255;AAAAAAAA", b"300;AAAA AAA", b"300;AAAA+AAA", b"300;AAAA/AAA", b"300;AAAAAAAA;x", b"300;AAAAAAAA;;;",
        b"300;AAAAAAAA;AAAAAAAAAAAAAAAA", b"99999999999;AAAAAAAA", b"9999999999;AAAAAAAA", b"300;" + b"A" * 400,
        b"\xff;AAAAAAAA", b"300;AAAAAAA\xff", b"1" * 500,
    ],
)  # fmt: skip
def test_what_has_another_form_is_none(value: bytes) -> None:
    assert decode(value) is None


@given(st.binary(max_size=400) | st.from_regex(rb"[0-9]{1,11}(;[A-Za-z0-9_\-=+/]{0,40}){0,4}", fullmatch=True))
def test_any_bytes_are_a_fingerprint_or_none(value: bytes) -> None:
    fingerprint = decode(value)
    if fingerprint is not None:
        assert fingerprint.length <= MAX_LENGTH
        assert decode(encode(fingerprint)) == fingerprint
