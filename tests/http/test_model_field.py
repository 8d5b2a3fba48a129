"""The `model` of a body: read in one pass over its pieces, and replaced without any other change."""

from __future__ import annotations

import itertools
import json
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hierarchy.errors import BadRequest
from hierarchy.http.body_scan import folded
from hierarchy.http.model_field import find_model, further_models, plain_model, scan_for, with_model

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
keys = st.sampled_from(["messages", "models", "mode", "l", 'a "model": "x"', "\\", "}", "é", ""])
texts = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=8)


@st.composite
def bodies(draw: st.DrawFn) -> tuple[str, str, str]:
    """One JSON object as (the text before its model, the model in JSON, the text behind it)."""
    fields = draw(st.lists(st.tuples(keys, json_values), max_size=4))
    place = draw(st.integers(0, len(fields)))
    ascii_only, gap = draw(st.booleans()), draw(blanks)

    def written(field: tuple[str, Any]) -> str:
        name, item = field
        return f"{gap}{json.dumps(name)}{gap}:{gap}{json.dumps(item, ensure_ascii=ascii_only)}{gap}"

    before = "".join(written(field) + "," for field in fields[:place])
    behind = "".join("," + written(field) for field in fields[place:])
    return f'{gap}{{{before}{gap}"model"{gap}:{gap}', json.dumps(draw(texts)), f"{gap}{behind}}}{gap}"


def model_of(body: bytes) -> str:
    """Read in each way, which must agree."""
    found = find_model(body)
    assert json.loads(body[found.start : found.end]) == found.model
    assert plain_model(body) in (("", False), (found.model, found.streams))
    return found.model


def in_pieces(body: bytes, cuts: list[int]) -> list[bytes]:
    places = [0, *sorted(cut % (len(body) + 1) for cut in cuts), len(body)]
    return [body[begin:end] for begin, end in itertools.pairwise(places)]


def outcome(pieces: list[bytes], boundary: bytes = b"") -> tuple[str, int, int] | str:
    scan = scan_for(boundary)
    for piece in pieces:
        scan.feed(piece)
    try:
        found = scan.finish()
    except BadRequest as error:
        return str(error)
    return found.model, found.start, found.end


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"m"}',
        b'{"messages":[{"x":[1,2.5e3,-0,null,true]}],"model":"m"}',
        b' {"model" : "\\u006d"} ',
        b'{"tools":[{"Model":"x","model":"y"}],"metadata":{"MODEL":1,"mod\\u0065l":2},"model":"m"}',
        b'{"messages":"{\\"model\\":\\"x\\"} \\ud800","model":"m"}',
        '{"a":"é","model":"m","ſ":"K"}'.encode(),
        b'{"a":[],"b":{},"model":"m","modela":1,"":{"":[[]]}}',
    ],
)
def test_the_model_of_ordinary_bodies(body: bytes) -> None:
    assert model_of(body) == "m"


