"""The `model` of a body: read, and replaced without any other change."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hierarchy.errors import BadRequest
from hierarchy.http.model_field import model_of, with_model

blanks = st.text(alphabet=" \t\r\n", max_size=3)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=12),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["model", "a", '"model"', "\\", "{"]) | st.text(max_size=6), inner, max_size=4
        )
    ),
    max_leaves=12,
)
keys = st.sampled_from(["messages", "Model", "models", "mode", "l", 'a "model": "x"', "\\", "}", "é", ""])


def spelled(text: str, escaped: bool) -> str:
    """A string in JSON. escaped: each character as `\\uXXXX`."""
    return '"' + "".join(f"\\u{ord(c):04x}" for c in text) + '"' if escaped else json.dumps(text)


@st.composite
def bodies(draw: st.DrawFn) -> tuple[str, str, str]:
    """One JSON object as (the text before its model, the model in JSON, the text behind it)."""
    fields = draw(st.lists(st.tuples(keys, json_values), max_size=4))
    place = draw(st.integers(0, len(fields)))
    value = spelled(draw(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=8)), escaped=False)
    key = spelled("model", draw(st.booleans()))
    ascii_only, gap = draw(st.booleans()), draw(blanks)

    def written(field: tuple[str, Any]) -> str:
        name, item = field
        return f"{gap}{json.dumps(name)}{gap}:{gap}{json.dumps(item, ensure_ascii=ascii_only)}{gap}"

    before = "".join(written(field) + "," for field in fields[:place])
    behind = "".join("," + written(field) for field in fields[place:])
    return f"{gap}{{{before}{gap}{key}{gap}:{gap}", value, f"{gap}{behind}}}{gap}"


@pytest.mark.parametrize(
    "body", [b'{"model":"m"}', b'{"messages":[{"x":[1,2.5e3,null,true]}],"model":"m"}', b' {"model" : "\\u006d"} ']
)
def test_model_of(body: bytes) -> None:
    assert model_of(body) == "m"


def test_model_of_takes_the_last_of_two_as_every_engine_does() -> None:
    assert model_of(b'{"model":"a","model":"b"}') == "b"


@pytest.mark.parametrize("body", [b'{"model":1}', b'{"model":"m"', b"\xef\xbb\xbf{}", b'{"model":"m"}\0', b'"\\ud800"'])
def test_model_of_refuses(body: bytes) -> None:
    with pytest.raises(BadRequest):
        model_of(body)


@given(bodies(), st.text(alphabet=st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12))
def test_only_the_top_level_model_changes(body: tuple[str, str, str], name: str) -> None:
    before, value, behind = body
    raw = (before + value + behind).encode(errors="surrogatepass")
    changed = with_model(raw, name)
    assert changed.startswith(before.encode(errors="surrogatepass"))
    assert changed.endswith(behind.encode(errors="surrogatepass"))
    middle = changed[
        len(before.encode(errors="surrogatepass")) : len(changed) - len(behind.encode(errors="surrogatepass"))
    ]
    assert json.loads(middle) == name


@given(st.binary(max_size=60) | st.text(alphabet='{}[]",:\\model ', max_size=40).map(str.encode))
def test_bytes_that_are_not_json_raise_nothing(body: bytes) -> None:
    changed = with_model(body, "x")
    assert changed == body or b'"x"' in changed


@given(json_values)
def test_a_value_without_a_top_level_model_is_unchanged(value: Any) -> None:
    if isinstance(value, dict):
        value.pop("model", None)
    raw = json.dumps(value, indent=1).encode()
    assert with_model(raw, "x") == raw


@pytest.mark.parametrize(
    ("body", "changed"),
    [
        (b'{"model": "a", "model": "b"}', b'{"model": "x", "model": "x"}'),
        (b'{"model": 3, "n": "model"}', b'{"model": 3, "n": "model"}'),
        (b'{"model": {"model": "a"}, "model": "b"}', b'{"model": {"model": "a"}, "model": "x"}'),
        (b'{"a": ["model", "a", {"model": "b"}], "model":"c"}', b'{"a": ["model", "a", {"model": "b"}], "model":"x"}'),
        (b'[{"model": "a"}]', b'[{"model": "a"}]'),
        (b'"model"', b'"model"'),
        (b"", b""),
        (b'{"model": "a', b'{"model": "x"'),
        (b'{"a": "\\\\", "model": "b\\""}', b'{"a": "\\\\", "model": "x"}'),
        (b'{"model": "a", "mod\\u0065l": "b"}', b'{"model": "x", "mod\\u0065l": "x"}'),
        (b'{"model": "a", "b"', b'{"model": "x", "b"'),
    ],
)
def test_unusual_bodies(body: bytes, changed: bytes) -> None:
    assert with_model(body, "x") == changed


def test_a_name_is_written_as_json() -> None:
    assert with_model(b'{"model":"a"}', 'é"\\') == '{"model":"é\\"\\\\"}'.encode()
