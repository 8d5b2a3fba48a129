"""Bodies of `multipart/form-data` (audio, images): their field `model`, and its replacement.

Source: RFC 7578; the parser is python-multipart's.
"""

from __future__ import annotations

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header

from hierarchy.errors import BadRequest

_MAX_NAME = 1024  # bytes of a model's name
_MAX_BOUNDARY = 70  # bytes (RFC 2046, section 5.1.1)


def boundary_of(content_type: bytes) -> bytes:
    """The boundary of a multipart/form-data body; b"" for any other content type, or one that is malformed."""
    if content_type[:19].lower() != b"multipart/form-data":
        return b""
    kind, options = parse_options_header(content_type)
    boundary = options.get(b"boundary", b"")
    return boundary if kind == b"multipart/form-data" and len(boundary) <= _MAX_BOUNDARY else b""


def model_in(body: bytes, boundary: bytes) -> str:
    """The form's field `model`.

    Raises:
        BadRequest: the body is not such a form, or has no `model`, several, or one that is not printable text.
    """
    start, end = _span(body, boundary)
    name = body[start:end].decode(errors="replace")
    if not name.isprintable() or not 0 < end - start <= _MAX_NAME:
        raise BadRequest("the form's 'model' must be the name of a model", param="model")
    return name


def with_model_in(body: bytes, boundary: bytes, name: str) -> bytes:
    """The form with its `model` replaced; every other byte is unchanged. Raises as `model_in`."""
    start, end = _span(body, boundary)
    return b"%b%b%b" % (body[:start], name.encode(), body[end:])


def _span(body: bytes, boundary: bytes) -> tuple[int, int]:
    fields = _ModelFields(body, boundary)
    if len(fields.spans) == 1:
        return fields.spans[0]
    if fields.spans:  # readers differ in which one they use
        raise BadRequest("the form has more than one 'model'; send it once", param="model")
    raise BadRequest("the form has no field 'model'; name one of GET /v1/models", param="model")


class _ModelFields:
    """One pass over a form."""

    def __init__(self, body: bytes, boundary: bytes) -> None:
        self.spans: list[tuple[int, int]] = []  # where the values of fields (not files) named `model` begin and end
        self._body = body
        self._name = self._value = b""  # of the header line that is being read
        self._is_model = self._ended = False
        self._start = self._end = -1
        parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._on_part_begin,
                "on_header_field": self._on_header_field,
                "on_header_value": self._on_header_value,
                "on_header_end": self._on_header_end,
                "on_part_data": self._on_part_data,
                "on_part_end": self._on_part_end,
                "on_end": self._on_end,
            },
        )
        try:
            parser.write(body)
        except MultipartParseError as error:
            raise BadRequest(f"the body is not a multipart form: {error}") from None
        if not self._ended:
            raise BadRequest("the body is not a multipart form with the boundary of its content-type")

    def _on_part_begin(self) -> None:
        self._is_model = False
        self._start = self._end = -1
        self._name = self._value = b""

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header_end(self) -> None:
        if self._name.lower() == b"content-disposition":
            _, options = parse_options_header(self._value)
            self._is_model = options.get(b"name") == b"model" and b"filename" not in options
        self._name = self._value = b""

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        if not self._is_model:
            return
        if data is not self._body:  # the parser gives back bytes that looked like a boundary; no model's name has them
            raise BadRequest("the form's 'model' must be the name of a model", param="model")
        if self._start < 0:
            self._start = start
        self._end = end

    def _on_part_end(self) -> None:
        if self._is_model:
            self.spans.append((self._start, self._end) if self._start >= 0 else (0, 0))

    def _on_end(self) -> None:
        self._ended = True
