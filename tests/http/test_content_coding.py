"""Content codings are undone piece by piece, and no further than there is room."""

from __future__ import annotations

import gzip
import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hierarchy.http.content_coding import MAX_CONTENT, CodingError, Decoder, decoded, decoder

TEXT = b"data: hello\n\n" * 50
MIB = 1024 * 1024
BOMB = gzip.compress(b"\0" * 32 * MIB, mtime=0)
DEFLATE_BOMB = zlib.compress(b"\0" * 32 * MIB)


def bare(data: bytes) -> bytes:
    """Deflate without zlib's head and checksum."""
    return zlib.compress(data)[2:-4]


CODED = [
    (b"gzip", gzip.compress),
    (b"x-gzip", gzip.compress),
    (b" GZIP ", gzip.compress),
    (b"deflate", zlib.compress),
    (b"deflate", bare),
]


@pytest.mark.parametrize(("coding", "encode"), CODED)
@given(data=st.data(), content=st.one_of(st.binary(max_size=200), st.just(TEXT)))
def test_the_pieces_do_not_matter(coding: bytes, encode: object, data: st.DataObject, content: bytes) -> None:
    assert callable(encode)
    coded = encode(content)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(coded)), max_size=5)))
    pieces = [coded[a:b] for a, b in zip([0, *cuts], [*cuts, len(coded)], strict=True)]
    found = decoder(coding)
    assert found is not None
    assert b"".join(map(found.feed, pieces)) == content
    assert found.complete
    assert decoded(coding, coded, len(content)) == content


def test_gzip_may_have_members() -> None:
    coded = b"".join(gzip.compress(b"%d" % number) for number in range(300))
    made = Decoder(b"gzip")
    assert made.feed(coded) == b"".join(b"%d" % number for number in range(300))
    assert made.complete


def test_what_does_not_end_is_not_complete() -> None:
    made = Decoder(b"gzip")
    assert made.complete  # nothing has begun
    made.feed(gzip.compress(TEXT)[:-3])
    assert not made.complete


GZIP = gzip.compress(TEXT, mtime=0)
DAMAGED = {
    "not gzip": (b"gzip", b"no gzip"),
    "gzip, damaged": (b"gzip", GZIP[:10] + b"\xff" * 30),
    "gzip, another checksum": (b"gzip", GZIP[:-8] + bytes(8)),
    "gzip, and more": (b"gzip", GZIP + b"surplus"),
    "not deflate": (b"deflate", b"\xff" * 9),
    "deflate, and more": (b"deflate", zlib.compress(TEXT) + b"surplus"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damage_is_found(name: str) -> None:
    coding, data = DAMAGED[name]
    with pytest.raises(CodingError, match=r"^sent "):
        Decoder(coding).feed(data)
    assert TEXT.startswith(decoded(coding, data, 10**6).rstrip(b"\xff"))


@pytest.mark.parametrize("coding", [b"br", b"zstd", b"gzip, gzip", b"compress", b"*"])
def test_other_codings_are_not_known(coding: bytes) -> None:
    assert decoder(coding) is None
    assert decoded(coding, TEXT, 100) == b""


@pytest.mark.parametrize("coding", [b"", b"identity", b" Identity "])
def test_no_coding_is_one(coding: bytes) -> None:
    assert decoded(coding, TEXT, 10**6) == TEXT
    assert decoded(coding, TEXT, 7) == TEXT[:7]


def test_a_piece_of_a_read_becomes_so_much_at_most() -> None:
    made = Decoder(b"gzip")
    assert max(len(made.feed(BOMB[at : at + 2048])) for at in range(0, len(BOMB), 2048)) <= MAX_CONTENT
    with pytest.raises(CodingError, match="in one read"):
        Decoder(b"gzip").feed(BOMB)


@given(st.integers(1, 512 * 1024), st.sampled_from([b"gzip", b"deflate"]))
def test_no_more_is_decompressed_than_there_is_room_for(limit: int, coding: bytes) -> None:
    bomb = BOMB if coding == b"gzip" else DEFLATE_BOMB
    tracemalloc.start()
    try:
        assert len(decoded(coding, bomb, limit)) == limit
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 * limit + 4 * MIB
