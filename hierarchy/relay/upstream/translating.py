"""Between an exchange and the connection to an engine of the other API family.

An `Interpreter` is to the exchange what the connection would be, and to the connection what the exchange would be: the
request goes out in the engine's words, its answer comes back in the client's, and leases, attempts, time limits,
backpressure and cancellation are the lane's own. What the words mean is `translation`'s matter.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from hierarchy.errors import ChildFailed
from hierarchy.http import render
from hierarchy.http.framing import LAST_CHUNK, Dechunker, chunk
from hierarchy.http.request_head import Fields, RequestHead, request_opening
from hierarchy.http.response_head import UpstreamResponse
from hierarchy.registry.child import Share
from hierarchy.relay.upstream.connection import Sink, Upstream
from hierarchy.relay.upstream.pool import Pool
from hierarchy.relay.upstream.request import ask
from hierarchy.translation import (
    NO_PROFILE,
    BadEngineResponse,
    PassThrough,
    ResponseTranslator,
    WorkerProfile,
    to_fastchat,
    to_openai,
)

ASK_S = 5.0  # how long a worker may take to say something of itself
#: of the client's fields: its body and the answer's form are another than it asked for
_NOT_ON = re.compile(rb"(?im)^(?:accept|accept-encoding|content-type|content-encoding):.*\r\n").sub


@dataclass(frozen=True, slots=True)
class Speech:
    """A request as the engine gets it. reply: turns the answer's body into the client's words."""

    head: bytes
    body: bytes
    reply: ResponseTranslator


async def prepare(pool: Pool, share: Share, said: RequestHead, model: str, body: bytes) -> Speech:
    """Put a request into the words of the engine behind `pool`. model: as the client, or its alias, names it.

    Raises:
        BadRequest: it cannot be said there.
        ChildFailed, DeadlinePassed, EngineUnreadable: the engine did not tell what has to be known for it.
    """
    path = said.target.partition(b"?")[0].decode()
    own = pool.child.renames.get(model, model)
    if share.key[1] == said.dialect.api:
        return _speech(pool, said, path, body, PassThrough())
    if share.key[1] == "openai":
        foreign = to_openai(path, body)
        return _speech(pool, said, foreign.path, foreign.body(own), foreign.translator(model))
    request = to_fastchat(path, body)
    profile, tokens = NO_PROFILE, None
    if request.needs_profile:
        profile = await profile_of(pool, share, own)
        prompt = request.prompt(profile)
        if request.needs_token_count(profile):
            tokens = await _count(pool, own, prompt)
    return _speech(pool, said, request.path, request.body(profile, own, tokens), request.translator(profile, model))


async def profile_of(pool: Pool, share: Share, model: str) -> WorkerProfile:
    """What a FastChat worker says of itself for a model; asked once. Raises as `prepare`."""
    known: WorkerProfile | None = share.profile
    if known is None:
        about = {"model": model}
        conversation = await _asked(pool, "/worker_get_conv_template", about)
        details = None if conversation is None else await _asked(pool, "/model_details", about)
        known = share.profile = WorkerProfile.decode(conversation, details)
    return known


async def _count(pool: Pool, model: str, prompt: str) -> int | None:
    """How many tokens a worker makes of a prompt, or None if it does not tell."""
    answer = await _asked(pool, "/count_token", {"model": model, "prompt": prompt})
    try:
        count = msgspec.json.decode(answer or b"{}", type=_Count)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return count.count if count.error_code == 0 else None


class _Count(msgspec.Struct):
    count: int | None = None
    error_code: int = 0


async def _asked(pool: Pool, path: str, about: dict[str, Any]) -> bytes | None:
    """A worker's answer, or None if it knows no such path."""
    status, answer = await ask(pool, "POST", path, msgspec.json.encode(about), timeout_s=ASK_S)
    if status in (404, 405):
        return None
    if status != 200:
        raise ChildFailed(f"{pool.child.name} answered {path} with {status}")
    return answer


def _speech(pool: Pool, said: RequestHead, path: str, body: bytes, reply: ResponseTranslator) -> Speech:
    child = pool.child
    fields = _NOT_ON(b"", said.fields) + b"content-type: application/json\r\n" + child.credential
    opening = request_opening(child.prefix + path.encode(), child.authority, fields)
    return Speech(b"%b%d\r\n\r\n" % (opening, len(body)), body, reply)


