"""Multipart forms: their `model` is found and replaced; forms that readers read in several ways are refused."""

from __future__ import annotations

import contextlib

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hierarchy.errors import BadRequest
from hierarchy.http.content_type import boundary_of
from hierarchy.http.model_field import find_model, further_models, with_model
from tests.http.test_model_field import in_pieces, outcome

BOUNDARY = b"x1"
names = st.text(
    alphabet=st.characters(categories=["L", "N", "P", "S"], exclude_characters="\ufffd"), min_size=1, max_size=40
)


def form(*parts: bytes, end: bytes = b"--x1--\r\n") -> bytes:
    return b"".join(b"--x1\r\n%b\r\n" % part for part in parts) + end


def field(name: bytes, value: bytes, more: bytes = b"") -> bytes:
    return b'Content-Disposition: form-data; name="%b"%b\r\n\r\n%b' % (name, more, value)


def disposed(disposition: bytes, value: bytes = b"n") -> bytes:
    return b"Content-Disposition: %b\r\n\r\n%b" % (disposition, value)


MODEL = field(b"model", b"m")


@given(names, names, st.binary(max_size=200), st.booleans(), st.lists(st.integers(0, 10**6), max_size=6))
def test_model_of_a_form_that_a_client_library_wrote(
    name: str, other: str, audio: bytes, first: bool, cuts: list[int]
) -> None:
    fields = {"model": name, "prompt": "model"} if first else {"prompt": 'name="model"', "model": name}
    request = httpx.Request("POST", "http://a/v1", data=fields, files={"file": ("model", audio, "audio/wav")})
    body, boundary = request.read(), boundary_of(request.headers["content-type"].encode())
    found = find_model(body, boundary)
    pieces = in_pieces(body, cuts)
    assert outcome(pieces, boundary) == (name, found.start, found.end)
    changed = b"".join(with_model(pieces, found, other, is_form=True))
    again = find_model(changed, boundary)
    assert again.model == other
    assert b"".join(with_model([changed], again, name, is_form=True)) == body


