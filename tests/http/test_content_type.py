"""Heads that make readers look for the model in other places than this node."""

from __future__ import annotations

import pytest

from hierarchy.http.content_type import ambiguity, boundary_of


@pytest.mark.parametrize(
    ("content_type", "boundary"),
    [
        (b"multipart/form-data; boundary=abc", b"abc"),
        (b'Multipart/Form-Data; charset=utf-8; boundary="a b"', b"a b"),
        (
            b"multipart/form-data;boundary=----WebKitFormBoundary7MA4YWxkTrZu0gW;",
            b"----WebKitFormBoundary7MA4YWxkTrZu0gW",
        ),
        (b"multipart/form-database; boundary=abc", b""),
        (b"application/json; boundary=abc", b""),
        (b"", b""),
    ],
)
def test_boundaries(content_type: bytes, boundary: bytes) -> None:
    assert boundary_of(content_type) == boundary


@pytest.mark.parametrize(
    "content_type",
    [
        b"application/json",
        b"application/json;charset=utf-8",
        b'application/json; charset="UTF-8"',
        b"text/plain; charset=us-ascii",
        b"application/vnd.api+json",
        b"application/json;",
        b"",
    ],
)
@pytest.mark.parametrize("target", [b"/v1/x", b"/v1/x?beta=true&api-version=1;mode", b"/v1/x?"])
def test_ordinary_heads(content_type: bytes, target: bytes) -> None:
    assert ambiguity(target, {b"content-type": content_type}) == ""


@pytest.mark.parametrize(
    ("content_type", "why"),
    [
        (b"multipart/form-data", "not multipart/form-data with one valid boundary"),
        (b"multipart/form-data; boundary=", "malformed"),
        (b"multipart/form-data; boundary=" + b"a" * 71, "one valid boundary"),
        (b'multipart/form-data; boundary="a "', "one valid boundary"),
        (b"multipart/form-data; boundary=a; boundary=b", "parameter twice"),
        (b"multipart/form-data; boundary=a; Boundary=b", "parameter twice"),
        (b"multipart/form-data; boundary*=utf-8''a", "one valid boundary"),
        (b"multipart/form-data; boundary=a; boundary*0=b", "one valid boundary"),
        (b"multipart/form-data; boundary=a; charset=utf-16", "charset"),
        (b"multipart/mixed; boundary=a", "one valid boundary"),
        (b"multipart/form-data; boundary=a, application/json", "malformed"),
        (b"application/x-www-form-urlencoded", "that of a form"),
        (b"application/x-www-form-urlencoded2", "that of a form"),
        (b"Application/X-WWW-Form-Urlencoded; charset=UTF-8", "that of a form"),
        (b"application/json; charset=utf-16le", "charset"),
        (b"application/json, multipart/form-data; boundary=a", "malformed"),
        (b"application/json multipart/form-data", "malformed"),
        (b"json", "malformed"),
    ],
)
def test_content_types_that_readers_understand_in_several_ways(content_type: bytes, why: str) -> None:
    reason = ambiguity(b"/v1/x", {b"content-type": content_type})
    assert why in reason
    assert "\n" not in reason


@pytest.mark.parametrize(
    "query",
    [
        b"?model=n",
        b"a=b?model=n",
        b"model=n",
        b"a=b&model=n",
        b"a;model=n",
        b"Model=n",
        b"%6dodel=n",
        b"+model=n",
        b"model",
        b"model[]=n",
        b"lora=x",
    ],
)
def test_a_query_that_names_a_model(query: bytes) -> None:
    assert "names a model" in ambiguity(b"/v1/x?" + query, {})


def test_a_query_of_many_fields() -> None:
    assert "more than 100 fields" in ambiguity(b"/v1/x?" + b"a&" * 200 + b"model=n", {})


@pytest.mark.parametrize(("coding", "refused"), [(b"gzip", True), (b"identity", False), (b"gzip, identity", True)])
def test_compressed_bodies(coding: bytes, refused: bool) -> None:
    assert bool(ambiguity(b"/v1/x", {b"content-encoding": coding})) is refused
