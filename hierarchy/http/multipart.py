"""Bodies of `multipart/form-data` (audio, images): their fields that name models, found in one pass over the pieces.

A form is accepted only in the shape that client libraries write. Readers of forms differ in all else: in line ends, in
a preamble, in doubled parameters, in `name*` and in escapes, so these are refused.

Source: RFC 7578; RFC 2046, section 5.1.1; RFC 8187 (`filename*`). Readers: Go mime/multipart, python-multipart,
werkzeug, busboy, multer.
"""

from __future__ import annotations

import re
from typing import Final

from hierarchy.errors import BadRequest
from hierarchy.http.body_scan import FURTHER, MODEL, BodyScan, Found, folded, no_model

MAX_PARTS: Final = 100
MAX_PART_HEAD: Final = 4096  # bytes of the header lines of a part
MAX_NAME: Final = 1024  # bytes of a model's name
_FIELD: Final = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*((?:[\x20-\x7e\t]|[\x80-\xff])*)").fullmatch
_PARAMETER: Final = re.compile(
    rb";[ \t]*([A-Za-z0-9_*-]+)=(?:\"((?:[\x20\x21\x23-\x7e\t]|[\x80-\xff])*)\"|([!#$%&'*+\-.^_`|~0-9A-Za-z]+))[ \t]*"
).match
#: inside a quoted value, where readers that do not look at quotes could find it
_SECOND_NAME: Final = re.compile(rb"(?i)(?:^|[;\s])name\*?[0-9]*\*?[ \t]*=").search
_TEXT: Final = re.compile(
    rb"(?i)text/plain(?:[ \t]*;[ \t]*charset=\"?(?:utf-?8|us-ascii|(iso-8859-1))\"?)?[ \t]*"
).fullmatch
_UNENCODED: Final = re.compile(rb"(?i)(?:7bit|8bit|binary)[ \t]*").fullmatch

# What is expected next.
_DELIMITER: Final = 0  # the first one
_HEAD: Final = 1  # of a part
_CONTENT: Final = 2
_NOTHING: Final = 3  # the last delimiter has come


class FormScan(BodyScan):
    """One pass over a form. boundary: from its content type."""

    def __init__(self, boundary: bytes) -> None:
        super().__init__()
        self._dashed = b"--" + boundary
        self._rest = b""  # of the pieces so far: what is not decided yet
        self._offset = 0  # of `_rest` in the body
        self._state = _DELIMITER
        self._parts = 0
        self._name = ""  # of the part that is being read, if it matters
        self._content = 0  # where the part's content begins in the body
        self._kept: list[bytes] | None = None  # the content of a part that matters
        self._kept_bytes = 0
        self._ascii_only = False
        self._model = ""
        self._start = self._end = -1
        self._further: list[tuple[str, int, int]] = []

    def feed(self, piece: bytes) -> None:
        """The next bytes of the body."""
        if self.refused:
            return
        data = self._rest + piece if self._rest else piece
        pos = 0
        while not self.refused:
            after = self._step(data, pos)
            if after < 0:
                break
            pos = after
        self._offset += pos
        self._rest = b"" if self.refused else data[pos:]

    def finish(self) -> Found:
        """All of the body has come. Raises as `BodyScan.finish`."""
        if self.error is None and (self._state != _NOTHING or self._rest.strip(b"\r\n")):
            self.refuse("the body is not a multipart form with the boundary of its content-type")
        if self.error is not None:
            raise self.error
        if self._start < 0:
            raise no_model("form")
        return Found(self._model, self._start, self._end, self._further, False)

    def _step(self, data: bytes, pos: int) -> int:
        """Read what is at `pos`. Returns the position behind it; -1 if more of it has to come."""
        if self._state == _CONTENT:
            return self._content_at(data, pos)
        if self._state == _HEAD:
            return self._head_at(data, pos)
        if self._state == _NOTHING:
            if len(data) - pos > 2 or not b"\r\n".startswith(data[pos:]):
                self.refuse("there is something behind the last boundary of the form")
            return -1
        if len(data) - pos < len(self._dashed) + 2:
            if not self._dashed.startswith(data[pos : pos + len(self._dashed)]):
                self.refuse("the body is not a multipart form with the boundary of its content-type")
            return -1
        if not data.startswith(self._dashed, pos):
            self.refuse("the body is not a multipart form with the boundary of its content-type")
            return -1
        return self._delimiter_ends(data, pos + len(self._dashed))

    def _delimiter_ends(self, data: bytes, pos: int) -> int:
        """Behind a boundary: a new part begins, or the form ends."""
        end = data[pos : pos + 2]
        if end == b"\r\n":
            self._state = _HEAD
            self._parts += 1
            if self._parts > MAX_PARTS:
                self.refuse(f"the form has more than {MAX_PARTS} parts")
        elif end == b"--" and self._parts:
            self._state = _NOTHING
        else:
            self.refuse("the boundary of the form is followed by something other than a line's end")
        return pos + 2

    def _content_at(self, data: bytes, pos: int) -> int:
        """The content of a part, up to the next boundary or as far as it has come."""
        at = data.find(self._dashed, pos)
        if at < 0 or len(data) - at < len(self._dashed) + 2:
            whole = at if at >= 0 else len(data) - len(self._dashed) + 1
            end = max(pos, whole - 2)  # the line's end before a boundary is not content
            self._keep(data, pos, end)
            return end if end > pos else -1
        end = at - 2
        # Some readers accept a bare LF before a boundary.
        if end < pos or data[end:at] != b"\r\n":
            self.refuse("the form has its boundary inside a part; choose another one")
            return -1
        self._keep(data, pos, end)
        self._part_ends(self._offset + end)
        return self._delimiter_ends(data, at + len(self._dashed))

    def _keep(self, data: bytes, pos: int, end: int) -> None:
        if self._kept is None:
            return
        self._kept_bytes += end - pos
        if self._kept_bytes > MAX_NAME:
            self._refuse_name()
        else:
            self._kept.append(data[pos:end])

    def _part_ends(self, end: int) -> None:
        kept, self._kept = self._kept, None
        if kept is None:
            return
        if self._name != MODEL:
            self._further.append((self._name, self._content, end))
            return
        value = b"".join(kept).decode("ascii" if self._ascii_only else "utf-8", errors="replace")
        if not value.isprintable() or not value or value != value.strip() or "\ufffd" in value:
            self._refuse_name()
        elif self._start >= 0:  # readers differ in which one they use
            self.refuse("the form has more than one 'model'; send it once", MODEL)
        else:
            self._model, self._start, self._end = value, self._content, end

    def _refuse_name(self) -> None:
        self.refuse(f"the form's '{self._name}' must be the name of a model", MODEL)

    # -- the head of a part --------------------------------------------------------------------------------------

    def _head_at(self, data: bytes, pos: int) -> int:
        end = data.find(b"\r\n\r\n", pos, pos + MAX_PART_HEAD)
        if end < 0:
            if len(data) - pos >= MAX_PART_HEAD:
                self.refuse(f"the head of a part of the form is longer than {MAX_PART_HEAD} bytes")
            return -1
        try:
            self._take_head(data[pos:end])
        except BadRequest as error:
            self.error, self.refused = error, True
            return -1
        self._state = _CONTENT
        self._content = self._offset + end + 4
        return end + 4

    def _take_head(self, head: bytes) -> None:
        fields: dict[bytes, bytes] = {}
        for line in head.split(b"\r\n"):
            found = _FIELD(line)
            if found is None:
                raise BadRequest(f"the form has a part with the malformed header line {_shown(line)}")
            name = found[1].lower()
            if name in fields:
                raise BadRequest(f"the form has a part with two fields {_shown(name)}; send it once")
            fields[name] = found[2]
        disposition = fields.get(b"content-disposition")
        if disposition is None:
            raise BadRequest("the form has a part without a content-disposition")
        name_of, is_file = _parameters(disposition)
        plain = folded(name_of)
        self._name = name_of
        self._kept = None
        if plain == MODEL or plain.startswith((MODEL + "[", MODEL + ".")):
            if name_of != MODEL:
                raise BadRequest(
                    f"some readers take the form's field {ascii(name_of)[:80]} for 'model'; "
                    "send 'model' once, as it is written here",
                    MODEL,
                )
            self._ascii_only = _check_plain(fields, is_file=is_file)
        elif plain not in FURTHER and plain.partition("[")[0] not in FURTHER:
            if plain == "charset" and name_of.startswith("_"):
                raise BadRequest("the form's field '_charset_' is not supported; send the form in UTF-8")
            return
        self._kept, self._kept_bytes = [], 0