@pytest.mark.parametrize(
    "part",
    [
        b"content-disposition: form-data; name=model\r\n\r\nm",
        b'Content-Disposition: form-data; name="model"\r\nContent-Type: text/plain; charset=utf-8\r\n\r\nm',
        b'Content-Disposition: form-data; name="model"\r\nContent-Type: text/plain; charset=ISO-8859-1\r\n'
        b"Content-Transfer-Encoding: 8bit\r\n\r\nm",
        b'Content-Disposition: form-data; name="model"\r\nContent-Length: 1\r\n\r\nm',
    ],
)
@pytest.mark.parametrize(
    "file",
    [
        disposed(b'form-data; name="file"; filename="a;b=c.wav"', b"\r\n--x2\r\n\n--x\r\n"),
        disposed("form-data; name=file; filename=\"ä.wav\"; filename*=UTF-8''%C3%A4.wav".encode()),
        field(b"Models", b""),
        field(b"timestamp_granularities[]", b"word"),
    ],
)
@pytest.mark.parametrize("end", [b"--x1--", b"--x1--\r\n"])
def test_what_clients_write_is_accepted(part: bytes, file: bytes, end: bytes) -> None:
    for body in (form(part, file, end=end), form(file, part, end=end)):
        assert find_model(body, BOUNDARY).model == "m"


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (form(field(b"a", b"b")), "no 'model'"),
        (form(MODEL, MODEL), "more than one 'model'"),
        (form(field(b"model", b"")), "must be the name of a model"),
        (form(field(b"model", b"a\nb")), "must be the name of a model"),
        (form(field(b"model", b"a ")), "must be the name of a model"),
        (form(field(b"model", b"\xff")), "must be the name of a model"),
        (form(field(b"model", b"a" * 2000)), "must be the name of a model"),
        (form(field(b"model", b"a\r\n--x2")), "must be the name of a model"),
        (form(field(b"model", b"a", b'; filename="model"')), "has a file name"),
        (form(MODEL, field(b"model", b"n", b'; filename=""')), "has a file name"),
        (form(MODEL, disposed(b"form-data; name=model; filename*=utf-8''a")), "has a file name"),
        (form(MODEL, field(b"Model", b"n")), "some readers"),
        (form(MODEL, field(b"model[]", b"n")), "some readers"),
        (form(MODEL, field(b"model[a]", b"n")), "some readers"),
        (form(MODEL, field(b"_charset_", b"utf-16")), "_charset_"),
        (form(MODEL, disposed(b"form-data; name*=utf-8''model")), "understand in several ways"),
        (form(MODEL, disposed(b"form-data; name=\"a\"; name*=utf-8''model")), "understand in several ways"),
        (form(MODEL, disposed(b'form-data; name*0="mo"; name*1="del"')), "understand in several ways"),
        (form(MODEL, disposed(b'form-data; name="a"; name="model"')), "understand in several ways"),
        (form(MODEL, disposed(b'form-data; name="mod\\el"')), "understand in several ways"),
        (form(MODEL, disposed(b'form-data; name="a;model"')), "understand in several ways"),
        (form(MODEL, disposed(b'form-data; name="a"; filename="x; name=model"')), "understand in several ways"),
        (form(MODEL, disposed(b'form-data; name="a"; filename="x\\"; name="model"')), "understand in several ways"),
        (form(MODEL, disposed(b"form-data; name='model'; x")), "understand in several ways"),
        (form(MODEL, disposed(b"form-data")), "understand in several ways"),
        (form(MODEL, disposed(b'attachment; name="model"')), "understand in several ways"),
        (form(MODEL, disposed(b'form-data; name="a"\r\nContent-Disposition: form-data; name="model"')), "two fields"),
        (form(MODEL, disposed(b'form-data; name="a"\r\n x: y')), "malformed header line"),
        (form(MODEL, disposed(b'form-data;\r\n name="model"')), "malformed header line"),
        (form(MODEL, disposed(b'form-data; name="a"\nx: y')), "malformed header line"),
        (form(MODEL, b"Content-Type: text/plain\r\n\r\nn"), "without a content-disposition"),
        (form(MODEL, b"\r\n\r\nn"), "malformed header line"),
        (form(disposed(b'form-data; name="model"\r\nContent-Type: text/plain; charset=utf-16')), "a content type"),
        (form(disposed(b'form-data; name="model"\r\nContent-Type: application/json')), "a content type"),
        (form(disposed(b'form-data; name="model"\r\nContent-Transfer-Encoding: base64')), "transfer-encoding"),
        (form(field(b"a" * 5000, b"b")), "longer than 4096"),
        (form(*[field(b"a", b"b")] * 101), "more than 100 parts"),
        (form(MODEL, end=b""), "not a multipart form"),
        (form(MODEL) + form(field(b"model", b"n")), "behind the last boundary"),
        (b"\r\n" + form(MODEL), "not a multipart form"),
        (b"preamble\r\n" + form(MODEL), "not a multipart form"),
        (form(MODEL).replace(b"\r\n", b"\n"), "other than a line's end"),
        (form(MODEL, field(b"a", b"\n--x1\n" + field(b"model", b"n"))), "boundary inside a part"),
        (form(MODEL, field(b"a", b"\r\n--x1 \r\n" + field(b"model", b"n"))), "other than a line's end"),
        (form(MODEL, field(b"a", b"\r\n--x11\r\n" + field(b"model", b"n"))), "other than a line's end"),
        (b'{"model":"m"}', "not a multipart form"),
        (b"--x1--\r\n", "other than a line's end"),
        (b"", "not a multipart form"),
    ],
)
@pytest.mark.parametrize("step", [1, 7, 10**6])
def test_what_readers_could_understand_in_several_ways_is_refused(body: bytes, why: str, step: int) -> None:
    result = outcome([body[at : at + step] for at in range(0, len(body), step)], BOUNDARY)
    assert why in str(result)
    assert "\n" not in str(result)


@given(
    st.binary(max_size=80)
    | st.lists(st.sampled_from([b"--x1", b"\r\n", b"\n", field(b"model", b"a"), b"a", b"--"])).map(b"".join),
    st.lists(st.integers(0, 10**6), max_size=6),
)
def test_any_bytes_have_a_model_or_are_refused(body: bytes, cuts: list[int]) -> None:
    with contextlib.suppress(BadRequest):
        assert find_model(body, BOUNDARY).model
    assert outcome(in_pieces(body, cuts), BOUNDARY) == outcome([body], BOUNDARY)


def test_fields_that_name_further_models() -> None:
    body = form(MODEL, field(b"fallbacks", b"a"), field(b"Models[]", b"b"), field(b"lora", b""))
    assert further_models(body, find_model(body, BOUNDARY), is_form=True) == [("fallbacks", "a"), ("Models[]", "b")]
