"""One fact that all instances of a node share: of two with one key the newer holds. Signed with the node's key."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from hierarchy.wire.subtree import rejection_reason

MAX_VALUE = 4096  # bytes of a value as JSON
_LEVELS = 8  # of nested values
_Text = Annotated[str, Meta(min_length=1, max_length=2560)]  # a name of 256 characters, and a URL of 2,048


class Record(msgspec.Struct, frozen=True):
    """What a message carries. `mac` covers all other fields."""

    #: the name of the node whose instances share it
    node: _Text
    #: what kind of fact, such as `drain`
    topic: _Text
    #: what it is about, such as a child
    key: _Text
    #: when it was written, in Unix milliseconds
    changed_ms: Annotated[int, Meta(ge=0, lt=2**53)]
    value: dict[str, Any] = {}
    #: nothing holds any more: it is kept only so that an older record does not come back
    ended: bool = False
    #: when it is forgotten, in Unix milliseconds; 0: never
    until_ms: Annotated[int, Meta(ge=0, lt=2**53)] = 0
    #: HMAC-SHA256, in hex; "" from a node without a key
    mac: Annotated[str, Meta(max_length=64)] = ""

    @property
    def id(self) -> tuple[str, str]:
        """Topic and key."""
        return self.topic, self.key

    def replaces(self, other: Record | None) -> bool:
        """Whether it is newer. Of two of one moment all instances choose the same, by their content."""
        return other is None or (self.changed_ms, self._content()) > (other.changed_ms, other._content())

    def is_over(self, now_ms: float) -> bool:
        """Whether it is to be forgotten. now_ms: Unix milliseconds."""
        return 0 < self.until_ms <= now_ms

    def signed(self, key: bytes) -> Record:
        """The same record with its `mac`."""
        return msgspec.structs.replace(self, mac=hmac.new(key, self._content(), hashlib.sha256).hexdigest())

    def is_signed(self, keys: Sequence[bytes]) -> bool:
        """Whether one of the keys signed it."""
        return any(hmac.compare_digest(self.signed(key).mac.encode(), self.mac.encode()) for key in keys)

    def problem(self) -> str:
        """Why it cannot be kept and passed on; "" if it can."""
        if reason := rejection_reason(self.value, _LEVELS):
            return f"its value {reason}"
        if rejection_reason([self.node, self.topic, self.key, self.mac]):
            return "it contains half of a surrogate pair, which is not text"
        if len(self._content()) > MAX_VALUE:
            return f"it is larger than {MAX_VALUE} bytes"
        return ""

    def _content(self) -> bytes:
        fields = (self.node, self.topic, self.key, self.changed_ms, self.value, self.ended, self.until_ms)
        return msgspec.json.encode(fields, order="deterministic")
