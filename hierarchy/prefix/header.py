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
#: by the number of digests: of eight bytes, of six, and of six with two zeros before them
_WIDE: Final[list[Any]] = [struct.Struct(f">{count}Q") for count in range(MAX_DIGESTS + 1)]
_DENSE: Final[list[Any]] = [struct.Struct("6s" * count) for count in range(MAX_DIGESTS + 1)]
_PADDED: Final[list[Any]] = [struct.Struct("xx6s" * count) for count in range(MAX_DIGESTS + 1)]


def encode(fingerprint: Fingerprint) -> bytes:
    """The field's value."""
    value = b"%d;%b" % (fingerprint.length, _encoded(fingerprint.digests))
    if fingerprint.session or fingerprint.sticky:
        value += b";" + (_encoded([fingerprint.session]) if fingerprint.session else b"")
    if fingerprint.sticky:
        value += b";" + _encoded([fingerprint.sticky])
    return value


def _encoded(digests: list[int]) -> bytes:
    raw = bytearray(_WIDE[len(digests)].pack(*digests))
    del raw[::8]  # the first two of eight bytes are zero
    del raw[::7]
    return binascii.b2a_base64(raw, newline=False).translate(_TO_URL)


def decode(value: bytes) -> Fingerprint | None:
    """The fingerprint that a parent sent; None if it is not one."""
    if len(value) > MAX_FIELD:
        return None
    fields = value.split(b";")
    digits = fields[0]
    if not 2 <= len(fields) <= 4 or not digits.isdigit() or len(digits) > 10:
        return None
    length, digests = int(digits), _decoded(fields[1])
    if digests is None or length > MAX_LENGTH or (digests and length < PLACES[len(digests) - 1]):
        return None
    others = [0, 0]
    for place, field in enumerate(fields[2:]):
        one = _decoded(field)
        if one is None or len(one) > 1:
            return None
        others[place] = one[0] if one else 0
    if not digests and not others[0] and not others[1]:
        return None
    return Fingerprint(length, digests, others[0], others[1])


def _decoded(field: bytes) -> list[int] | None:
    count = len(field) // CHARACTERS
    if len(field) % CHARACTERS or count > MAX_DIGESTS:
        return None
    try:
        raw = binascii.a2b_base64(field.translate(_FROM_URL), strict_mode=True)
    except binascii.Error:
        return None
    if len(raw) != DIGEST_BYTES * count:  # padding
        return None
    wide = _PADDED[count].pack(*_DENSE[count].unpack(raw))
    return list(_WIDE[count].unpack(wide))