class Interpreter:
    """An `Upstream` for an exchange, and the `Sink` of the real one. fields: of every answer (date, server)."""

    def __init__(self, upstream: Upstream, speech: Speech, fields: Fields) -> None:
        self.pool = upstream.pool
        self.heard = False
        self._upstream: Upstream | None = upstream
        self._speech = speech
        self._fields = fields
        self._reply = speech.reply
        self._sink: Sink | None = None
        self._dechunk: Dechunker | None = None
        self._started = False  # the client's answer has

    # -- for the exchange ------------------------------------------------------------------------------------

    def send(self, sink: Sink, head: bytes, body: list[bytes], size: int) -> None:
        """Write the request in the engine's words, instead of those given."""
        self._sink = sink
        assert self._upstream is not None
        self._upstream.send(self, self._speech.head, [self._speech.body], len(self._speech.body))

    def pass_on(self, write: Callable[[bytes], object]) -> None:
        """Nothing can: each piece has to be put into other words."""

    def pause(self) -> None:
        if self._upstream is not None:
            self._upstream.pause()

    def resume(self) -> None:
        if self._upstream is not None:
            self._upstream.resume()

    def abort(self) -> None:
        self._sink = None
        self._hang_up()

    # -- the engine's answer (Sink) --------------------------------------------------------------------------

    def answer_started(self, answer: UpstreamResponse) -> None:
        if not answer.head.is_plain:
            self._break("sent a compressed answer, which it was not asked for")
            return
        self._dechunk = Dechunker() if answer.head.kind == "chunked" else None
        self._reply.begin(answer.head.status)

    def answer_body(self, data: bytes) -> None:
        if self._sink is None:
            return
        self.heard = True
        try:
            words = self._reply.feed(data if self._dechunk is None else self._dechunk.feed(data))
        except BadEngineResponse as error:
            self._break(str(error))
            return
        if words:
            self._say(words)
        if self._reply.done and self._sink is not None:
            self._hang_up()
            self._end()

    def answer_ended(self) -> None:
        self._upstream = None
        if self._sink is not None:
            self._end()

    def answer_whole(self, answer: UpstreamResponse, body: bytes) -> None:
        self._upstream = None
        self.answer_started(answer)
        self.answer_body(body)
        self.answer_ended()

    def answer_broken(self, why: str, *, stale: bool = False) -> None:
        self._upstream = None
        sink, self._sink = self._sink, None
        if sink is not None:
            sink.answer_broken(why, stale=stale)

    # -- the client's answer ---------------------------------------------------------------------------------

    def _say(self, words: bytes) -> None:
        sink = self._sink
        assert sink is not None
        if not self._started:
            self._started = True
            sink.answer_started(UpstreamResponse(self._head(b"transfer-encoding: chunked")))
        sink.answer_body(chunk(words))

    def _end(self) -> None:
        try:
            words = self._reply.end()
        except BadEngineResponse as error:
            self._break(str(error))
            return
        if not self._started and not self._reply.streams:
            sink, self._sink = self._sink, None
            assert sink is not None
            sink.answer_whole(UpstreamResponse(self._head(b"content-length: %d" % len(words))), words)
            return
        if words:
            self._say(words)
        sink, self._sink = self._sink, None  # the last words may have ended it
        if sink is not None:
            sink.answer_body(LAST_CHUNK)
            sink.answer_ended()

    def _head(self, framing: bytes) -> bytes:
        own = [(b"content-type", self._reply.content_type), (b"cache-control", b"no-cache")]
        lines = b"".join([b"%b: %b\r\n" % field for field in [*self._fields, *own]])
        return b"%b%b%b\r\n\r\n" % (render.status_line(self._reply.status), lines, framing)

    def _break(self, why: str) -> None:
        self._hang_up()
        sink, self._sink = self._sink, None
        if sink is not None:
            sink.answer_broken(why)

    def _hang_up(self) -> None:
        upstream, self._upstream = self._upstream, None
        if upstream is not None:
            upstream.abort()
