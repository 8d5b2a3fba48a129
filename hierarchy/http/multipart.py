"""Bodies of `multipart/form-data` (audio, images): where their field `model` stands, and its replacement.

Source: RFC 7578; the parser is python-multipart's.
"""

from __future__ import annotations

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header

from hierarchy.errors import BadRequest

_MAX_NAME = 1024  # bytes; more is no name of a model


def boundary_of(content_type: bytes) -> bytes:
    """The boundary of a multipart/form-data body; b"" for any other content type, or one that is malformed."""
    if content_type[:19].lower() != b"multipart/form-data":
        return b""
    kind, options = parse_options_header(content_type)
    boundary = options.get(b"boundary", b"")
    return boundary if kind == b"multipart/form-data" and len(boundary) <= 70 else b""


def model_in(body: bytes, boundary: bytes) -> str:
    """The form's field `model`.

    Raises:
        BadRequest: the body is no such form, or has no `model`, or several, or one that is no plain text.
    """
    start, end = _span(body, boundary)
    name = body[start:end].decode(errors="replace")
    if not name.isprintable() or not 0 < end - start <= _MAX_NAME:
        raise BadRequest("the form's 'model' must be the name of a model", param="model")
    return name


def with_model_in(body: bytes, boundary: bytes, name: str) -> bytes:
    """The form with its `model` replaced, and every other byte as it was. Raises as `model_in`."""
    start, end = _span(body, boundary)
    return b"%b%b%b" % (body[:start], name.encode(), body[end:])


def _span(body: bytes, boundary: bytes) -> tuple[int, int]:
    fields = _Fields(body, boundary)
    if len(fields.found) == 1:
        return fields.found[0]
    if fields.found:  # readers differ in which of them they take
        raise BadRequest("the form has more than one 'model'; send it once", param="model")
    raise BadRequest("the form has no field 'model'; name one of GET /v1/models", param="model")


class _Fields:
    """One walk over a form. found: where the values of fields (not files) named `model` begin and end."""

    def __init__(self, body: bytes, boundary: bytes) -> None:
        self.found: list[tuple[int, int]] = []
        self._body = body
        self._name = self._value = b""
        self._is_model = self._ended = False
        self._start = self._end = -1
        parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_field": self._on_name,
                "on_header_value": self._on_value,
                "on_header_end": self._on_header,
                "on_part_data": self._on_data,
                "on_part_end": self._on_end,
                "on_end": self._on_last,
            },
        )
        try:
            parser.write(body)
        except MultipartParseError as error:
            raise BadRequest(f"the body is no multipart form: {error}") from None
        if not self._ended:
            raise BadRequest("the body is no multipart form with the boundary that its content-type names")

    def _begin(self) -> None:
        self._is_model = False
        self._start = self._end = -1
        self._name = self._value = b""

    def _on_name(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _on_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header(self) -> None:
        if self._name.lower() == b"content-disposition":
            _, options = parse_options_header(self._value)
            self._is_model = options.get(b"name") == b"model" and b"filename" not in options
        self._name = self._value = b""

    def _on_data(self, data: bytes, start: int, end: int) -> None:
        if not self._is_model:
            return
        if data is not self._body:  # bytes that looked like a boundary: no name of a model has them
            raise BadRequest("the form's 'model' must be the name of a model", param="model")
        if self._start < 0:
            self._start = start
        self._end = end

    def _on_end(self) -> None:
        if self._is_model:
            self.found.append((self._start, self._end) if self._start >= 0 else (0, 0))

    def _on_last(self) -> None:
        self._ended = True
