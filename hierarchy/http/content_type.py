"""What the head of a request says about its body, and whether all readers understand the same by it.

Source: RFC 9110, section 8.3 (Content-Type); RFC 2046, section 5.1.1 (boundaries); RFC 8187 (`boundary*`); WHATWG URL,
"application/x-www-form-urlencoded parsing"; Go, net/http `Request.FormValue` (the query and the body are one form).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import unquote_plus

from hierarchy.http.body_scan import FURTHER, MODEL, folded

MAX_QUERY_FIELDS: Final = 100
_TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_TYPE: Final = re.compile(rb"(%b)/(%b)[ \t]*" % (_TOKEN, _TOKEN)).match
_PARAMETER: Final = re.compile(
    rb";[ \t]*(?:(%b)=(?:\"([\x20\x21\x23-\x5b\x5d-\x7e]*)\"|(%b)))?[ \t]*" % (_TOKEN, _TOKEN)
).match
_BOUNDARY: Final = re.compile(rb"[0-9A-Za-z'()+_,\-./:=? ]{0,69}[0-9A-Za-z'()+_,\-./:=?]").fullmatch
_UTF8: Final = frozenset({b"utf-8", b"utf8", b"us-ascii"})
_FORM: Final = "send JSON with the field `content-type: application/json`, or a form as multipart/form-data"


def boundary_of(content_type: bytes) -> bytes:
    """The boundary of a multipart/form-data body; b"" for any other content type, or one that is malformed."""
    return _read(content_type)[0]


def ambiguity(target: bytes, fields: Mapping[bytes, bytes]) -> str:
    """Why readers could look for the model of a request in other places than this node; "" if they cannot.

    target: path and query. fields: of the head, names in lower case.
    """
    if fields.get(b"content-encoding", b"identity").strip().lower() != b"identity":
        return "compressed request bodies are not supported; leave out content-encoding and send the body as it is"
    query = target.partition(b"?")[2]
    return _read(fields.get(b"content-type", b""))[1] or (_query_problem(query) if query else "")


@functools.lru_cache(maxsize=256)
def _read(content_type: bytes) -> tuple[bytes, str]:
    """The boundary, if it is a form's, and what is wrong with it."""
    kind = _TYPE(content_type.strip(b" \t"))
    if kind is None:
        return (b"", f"the content-type {_shown(content_type)} is malformed; {_FORM}") if content_type else (b"", "")
    main, sub = kind[1].lower(), kind[2].lower()
    parameters = _parameters(content_type.strip(b" \t"), kind.end())
    if parameters is None:
        return b"", f"the content-type {_shown(content_type)} is malformed, or has a parameter twice; {_FORM}"
    if parameters.get(b"charset", b"utf-8").lower() not in _UTF8:
        return b"", f"the charset in the content-type {_shown(content_type)} is not supported; send UTF-8"
    if main == b"multipart":
        boundary = parameters.get(b"boundary", b"")
        if sub != b"form-data" or not _BOUNDARY(boundary) or any(b"*" in name for name in parameters):
            return (
                b"",
                f"the content-type {_shown(content_type)} is not multipart/form-data with one valid boundary",
            )
        return boundary, ""
    if b"urlencoded" in content_type.lower():  # some readers look no closer
        return b"", f"the content-type is that of a form, {_shown(content_type)}; {_FORM}"
    return b"", ""


def _parameters(value: bytes, pos: int) -> dict[bytes, bytes] | None:
    found: dict[bytes, bytes] = {}
    while pos < len(value):
        match = _PARAMETER(value, pos)
        if match is None:
            return None
        pos = match.end()
        if match[1] is None:  # a semicolon with nothing behind it
            continue
        name = match[1].lower()
        if name in found:
            return None
        found[name] = match[2] if match[2] is not None else match[3]
    return found


def _query_problem(query: bytes) -> str:
    fields = re.split(rb"[&;?]", query, maxsplit=MAX_QUERY_FIELDS)
    if len(fields) > MAX_QUERY_FIELDS:
        return f"the query has more than {MAX_QUERY_FIELDS} fields"
    for field in fields:
        name = unquote_plus(field.partition(b"=")[0].decode("latin-1"), errors="replace")
        plain = folded(name).partition("[")[0].partition(".")[0]
        if plain == MODEL or plain in FURTHER:
            return f"the query names a model ({ascii(name)[:40]}); name it in the body only"
    return ""


def _shown(value: bytes) -> str:
    return ascii(value.decode("latin-1"))[:80]