def _check_plain(fields: dict[bytes, bytes], *, is_file: bool) -> bool:
    """Raise `BadRequest` unless the content of the field `model` is what all readers take for its value.

    Returns whether that holds for ASCII only: Apache's client calls each text ISO-8859-1.
    """
    if is_file:
        raise BadRequest("the form's 'model' has a file name; send it as a field", MODEL)
    text = _TEXT(fields.get(b"content-type", b"text/plain"))
    if text is None:
        raise BadRequest("the form's 'model' has a content type of its own; leave it out, or send text/plain", MODEL)
    if not _UNENCODED(fields.get(b"content-transfer-encoding", b"binary")):
        raise BadRequest("the form's 'model' has a content-transfer-encoding; leave it out", MODEL)
    return text[1] is not None


def _parameters(disposition: bytes) -> tuple[str, bool]:
    """The name in a content-disposition, and whether it is a file's.

    Raises:
        BadRequest: readers could find another name in it.
    """
    problem = BadRequest(
        f"the form has a part with the content-disposition {_shown(disposition)}, which readers understand in several "
        'ways; write form-data; name="..." or form-data; name="..."; filename="..."'
    )
    kind, pos = disposition[:9], 9
    found: dict[bytes, bytes] = {}
    if kind.lower() != b"form-data":
        raise problem
    while pos < len(disposition):
        match = _PARAMETER(disposition, pos)
        if match is None:
            raise problem
        name, quoted = match[1].lower(), match[2] is not None
        value = match[2] if quoted else match[3]
        if name in found or name not in (b"name", b"filename", b"filename*") or (name == b"filename*" and quoted):
            raise problem
        if _SECOND_NAME(value) or (b"\\" in value and (name == b"name" or value.endswith(b"\\"))):
            raise problem
        found[name] = value
        pos = match.end()
    if b"name" not in found or b";" in found[b"name"]:
        raise problem
    try:
        return found[b"name"].decode(), len(found) > 1
    except UnicodeDecodeError:
        raise problem from None


def _shown(data: bytes) -> str:
    return ascii(data.decode("latin-1"))[:120]
