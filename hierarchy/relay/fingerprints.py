"""The fingerprints of requests: taken at the entry node, believed from a parent below it.

A fingerprint depends on the model, so that equal prompts for two models never match, and on whatever else keeps an
engine from using its cache: the body's `cache_salt`, and the caller where callers share nothing.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any, Final

from hierarchy.http.prompt import Prompt
from hierarchy.http.request_head import RequestHead
from hierarchy.prefix.fingerprint import Fingerprint, Hasher
from hierarchy.prefix.header import decode, encode

SESSION_DIGESTS: Final = 6  # of a prompt without messages that tell its session: about its first 800 bytes
GUESSED: Final = 256  # bytes of a body in which nearly all clients name the model
_guess: Final[Any] = re.compile(rb'"model"\s*:\s*"([^"\\]{1,256})"').search


class Fingerprints:
    """Takes and reads the fingerprints of one node's requests. key: in hexadecimal, the same in all of a tree.

    has_siblings: it is one of several entry nodes, so it needs to know what the requests of a session have in common.
    """

    def __init__(self, key: str = "", *, has_siblings: bool = False) -> None:
        self.key = key
        self.has_siblings = has_siblings
        self.usual: RequestHead | None = None  # of a request for which a fingerprint was worth it; it comes again
        self.shares = True  # callers share what engines have in their caches
        self.ignored = 0  # fields of parents that are not fingerprints
        self._hasher = Hasher(key.encode())

    def use(self, key: str) -> None:
        """Use this key from now on."""
        if key != self.key:
            self.key = key
            self._hasher.set_key(key.encode())

    def take(self, prompt: Prompt, model: str, head: RequestHead) -> Fingerprint | None:
        """The fingerprint of a request for a model; None if nothing of it can match."""
        return self.of_prompt(prompt, model, head.caller.name, head.session)

    def of_prompt(self, prompt: Prompt, model: str, caller: str = "", session: bytes = b"") -> Fingerprint | None:
        """The same. caller: the name of its API key. session: as its client calls it."""
        hasher, salt = self._hasher, self._hasher.salt(model)
        if prompt.cache_salt:
            salt ^= hasher.digest(prompt.cache_salt)
        if not self.shares:
            salt ^= hasher.salt(f"caller {caller}")
        fingerprint = hasher.take(prompt.parts, prompt.length, salt)
        sticky = self.of_response(prompt.previous.strip(b'"')) if prompt.previous else 0
        session_digest = self._session(prompt, session, fingerprint)
        if fingerprint is None:
            return Fingerprint(prompt.length, (), session_digest, sticky) if session_digest or sticky else None
        fingerprint.session, fingerprint.sticky = session_digest, sticky
        return fingerprint

    def _session(self, prompt: Prompt, session: bytes, fingerprint: Fingerprint | None) -> int:
        """What the requests of a session have in common; 0 if that is not known, or not needed."""
        hasher = self._hasher
        if prompt.cache_key:
            return hasher.digest(prompt.cache_key)
        if session:
            return hasher.digest(session)
        if not self.has_siblings or fingerprint is None:
            return 0
        first_message = prompt.first
        if not first_message:
            digests = fingerprint.digests
            return int.from_bytes(digests[min(len(digests), SESSION_DIGESTS) - 1], "big")
        first = hasher.digest(first_message)
        return first ^ hasher.digest(prompt.user) if prompt.user else first

    def cache_salt(self, caller: str, own: bytes) -> bytes:
        """The `cache_salt` for an engine, as JSON, which keeps callers apart. own: the one that the caller sent."""
        digest = hashlib.blake2b(own, key=self.key.encode()[:64], salt=b"cache_salt", digest_size=16)
        digest.update(b"\0" + caller.encode("utf-8", "surrogatepass"))
        return b'"%b"' % digest.hexdigest().encode()

    def of_response(self, response_id: bytes) -> int:
        """The digest of a response that a later request may continue."""
        return self._hasher.digest(response_id)

    def read(self, value: bytes) -> Fingerprint | None:
        """What a parent sent; None, and counted, if it is not a fingerprint."""
        fingerprint = decode(value)
        if fingerprint is None:
            self.ignored += 1
        return fingerprint

    def write(self, fingerprint: Fingerprint) -> bytes:
        """The field for a child."""
        return encode(fingerprint)

    def __repr__(self) -> str:
        return f"<Fingerprints ignored={self.ignored}>"


def likely_model(body: bytes) -> str:
    """The model that a body names at its beginning, most likely; "" if it names none there. Decide nothing by it."""
    found = _guess(body, 0, GUESSED)
    return found[1].decode("ascii", "replace") if found is not None else ""