#: what `plain_model` leaves to the engine: limits, and bodies in which at most a reader in C finds another model
ONLY_SCANNED = ("more than 128 levels", "256 digits", "256 bytes", "1024 fields")
SAME_TO_MOST = (b'{"mod\\u0065l":"a"}', b'{"model":"a","model\\u0000x":"b"}')


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b'{"model":"a","model":"b"}', "more than one 'model'"),
        (b'{"model":"a","model":"a"}', "more than one 'model'"),
        (b'{"model":"a","Model":"b"}', "some readers take the field 'Model' for 'model'"),
        (b'{"MODEL":"b","model":"a"}', "'MODEL'"),
        (b'{"Model":"a"}', "'Model'"),
        (b'{"mod\\u0065l":"a"}', "some readers"),
        (b'{"model":"a","\\u004dodel":"b"}', "some readers"),
        (b'{"model":"a","model\\u0000x":"b"}', "some readers"),
        (b'{"model":1}', "'model' must be a string"),
        (b'{"model":{"model":"a"}}', "'model' must be a string"),
        (b'{"model":"' + b"m" * 5000 + b'"}', "must be the name of a model"),
        (b'{"model":"\\ud800"}', "'model' is not text"),
        (b'{"a":1}', "has no 'model'"),
        (b"{}", "has no 'model'"),
        (b'["model"]', "must be a JSON object"),
        (b'"model"', "must be a JSON object"),
        (b"model=a", "not JSON"),
        (b"", "not JSON: it is empty"),
        (b'{"model":"m"', "ends too early"),
        (b'{"model":"m', "ends too early"),
        (b'{"model":"m"}{"model":"n"}', "something behind the object"),
        (b'{"model":"m"}\0', "something behind the object"),
        (b"\xef\xbb\xbf" + b'{"model":"m"}', "not JSON"),
        ('{"model":"m"}'.encode("utf-16"), "not JSON"),
        ('{"model":"m"}'.encode("utf-16-le"), "not JSON"),
        (b'{"a":"\xff","model":"m"}', "not UTF-8"),
        (b'{"model":"m","a":"\xe9', "ends too early"),
        (b'{"a":NaN,"model":"m"}', "not JSON"),
        (b'{"a":Infinity,"model":"m"}', "not JSON"),
        (b'{"a":01,"model":"m"}', "not JSON"),
        (b'{"a":1.,"model":"m"}', "malformed"),
        (b'{"a":+1,"model":"m"}', "not JSON"),
        (b'{"model":"m",}', "not JSON"),
        (b'{"model":"m"/* "model":"n" */}', "not JSON"),
        (b"{'model':'m'}", "not JSON"),
        (b'{model:"m"}', "not JSON"),
        (b'{"model":"m","a":"\n"}', "not JSON"),
        (b'{"model":"m","a":"\\x41"}', "not JSON"),
        (b'{"model":"m","a":"\\u12g4"}', "not JSON"),
        (b'{"a":[1}],"model":"m"}', "not JSON"),
        (b'{"a" "b","model":"m"}', "not JSON"),
        (b'{"a":' + b"[" * 128 + b"]" * 128 + b',"model":"m"}', "nested more than 128 levels"),
        (b'{"a":' + b'{"a":' * 300, "nested more than 128 levels"),
        (b'{"a":1' + b"0" * 400 + b',"model":"m"}', "more than 256 digits"),
        (b'{"a":[1,2,3,4,5,6,1' + b"0" * 400 + b',2],"model":"m"}', "more than 256 digits"),
        (b'{"' + b"a" * 257 + b'":1,"model":"m"}', "longer than 256 bytes"),
        (b'{"model":"m"' + b',"a":1' * 1024 + b"}", "more than 1024 fields"),
    ],
)
@pytest.mark.parametrize("step", [1, 3, 10**6])
def test_what_readers_could_understand_in_several_ways_is_refused(body: bytes, why: str, step: int) -> None:
    pieces = [body[at : at + step] for at in range(0, len(body), step)]
    assert why in str(outcome(pieces))
    assert plain_model(body) == ("", False) or any(reason in why for reason in ONLY_SCANNED) or body in SAME_TO_MOST
    assert "\n" not in str(outcome(pieces))


@pytest.mark.parametrize("cases", range(1, 32))
@pytest.mark.parametrize("form", ["%s", "\\u%04x"], ids=["plain", "escaped"])
def test_the_fast_way_finds_no_model_beside_another_spelling_of_it(cases: int, form: str) -> None:
    letters = [one.upper() if cases >> place & 1 else one for place, one in enumerate("model")]
    letters[2] = form % (ord(letters[2]) if "x" in form else letters[2])
    for other in ('"n"', "1", "null", '{"a":[]}', "true"):
        for body in ('{"model":"m","%s":%s}', '{"%s":%s,"a":[{"model":"x"}],"model":"m"}'):
            text = (body % ("".join(letters), other)).encode()
            assert plain_model(text) == ("", False), text


def test_the_fast_way_forgets_the_body_before() -> None:
    assert plain_model(b'{"model":"m","model":') == ("", False)
    assert plain_model(b'{"model":"n","stream":true}') == ("n", True)
    assert plain_model(b'{"model":"n","stream":"true","a":"' + b"x" * 70_000 + b'"}') == ("", False)


@pytest.mark.parametrize("text", ["é", "你好", "😀", "ﬂ", "K"])
def test_the_fast_way_reads_text_of_all_languages(text: str) -> None:
    body = json.dumps({text: text, "model": text, "stream": True}, ensure_ascii=False).encode()
    assert plain_model(body) == (text, True)
    assert model_of(body) == text


def test_no_letter_outside_of_ascii_stands_for_one_of_model() -> None:
    # So a field's name that is not ASCII is another field, however a reader compares names.
    letters = (chr(code) for code in range(128, sys.maxunicode + 1))
    assert not [one for one in letters if {one.lower(), one.upper(), one.casefold()} & set("modelMODEL")]


