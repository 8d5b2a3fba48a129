"""Signed claims: JSON Web Tokens (RFC 7519) with HS256.

PyJWT is imported where it is used, since most commands sign nothing and it takes a tenth of a second.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

ALGORITHM = "HS256"
#: The caller compares times, with a clock that can be injected.
_OPTIONS = {"verify_exp": False, "verify_iat": False, "verify_nbf": False}


class Unreadable(Exception):
    """It is not a token, or it is for another audience."""


class WrongKey(Exception):
    """None of the keys has signed it."""


def sign(claims: Mapping[str, Any], key: bytes) -> str:
    """The claims as a token."""
    import jwt

    return jwt.encode(dict(claims), key, ALGORITHM)


def verify(token: str, keys: Sequence[bytes], audience: str) -> tuple[dict[str, Any], int]:
    """The claims of a token, and the index of the key that signed it.

    Raises:
        Unreadable, WrongKey: it is not accepted.
    """
    import jwt

    for number, key in enumerate(keys):
        with contextlib.suppress(jwt.InvalidSignatureError):
            try:
                return jwt.decode(token, key, [ALGORITHM], options=_OPTIONS, audience=audience), number  # type: ignore[arg-type]
            except jwt.InvalidSignatureError:
                raise
            except (jwt.InvalidTokenError, ValueError, RecursionError) as error:
                raise Unreadable(str(error)) from None
    raise WrongKey


def read_unverified(token: str) -> dict[str, Any]:
    """The claims of a token, whoever signed it. Raises `Unreadable`."""
    import jwt

    try:
        return jwt.decode(token, options={"verify_signature": False})
    except (jwt.InvalidTokenError, ValueError, RecursionError) as error:
        raise Unreadable(str(error)) from None
