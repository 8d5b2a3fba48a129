"""What a client may read of a child: a name, and no address.

Where machines are and what listens there is not for everybody who may send a request. A FastChat worker is called
after its URL, so clients read a label instead. Operators read both in `/tree`; logs and metrics have the name.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
import secrets
from typing import Final

from hierarchy.registry.child import Child

_HIDDEN: Final = "its address"
_URL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,20}://[^\s,;()'\"<>]*[^\s,;()'\"<>:.]")
_PAIR: Final = re.compile(r"\('[^']*', \d+(?:, \d+, \d+)?\)")  # as asyncio writes an address
_LONGEST: Final = 51  # characters of an IP address with its port; longer text, which a peer may write, costs no search
_MAYBE_IP: Final = re.compile(rf"\[?((?<![\w.:])[0-9A-Fa-f:.]{{1,{_LONGEST}}}[0-9A-Fa-f:])\]?(:\d+)?(?![\w])")


class Labels:
    """The labels of children that are called after their URLs: the same as long as this process runs.

    The label is keyed: without the key, whoever reads it could try all addresses.
    """

    def __init__(self) -> None:
        self._key = secrets.token_bytes(16)

    def of(self, name: str) -> str:
        """What clients read instead of a child's name: the name itself, unless it is a URL."""
        if "://" not in name:
            return name
        return f"worker-{hashlib.blake2s(name.encode(errors='replace'), key=self._key, digest_size=4).hexdigest()}"


def said_of(child: Child, reason: str) -> str:
    """A sentence for clients. reason: the sentence without its subject, the child; addresses are left out of it."""
    return f"{child.label} {without_addresses(reason, child)}"


def without_addresses(text: str, child: Child) -> str:
    """A text without URLs, IP addresses, and the name of the child's host."""
    text = _PAIR.sub(_HIDDEN, _URL.sub(_HIDDEN, text))
    text = _MAYBE_IP.sub(_hide_ip, text)
    if child.host and child.host.casefold() not in (child.name.casefold(), child.group.casefold()):
        host = rf"(?i)(?<![\w.-])'?\[?{re.escape(child.host)}\]?(?::\d+)?'?(?![\w-])(?!\.\w)"
        text = re.sub(host, _HIDDEN, text)
    return text.replace(f"{_HIDDEN} ({_HIDDEN})", _HIDDEN)  # a name with what it was resolved to


def _hide_ip(match: re.Match[str]) -> str:
    text = match[1]
    for one in (text, text.rpartition(":")[0]):
        try:
            ipaddress.ip_address(one)
        except ValueError:
            continue
        return _HIDDEN
    return match[0]
