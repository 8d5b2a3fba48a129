"""Multipart forms: their `model` is found and replaced, whatever else they contain."""

from __future__ import annotations

import contextlib

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hierarchy.errors import BadRequest
from hierarchy.http.model_field import with_model
from hierarchy.http.multipart import boundary_of, model_in, with_model_in

BOUNDARY = b"x1"
names = st.text(alphabet=st.characters(categories=["L", "N", "P", "S"]), min_size=1, max_size=40)


def form(*parts: bytes, end: bytes = b"--x1--\r\n") -> bytes:
    return b"".join(b"--x1\r\n%b\r\n" % part for part in parts) + end


def field(name: bytes, value: bytes, more: bytes = b"") -> bytes:
    return b'Content-Disposition: form-data; name="%b"%b\r\n\r\n%b' % (name, more, value)


@given(names, names, st.binary(max_size=200), st.booleans())
def test_model_of_a_form_that_a_client_library_wrote(name: str, other: str, audio: bytes, first: bool) -> None:
    fields = {"model": name, "prompt": "model"} if first else {"prompt": 'name="model"', "model": name}
    request = httpx.Request("POST", "http://a/v1", data=fields, files={"file": ("model", audio, "audio/wav")})
    body, boundary = request.read(), boundary_of(request.headers["content-type"].encode())
    assert model_in(body, boundary) == name
    changed = with_model(body, other, boundary)
    assert model_in(changed, boundary) == other
    assert with_model_in(changed, boundary, name) == body


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (form(field(b"a", b"b")), "no field 'model'"),
        (form(field(b"model", b"a"), field(b"model", b"b")), "more than one 'model'"),
        (form(field(b"model", b"")), "must be the name of a model"),
        (form(field(b"model", b"a\nb")), "must be the name of a model"),
        (form(field(b"model", b"a" * 2000)), "must be the name of a model"),
        (form(field(b"model", b"a\r\n--x2")), "must be the name of a model"),
        (form(field(b"model", b"a", b'; filename="model"')), "no field 'model'"),
        (form(field(b"model", b"m"), end=b""), "not a multipart form"),
        (b'{"model":"m"}', "not a multipart form"),
        (b"", "not a multipart form"),
    ],
)
def test_forms_without_a_valid_model_are_refused(body: bytes, why: str) -> None:
    with pytest.raises(BadRequest, match=why):
        model_in(body, BOUNDARY)


@given(
    st.binary(max_size=80) | st.lists(st.sampled_from([b"--x1", b"\r\n", b'name="model"', b"a", b"--"])).map(b"".join)
)
def test_any_bytes_have_a_model_or_are_refused(body: bytes) -> None:
    with contextlib.suppress(BadRequest):
        assert model_in(body, BOUNDARY)


@pytest.mark.parametrize(
    ("content_type", "boundary"),
    [
        (b"multipart/form-data; boundary=abc", b"abc"),
        (b'Multipart/Form-Data; charset=utf-8; boundary="a b"', b"a b"),
        (b"multipart/form-data", b""),
        (b"multipart/form-data; boundary=" + b"a" * 71, b""),
        (b"multipart/form-database; boundary=abc", b""),
        (b"application/json; boundary=abc", b""),
        (b"", b""),
    ],
)
def test_boundaries(content_type: bytes, boundary: bytes) -> None:
    assert boundary_of(content_type) == boundary