def test_the_fast_way_ends_at_a_deep_body() -> None:
    assert plain_model(b'{"model":"m","a":' + b"[" * 30_000 + b"]" * 30_000 + b"}") == ("", False)


def test_the_deepest_body_that_is_accepted() -> None:
    assert model_of(b'{"a":' + b"[" * 127 + b"]" * 127 + b',"model":"m"}') == "m"


@given(bodies(), st.lists(st.integers(0, 10**6), max_size=6), texts.filter(bool))
def test_only_the_top_level_model_changes(body: tuple[str, str, str], cuts: list[int], name: str) -> None:
    before, value, behind = (part.encode() for part in body)
    raw = before + value + behind
    pieces = in_pieces(raw, cuts)
    assert outcome(pieces) == (json.loads(value), len(before), len(before) + len(value))
    changed = b"".join(with_model(pieces, find_model(raw), name, is_form=False))
    assert changed == before + changed[len(before) : len(changed) - len(behind)] + behind
    assert model_of(changed) == name


@given(
    st.binary(max_size=60)
    | st.text(alphabet='{}[]",:\\model 0.e-', max_size=40).map(str.encode)
    | bodies().map(lambda body: "".join(body).encode()),
    st.lists(st.integers(0, 10**6), max_size=6),
    st.lists(st.tuples(st.integers(0, 10**6), st.sampled_from(b'{}[]",:\\\0\xff 0eE.-+n')), max_size=2),
)
def test_pieces_change_nothing_and_what_is_accepted_is_json(
    body: bytes, cuts: list[int], changes: list[tuple[int, int]]
) -> None:
    changed = bytearray(body)
    for place, byte in changes:
        changed[place % len(changed) if changed else 0 : place % len(changed) + 1 if changed else 0] = bytes([byte])
    body = bytes(changed)
    whole = outcome([body])
    assert outcome(in_pieces(body, cuts)) == whole
    if isinstance(whole, tuple):
        assert json.loads(body.decode())["model"] == whole[0]


def test_a_name_is_written_as_json() -> None:
    body = b'{"model":"a"}'
    assert with_model([body], find_model(body), 'é"\\', is_form=False)[1] == '"é\\"\\\\"'.encode()


@pytest.mark.parametrize(
    ("name", "same"),
    [
        ("Model", "model"),
        ("DRAFT-Model", "draftmodel"),
        (" lora_path", "lorapath"),
        ("fallbacKſ", "fallbacks"),
        ("models", "models"),
    ],
)
def test_names_are_folded_as_the_most_tolerant_reader_does(name: str, same: str) -> None:
    assert folded(name) == same


@pytest.mark.parametrize(
    ("field", "names"),
    [
        ('"fallbacks":["a","b"]', ["a", "b"]),
        ('"Fallbacks":["a"]', ["a"]),
        ('"models":["a"],"models":["b"]', ["a", "b"]),
        ('"fallbacks":[{"model":"a","messages":["x"]}]', ["a"]),
        ('"fallbacks":[{"m":["a"]}]', [""]),
        ('"context_window_fallback_dict":{"m":"a"}', [""]),
        ('"draft_model":"a"', ["a"]),
        ('"draft_model":null,"lora_path":"","adapters":[]', []),
        ('"lora_path":["a",null]', ["a"]),
        ('"lora":[{"id":1,"scale":0.5}]', [""]),
        ('"engine":7', [""]),
        ('"extra_body":{"top_k":3}', []),
        ('"extra_body":{"Model":"a","lora_path":"b"}', ["a", "b"]),
        ('"models":' + "[" * 9 + '"a"' + "]" * 9, [""]),
        ('"models":["' + "a" * 70000 + '"]', [""]),
        ('"tools":[{"model":"a"}],"user":"models"', []),
    ],
)
def test_fields_that_name_further_models(field: str, names: list[str]) -> None:
    body = f'{{{field},"model":"m"}}'.encode()
    found = find_model(body)
    assert [name for _, name in further_models(body, found, is_form=False)] == names


@pytest.mark.parametrize(("value", "streams"), [("true", True), ("false", False), ("1", False), ('"true"', False)])
def test_whether_the_client_requests_a_stream(value: str, streams: bool) -> None:
    assert find_model(f'{{"model":"m","stream":{value} }}'.encode()).streams is streams
    assert not find_model(f'{{"model":"m","a":{{"stream":{value}}} }}'.encode()).streams
