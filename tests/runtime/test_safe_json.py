"""JSON from other machines."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hierarchy.errors import NotJson
from hierarchy.runtime.safe_json import MAX_LEVELS, decode
from tests.builders import nested


class Page(msgspec.Struct):
    name: str
    extra: dict[str, Any] = {}


def test_ordinary_json_is_decoded() -> None:
    assert decode(b'{"a": [1, 2.5, "x", null, true]}') == {"a": [1, 2.5, "x", None, True]}
    assert decode(b'{"name": "n"}', Page) == Page("n")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"<html>", "malformed"),
        (b"", "truncated"),
        (b'"\xff"', "utf-8"),
        (b"NaN", "malformed"),
        (b"[1e999]", "out of range"),
        (b"[" * 250 + b"]" * 250, "deeper"),
        (b'{"a":' * 900 + b"1" + b"}" * 900, "deeper"),
        (b"[" * 1_000_000, "values"),
        (b"[" * 100_000, "deeper"),
        (b"[" + b"[]," * 300_000 + b"1]", "values"),
        (b"1" + b"0" * 400, "digits"),
        (b'{"speed": -1' + b"0" * 400 + b"}", "digits"),
        (b"1" * 100_000, "out of range"),
    ],
)
def test_what_could_do_harm_is_refused(body: bytes, reason: str) -> None:
    with pytest.raises(NotJson, match=f"(?i){reason}"):
        decode(body)


def test_levels_and_numbers_below_a_record_count() -> None:
    deep = b'{"name": "n", "extra": {"x": ' + b"[" * MAX_LEVELS + b"]" * MAX_LEVELS + b"}}"
    with pytest.raises(NotJson, match="deeper"):
        decode(deep, Page)
    with pytest.raises(NotJson, match="digits"):
        decode(b'{"name": "n", "extra": {"x": [1' + b"0" * 400 + b"]}}", Page)


def test_a_type_that_does_not_fit_is_named() -> None:
    with pytest.raises(NotJson, match="name"):
        decode(b'{"name": 1}', Page)


def test_many_brackets_side_by_side_and_long_text_are_fine() -> None:
    assert len(decode(b"[" + b"[]," * 1000 + b"[]]")) == 1001
    assert decode(json.dumps("1" * 1000).encode()) == "1" * 1000


@given(nested(st.one_of(st.none(), st.booleans(), st.integers(-(2**53), 2**53), st.text(max_size=8))))
def test_it_agrees_with_pythons_own_decoder(value: object) -> None:
    text = json.dumps(value, ensure_ascii=False)
    assert decode(text.encode(errors="surrogatepass")) == json.loads(text)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_value_or_an_error(body: bytes) -> None:
    try:
        value = decode(body)
    except NotJson:
        return
    json.dumps(value)
