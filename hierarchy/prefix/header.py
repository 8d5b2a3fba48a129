"""The field `x-hierarchy-prefix`, by which a parent tells a child what a prompt begins with.

    LENGTH;DIGESTS[;SESSION[;STICKY]]

LENGTH is decimal. DIGESTS, SESSION and STICKY are digests of six bytes in base64url (RFC 4648, section 5), eight
characters each; at most 36 of the first kind, one or none of the others. What has another form is no fingerprint.
"""

from __future__ import annotations

import binascii
import struct
from typing import Any, Final

from hierarchy.prefix.fingerprint import DIGEST_BYTES, MAX_DIGESTS, MAX_LENGTH, PLACES, Fingerprint

CHARACTERS: Final = 8  # of one digest
MAX_FIELD: Final = 10 + 3 + (MAX_DIGESTS + 2) * CHARACTERS  # bytes of the longest field
_TO_URL: Final = bytes.maketrans(b"+/", b"-_")
_FROM_URL: Final = bytes.maketrans(b"-_+/", b"+/!!")  # what is for other alphabets is refused
#: by the number of digests
_APART: Final[list[Any]] = [struct.Struct(f"{DIGEST_BYTES}s" * count).unpack for count in range(MAX_DIGESTS + 1)]


def encode(fingerprint: Fingerprint) -> bytes:
    """The field's value."""
    value = b"".join((str(fingerprint.length).encode(), b";", _encoded(b"".join(fingerprint.digests))))
    if fingerprint.session or fingerprint.sticky:
        value += b";" + (_encoded_one(fingerprint.session) if fingerprint.session else b"")
    if fingerprint.sticky:
        value += b";" + _encoded_one(fingerprint.sticky)
    return value


def _encoded(raw: bytes) -> bytes:
    return binascii.b2a_base64(raw, newline=False).translate(_TO_URL)


def _encoded_one(digest: int) -> bytes:
    return _encoded(digest.to_bytes(DIGEST_BYTES, "big"))


def decode(value: bytes) -> Fingerprint | None:
    """The fingerprint that a parent sent; None if it is not one."""
    if len(value) > MAX_FIELD:
        return None
    fields = value.split(b";")
    digits = fields[0]
    if not 2 <= len(fields) <= 4 or not digits.isdigit() or len(digits) > 10:
        return None
    length, raw = int(digits), _decoded(fields[1])
    if raw is None or length > MAX_LENGTH:
        return None
    count = len(raw) // DIGEST_BYTES
    if count > MAX_DIGESTS or (count and length < PLACES[count - 1]):
        return None
    session = _one(fields[2]) if len(fields) > 2 else 0
    sticky = _one(fields[3]) if len(fields) > 3 else 0
    if session < 0 or sticky < 0 or not (raw or session or sticky):
        return None
    return Fingerprint(length, _APART[count](raw), session, sticky)


def _one(field: bytes) -> int:
    """A field with one digest; 0 if it is empty, -1 if it has another form."""
    raw = _decoded(field)
    return -1 if raw is None or len(raw) > DIGEST_BYTES else int.from_bytes(raw, "big")


def _decoded(field: bytes) -> bytes | None:
    """The digests of a field, side by side; None if it is not what `_encoded` returns."""
    if len(field) % CHARACTERS:
        return None
    try:
        raw = binascii.a2b_base64(field.translate(_FROM_URL), strict_mode=True)
    except binascii.Error:
        return None
    return raw if len(raw) * CHARACTERS == len(field) * DIGEST_BYTES else None  # else it has padding
