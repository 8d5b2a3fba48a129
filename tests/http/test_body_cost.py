"""What reading a body costs: the same for each byte, whatever the bytes are, and however they come."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from hierarchy.errors import BadRequest
from hierarchy.http.model_field import find_model, scan_for, with_model

READ = 256 * 1024  # bytes of the largest read
FORM_PART = b'--x1\r\ncontent-disposition: form-data; name="a"\r\n\r\nb\r\n'
#: what is repeated, and the form's boundary
REPEATED = {
    "numbers of tokens": (b'{"prompt":[', b"12345, ", b'1],"model":"m"}', b""),
    "empty arrays": (b'{"a":[', b"[],", b'[]],"model":"m"}', b""),
    "nested": (b'{"a":[', b"[[[[[]]]]],", b'1],"model":"m"}', b""),
    "empty strings": (b'{"a":[', b'"",', b'1],"model":"m"}', b""),
    "escapes": (b'{"a":"', b'\\"', b'","model":"m"}', b""),
    "backslashes": (b'{"a":"', b"\\\\", b'","model":"m"}', b""),
    "an image": (b'{"a":"', b"abcdEFGH", b'","model":"m"}', b""),
    "nested models": (b'{"a":[', b'{"model":"x"},', b'1],"model":"m"}', b""),
    "doubled models": (b"{", b'"mod\\u0065l":"m",', b'"model":"m"}', b""),
    "fields": (b"{", b'"a":1,', b'"model":"m"}', b""),
    "a deep body": (b'{"a":', b"[", b"", b""),
    "blanks": (b"{", b" \n", b'"model":"m"}', b""),
    "digits": (b'{"a":', b"1", b',"model":"m"}', b""),
    "a long key": (b'{"', b"a", b'":1,"model":"m"}', b""),
    "a long model": (b'{"model":"', b"\\u0061", b'"}', b""),
    "not ASCII": (b'{"a":"', "é漢".encode(), b'","model":"m"}', b""),
    "parts": (b"", FORM_PART, b"--x1--", b"x1"),
    "a file": (FORM_PART[:-3], b"\r\n--x\r", b"\r\n--x1--", b"x1"),
    "a part's head": (b"--x1\r\n", b"a: b\r\n", b"\r\n\r\n", b"x1"),
}


def body(name: str, size: int) -> tuple[bytes, bytes]:
    before, repeated, behind, boundary = REPEATED[name]
    return before + repeated * (size // len(repeated)) + behind, boundary


def cpu_s(work: Callable[[], object]) -> float:
    """The least of some runs, of this thread."""
    taken = []
    for _ in range(3):
        begin = time.thread_time()
        work()
        taken.append(time.thread_time() - begin)
    return min(taken)


def read(data: bytes, boundary: bytes, step: int = READ) -> None:
    scan = scan_for(boundary)
    for at in range(0, len(data), step):
        scan.feed(data[at : at + step])
    try:
        found = scan.finish()
    except BadRequest:
        return
    with_model([data[at : at + step] for at in range(0, len(data), step)], found, "other", is_form=bool(boundary))


@pytest.mark.parametrize("name", REPEATED)
def test_twice_the_bytes_cost_twice_as_much(name: str) -> None:
    small, boundary = body(name, 150_000)
    large, _ = body(name, 600_000)  # quadratic: 16 times as much
    assert cpu_s(lambda: read(large, boundary)) < 9 * cpu_s(lambda: read(small, boundary)) + 0.002


@pytest.mark.parametrize("name", REPEATED)
def test_small_pieces_cost_a_constant_each(name: str) -> None:
    small, boundary = body(name, 10_000)
    large, _ = body(name, 40_000)
    assert cpu_s(lambda: read(large, boundary, 2)) < 9 * cpu_s(lambda: read(small, boundary, 2)) + 0.002


@pytest.mark.parametrize("step", [3, READ])
def test_the_pieces_that_are_kept_are_short(step: int) -> None:
    kept = "_rest"  # until a token is complete
    for name in REPEATED:
        data, boundary = body(name, 60_000)
        scan = scan_for(boundary)
        for at in range(0, len(data), step):
            scan.feed(data[at : at + step])
            assert len(getattr(scan, kept)) <= 8192, name


def test_the_cost_of_an_alias_does_not_grow_with_the_number_of_models() -> None:
    many = b'{"model":"m",' + b'"mod\\u0065l":"m",' * 20_000 + b'"a":1}'
    with pytest.raises(BadRequest, match="some readers"):
        find_model(many)
    assert cpu_s(lambda: read(many, b"")) < cpu_s(lambda: read(body("numbers of tokens", 400_000)[0], b""))
