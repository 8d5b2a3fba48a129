"""The message with which two instances of one parent exchange the records that they share, without a child between.

A page is signed with a key derived from the parent's, so that only another instance can make one, and a page is no
token. Each record in it is signed, too (`hierarchy.wire.record`).
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Callable, Iterable

import msgspec

from hierarchy.errors import InvalidToken
from hierarchy.security.signed import Unreadable, WrongKey, sign, verify
from hierarchy.wire.record import Record

MAX_RECORDS_BYTES = 32 * 1024  # of the records in a page, as JSON
MAX_PAGE = 64 * 1024  # characters: `MAX_RECORDS_BYTES` and the rest, in base64
MAX_AGE_S = 300.0  # as much may the clocks of two instances differ


class Page(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Some records of one instance, and what both need to continue."""

    aud: str  # name of the parent whose instances understand it
    iss: str  # random id of the process that signed it
    iat: float  # Unix seconds
    shared: list[Record] = []
    revision: int = 0  # of the last record in it, as the signer counts
    nonce: str = ""  # of a request: random
    answers: str = ""  # of a response: the nonce of the request
    seen: int = 0  # of a request: revision of the last record that came from the other instance
    seen_of: str = ""  # of a request: the id of the process that counted it
    began: float | None = None  # of a response with all the rest: since when the signer has every record, Unix seconds


class PageSigner:
    """Signs and checks the pages of one parent."""

    def __init__(
        self,
        parent: str,
        key: bytes,
        process: str,
        now: Callable[[], float] = time.time,
        accepted: Iterable[bytes] = (),
    ) -> None:
        """
        Args:
            parent: the name that all instances share.
            key, accepted: as for `Signer`.
            process: random id of this process.
            now: Unix seconds.
        """
        self.parent = parent
        self.process = process
        self._keys = [_page_key(one) for one in (key, *accepted)]
        self._now = now

    def sign(
        self,
        shared: list[Record],
        revision: int,
        *,
        nonce: str = "",
        answers: str = "",
        seen: int = 0,
        seen_of: str = "",
        began: float | None = None,
    ) -> str:
        """A page. The arguments are fields of `Page`."""
        page = Page(
            aud=self.parent, iss=self.process, iat=self._now(), shared=shared, revision=revision, nonce=nonce,
            answers=answers, seen=seen, seen_of=seen_of, began=began,
        )  # fmt: skip
        return sign(msgspec.to_builtins(page), self._keys[0])

    def read(self, text: str) -> Page:
        """The content of a page.

        Raises:
            InvalidToken: it is not a page, was not signed with a key of this parent, or was not made now.
        """
        if len(text) > MAX_PAGE or not text.isascii():
            raise InvalidToken("this is not a page of records, or it is too long")
        try:
            claims, _ = verify(text, self._keys, self.parent)
            page = msgspec.convert(claims, Page)
        except WrongKey:
            raise InvalidToken(
                f'the records were signed with another key, or for another parent than "{self.parent}"'
            ) from None
        except (Unreadable, msgspec.ValidationError):
            raise InvalidToken("this is not a page of records") from None
        if abs(self._now() - page.iat) > MAX_AGE_S:
            raise InvalidToken("the page of records is not made now; are the clocks of both machines right?")
        return page


def _page_key(parent_key: bytes) -> bytes:
    return hmac.digest(parent_key, b"exchange", hashlib.sha256)
