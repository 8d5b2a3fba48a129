"""Messages of a site that means harm: every message between nodes, with values that no honest node sends.

`Attacker` is driven by a random generator: hypothesis's, which makes failures small, or one with a seed for a long run.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from random import Random
from typing import Any, NamedTuple

from tests.builders import model, report, site, worker

HUGE = 10**400
DEEP = 5000  # levels of JSON
TEXTS = (
    "", " ", "x" * 300, "x" * 70_000, "a/b", "../..", "a\r\nx-evil: 1", "\x00",
    "\x1b[2J\x1b]0;x\x07", "\u202e\u200b", "ü" * 200,
    "\ud800", "\U0001f4a5", "NaN", "null", "evil~2", "site-a", "root", "http://127.0.0.1:1", "%s%n{}", "'; --", "<b>",
)  # fmt: skip
NUMBERS = (
    0, -1, 1, 2**31, 2**53, 2**63, 2**64, -(2**63) - 1, HUGE, -HUGE, 1e308, -1e308, 1e-320, 0.1,
    float("nan"), float("inf"),
)  # fmt: skip
URLS = (
    "http://127.1:1", "http://[::1]:1", "http://[::ffff:127.0.0.1]:1", "http://localhost.:1", "http://0x7f000001:1/a/../b",
    "http://169.254.169.254", "http://2852039166/latest", "http://0", "http://x:0", "http://u:p@x", "http://x?y", "file:///etc",
    "http://" + "x" * 3000, "http://xn--a.example", "http://\u0131.example", "http://site-a:21001", "http://[", "https://x:99999",
)  # fmt: skip
LINK = "GET /link"


class Message(NamedTuple):
    """One request. secret: of which registration it claims to be, as `x-hierarchy-auth`."""

    path: str
    body: bytes
    secret: str = ""


class Attacker:
    """Makes messages of the site `name`, whose registration has `secret`."""

    def __init__(self, rng: Random, name: str = "evil", url: str = "http://127.0.0.1:1", secret: str = "evil") -> None:
        self._rng = rng
        self._name = name
        self._url = url
        self._secret = secret
        self._seq = 1
        self._kinds: tuple[Callable[[], tuple[str, Any]], ...] = (
            self.registration, self.registration, self.report, self.report, self.report, self._patch,
            self._deregistration, self._drain, self._worker, self._records, self._address, self._link,
        )  # fmt: skip

    def large(self) -> Message:
        """Megabytes: 260,000 models, or as many engines below the site, in a registration or a patch."""
        rng = self._rng
        names = [f"{number:x}" for number in range(rng.choice((13_000, 100_000, 260_000)))]
        if rng.randrange(2):
            page = site(self._name, url=self._url, **self._fields())
            page["worker_status"] = {"model_names": names, "speed": 1, "queue_length": 0}
            return Message("/register_worker", json.dumps(page).encode(), self._secret)
        path, page = rng.choice((self.registration, self.report))()
        page["children"] = {name: {"kind": "vllm"} for name in names}
        return Message(path, json.dumps(page).encode(), self._secret)

    def message(self) -> Message:
        """One message: mostly with some hostile values, now and then as an honest node would send it."""
        rng = self._rng
        path, page = rng.choice(self._kinds)()
        for _ in range(rng.choice((0, 1, 1, 2, 4))):
            page = self._spoil(page)
        body = json.dumps(page).encode()
        if rng.randrange(6) == 0:
            body = self._damage(body)
        secret = self._secret if rng.randrange(8) else rng.choice(("", "other", "x" * 5000))
        return Message(path, body, secret)

    # -- kinds ---------------------------------------------------------------------------------------------------

    def _fields(self) -> dict[str, Any]:
        self._seq += 1
        rng = self._rng
        return {
            "secret": self._secret, "seq": self._seq, "interval_s": rng.choice((0.05, 1.0, 3600.0)),
            "children": self.subtree(), "warnings": ["w"] * rng.choice((0, 1, 16)), "draining": rng.random() < 0.1,
            "path": ["evil-1", *(str(number) for number in range(rng.choice((0, 0, 3, 2000))))],
        }  # fmt: skip

    def registration(self) -> tuple[str, Any]:
        """Of the site itself, at once or as one of its many instances."""
        rng, fields = self._rng, self._fields()
        if rng.randrange(3) == 0:
            fields |= {"replica": True, "instance": f"evil-{rng.randrange(100)}"}
        fields["link"] = rng.choice(("direct", "direct", "reverse", "auto"))
        return "/register_worker", site(self._name, *self._models(), url=self._urls(), **fields)

    def report(self) -> tuple[str, Any]:
        """What changed at the site."""
        return "/receive_heart_beat", report(self._name, *self._models(), url=self._url, **self._fields())

    def _patch(self) -> tuple[str, Any]:
        """Much below the site, or the end of it."""
        rng = self._rng
        count = rng.choice((1, 50, 3000))
        entry: Any = rng.choice((None, {}, [], "x", {"kind": "vllm", "state": "up", "models": [{"name": "m"}]}))
        fields = self._fields() | {"children": {f"e{rng.randrange(10**6)}": entry for _ in range(count)}}
        return "/receive_heart_beat", report(self._name, url=self._url, **fields)

    def _deregistration(self) -> tuple[str, Any]:
        name = self._rng.choice((self._name, "site-a", "root", "evil~2"))
        page = {"worker_name": self._urls(), "node": name, "instance": self._rng.choice(("evil-1", "site-a-1", ""))}
        return "/deregister_worker", page

    def _drain(self) -> tuple[str, Any]:
        action = self._rng.choice(("drain", "undrain", "revoke"))
        page = {"path": self._rng.choice(TEXTS), "node": "site-a", "reason": "r", "force": True, "by": "root"}
        return f"/admin/{action}", page

    def _worker(self) -> tuple[str, Any]:
        return "/register_worker", worker(self._urls(), models=["m"] * self._rng.choice((0, 1, 2000)))

    def _records(self) -> tuple[str, Any]:
        rng = self._rng
        record = {
            "node": rng.choice(("root", "evil")), "topic": rng.choice(("drain", "revocation", "used-token", "x")),
            "key": "site-a", "changed_ms": rng.choice((0, 1, 2**53 - 1)), "value": self.subtree(), "mac": "0" * 64,
        }  # fmt: skip
        fields = {**self._fields(), "children": None, "shared": [record] * rng.choice((1, 300))}
        return "/receive_heart_beat", report(self._name, url=self._url, **fields)

    def _address(self) -> tuple[str, Any]:
        return "/get_worker_address", {"model": self._rng.choice(TEXTS)}

    def _link(self) -> tuple[str, Any]:
        return LINK, {}

    def _urls(self) -> str:
        return self._rng.choice((self._url, self._url, *URLS))

    def _models(self) -> list[Any]:
        rng = self._rng
        names = [f"evil-{rng.randrange(10**9)}-{'x' * rng.choice((0, 200))}" for _ in range(rng.choice((1, 1, 3, 400)))]
        return [model(name, speed=rng.choice((1.0, 1e6, 1e-9)), queue_length=rng.choice((0, 10**9))) for name in names]

    def subtree(self) -> Any:
        """What is below the site: entries with good and bad fields."""
        rng = self._rng
        entry = {
            "kind": rng.choice(("node", "vllm", "", 7)), "name": rng.choice(TEXTS[:8]), "url": rng.choice(URLS),
            "state": rng.choice(("up", "gone", "?", "\x1b[2J", 1)), "speed": rng.choice(NUMBERS[:8]),
            "models": rng.choice(([], [{"name": "m"}], [{"name": 1, "speed": "x"}, None], {"a": 1}, 0)),
            "detail": rng.choice(TEXTS[:14]), "children": rng.choice(({}, None, [], {"x": {"kind": "node"}})),
        }  # fmt: skip
        return rng.choice(
            ({}, None, {"e1": entry}, {"e1": entry, "": entry}, {"e1": {"kind": "node", "children": {"e": entry}}})
        )

    # -- spoiling ------------------------------------------------------------------------------------------------

    def _value(self) -> Any:
        rng = self._rng
        kind = rng.randrange(8)
        if kind <= 1:
            return rng.choice(NUMBERS)
        if kind <= 3:
            return rng.choice(TEXTS)
        if kind == 4:
            return rng.choice(URLS)
        if kind == 5:
            return self._nested(rng.choice((2, 70, 250)))
        return rng.choice(
            (None, True, [], {}, [None] * 5000, ["x"] * 20_000, {str(number): {} for number in range(3000)})
        )

    def _nested(self, levels: int) -> Any:
        value: Any = 0
        for _ in range(levels):
            value = {"children": {"a": value}} if self._rng.random() < 0.5 else [value]
        return value

    def _spoil(self, page: Any) -> Any:
        """Another value at one place, in a copy."""
        if not isinstance(page, dict) or not page or self._rng.randrange(12) == 0:
            return self._value()
        key = self._rng.choice(sorted(page))
        inner = page[key]
        value = self._spoil(inner) if isinstance(inner, dict) and self._rng.randrange(3) else self._value()
        return {**page, key: value}

    def _damage(self, body: bytes) -> bytes:
        """Bytes that are no JSON, or JSON that few writers make: doubled keys, deep levels, long numbers."""
        rng = self._rng
        at = rng.randrange(len(body) + 1)
        kind = rng.randrange(6)
        if kind == 0:
            return body[:at]
        if kind == 1:
            return body[:at] + rng.choice((b"\x00", b"\xff\xfe", b"\xed\xa0\x80", b"\r\n", b"{", b"]")) + body[at:]
        if kind == 2:
            return body[:1] + b'"node": "site-a", "instance": "site-a-1", ' + body[1:]
        if kind == 3:
            return b'{"children": ' + b'{"a":' * DEEP + b"1" + b"}" * DEEP + b"}"
        if kind == 4:
            return body.replace(b"1", b"1" * 500, 1)
        return b"[" * DEEP if rng.random() < 0.5 else b"[" + body + b"]"
