"""When a certificate begins and ends. Python's `ssl` tells it only of a connection's other end, so this reads the DER.

Source: RFC 5280, section 4.1, and X.690 for the encoding.
"""

from __future__ import annotations

import re
import ssl
from datetime import UTC, datetime

from hierarchy.runtime.expiry import Lifetime

SEQUENCE, VERSION, UTC_TIME, GENERALIZED_TIME = 0x30, 0xA0, 0x17, 0x18
_PEM = re.compile(
    r"-----BEGIN (?:TRUSTED |X509 )?CERTIFICATE-----.+?-----END (?:TRUSTED |X509 )?CERTIFICATE-----", re.S
)


def lifetimes(pem: str) -> list[Lifetime]:
    """When each certificate of a PEM file is valid, in its order; unreadable ones are left out."""
    found = []
    for block in _PEM.findall(pem):
        body = "".join(line for line in block.splitlines()[1:-1] if ":" not in line)
        try:
            der = ssl.PEM_cert_to_DER_cert(f"{ssl.PEM_HEADER}\n{body}\n{ssl.PEM_FOOTER}")
            found.append(lifetime_of(der))
        except ValueError:
            continue
    return found


def lifetime_of(der: bytes) -> Lifetime:
    """When a certificate is valid. Raises `ValueError` if it is not a certificate."""
    certificate, _ = _content(der, SEQUENCE)
    fields, _ = _content(certificate, SEQUENCE)
    if fields[:1] == bytes([VERSION]):
        fields = _content(fields, VERSION)[1]
    for _ in range(3):  # serial number, signature algorithm, issuer
        fields = _content(fields)[1]
    validity, _ = _content(fields, SEQUENCE)
    begins, rest = _time(validity)
    return Lifetime(begins, _time(rest)[0])


def _content(data: bytes, tag: int | None = None) -> tuple[bytes, bytes]:
    """The content of the first element, which must have that tag, and what follows it. Raises `ValueError`."""
    if len(data) < 2 or tag not in (None, data[0]):
        raise ValueError("not a certificate")
    length, start = data[1], 2
    if length & 0x80:
        start += length & 0x7F
        length = int.from_bytes(data[2:start], "big")
    if start + length > len(data):
        raise ValueError("a certificate that is cut off")
    return data[start : start + length], data[start + length :]


def _time(data: bytes) -> tuple[float, bytes]:
    """The moment at the beginning, in Unix seconds, and what follows it. Raises `ValueError`."""
    text, rest = _content(data)
    kind, digits = data[0], text.decode("ascii")
    if kind == UTC_TIME:  # two digits of the year: 50 is 1950, 49 is 2049
        digits = ("19" if digits[:2] >= "50" else "20") + digits
    elif kind != GENERALIZED_TIME:
        raise ValueError("not a time")
    return datetime.strptime(digits, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp(), rest
