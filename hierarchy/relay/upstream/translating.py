"""Between an attempt and the connection to an engine of the other API family.

A `Translator` is to the attempt what the connection would be, and to the connection what the attempt would be: the
request is sent in the engine's form, and its response comes back in the client's. Leases, attempts, time limits,
backpressure and cancellation stay the lane's. What the forms mean is in the room `translation`.
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
from hierarchy.registry.public_name import said_of
from hierarchy.relay.upstream.connection import RequestSender, ResponseHandler
from hierarchy.relay.upstream.destination import Destination
from hierarchy.relay.upstream.pool import Pool
from hierarchy.relay.upstream.request import send_request
from hierarchy.runtime.tcp_keepalive import TcpState
from hierarchy.translation import (
    NO_PROFILE,
    BadEngineResponse,
    PassThrough,
    ResponseTranslator,
    WorkerProfile,
    to_fastchat,
    to_openai,
)

ASK_S = 5.0  # how long a worker may take to describe itself
#: fields of the client's request that no longer hold: its body and the form of its response change
_NOT_FORWARDED = re.compile(rb"(?im)^(?:accept|accept-encoding|content-type|content-encoding):.*\r\n").sub


@dataclass(frozen=True, slots=True)
class TranslatedRequest:
    """A request as the engine gets it."""

    head: bytes
    body: bytes
    translator: ResponseTranslator  # turns the body of the engine's response into the client's form


async def translate(destination: Destination, head: RequestHead, model: str, body: bytes) -> TranslatedRequest:
    """Translate a request for the engine at `destination`. model: as the client, or its alias, names it.

    Raises:
        BadRequest: it cannot be expressed in the engine's API.
        ChildFailed, DeadlinePassed, EngineUnreadable: the engine did not say what has to be known for it.
    """
    pool, api = destination.pool, destination.share.key[1]
    path = head.target.partition(b"?")[0].decode()
    own = pool.child.renames.get(model, model)
    if api == head.dialect.api:
        return _request(pool, head, path, body, PassThrough())
    if api == "openai":
        foreign = to_openai(path, body)
        return _request(pool, head, foreign.path, foreign.body(own), foreign.translator(model))
    request = to_fastchat(path, body)
    profile, tokens = NO_PROFILE, None
    if request.needs_profile:
        profile = await profile_of(destination, own)
        prompt = request.prompt(profile)
        if request.needs_token_count(profile):
            tokens = await _count_tokens(pool, own, prompt)
    return _request(pool, head, request.path, request.body(profile, own, tokens), request.translator(profile, model))


async def profile_of(destination: Destination, model: str) -> WorkerProfile:
    """What a FastChat worker reports about its model; requested once. Raises as `translate`."""
    profile = destination.profile
    if profile is None:
        pool, about = destination.pool, {"model": model}
        conversation = await _ask(pool, "/worker_get_conv_template", about)
        details = None if conversation is None else await _ask(pool, "/model_details", about)
        profile = destination.profile = WorkerProfile.decode(conversation, details)
    return profile


async def _count_tokens(pool: Pool, model: str, prompt: str) -> int | None:
    """How many tokens a worker makes of a prompt; None if it does not say."""
    response = await _ask(pool, "/count_token", {"model": model, "prompt": prompt})
    try:
        count = msgspec.json.decode(response or b"{}", type=_Count)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return count.count if count.error_code == 0 else None


class _Count(msgspec.Struct):
    count: int | None = None
    error_code: int = 0


async def _ask(pool: Pool, path: str, about: dict[str, Any]) -> bytes | None:
    """A worker's response, or None if it does not know the path."""
    status, body = await send_request(pool, "POST", path, msgspec.json.encode(about), timeout_s=ASK_S)
    if status in (404, 405):
        return None
    if status != 200:
        raise ChildFailed(said_of(pool.child, f"answered {path} with {status}"))
    return body


def _request(
    pool: Pool, head: RequestHead, path: str, body: bytes, translator: ResponseTranslator
) -> TranslatedRequest:
    child = pool.child
    fields = _NOT_FORWARDED(b"", head.fields) + b"content-type: application/json\r\n" + child.credential
    opening = request_opening(child.prefix + path.encode(), child.authority, fields)
    return TranslatedRequest(b"%b%d\r\n\r\n" % (opening, len(body)), body, translator)


class Translator(ResponseHandler):
    """The `RequestSender` of an attempt, and the `ResponseHandler` of the real connection.

    fields: of every response (date, server).
    """

    def __init__(self, upstream: RequestSender, request: TranslatedRequest, fields: Fields) -> None:
        self.received = False
        self.reads = 0
        self.latest = self.before = b""  # nothing is forwarded past the attempt
        self._upstream: RequestSender | None = upstream
        self._request = request
        self._fields = fields
        self._translator = request.translator
        self._handler: ResponseHandler | None = None
        self._dechunk: Dechunker | None = None
        self._response: UpstreamResponse | None = None  # the client's, once it has started

    # -- for the attempt (RequestSender) -------------------------------------------------------------------------

    def send(self, handler: ResponseHandler, head: bytes, body: list[bytes], size: int) -> None:
        """Write the translated request, instead of the one given."""
        self._handler = handler
        if self._upstream is not None:
            request = self._request
            self._upstream.send(self, request.head, [request.body], len(request.body))

    def forward_to(self, write: Callable[[bytes], object]) -> None:
        """Not possible: each piece has to be translated."""

    def pause(self) -> None:
        """Stop reading from the engine."""
        if self._upstream is not None:
            self._upstream.pause()

    def resume(self) -> None:
        """Read again."""
        if self._upstream is not None:
            self._upstream.resume()

    def tcp_state(self) -> TcpState | None:
        """What the kernel knows of the connection to the engine."""
        return self._upstream.tcp_state() if self._upstream is not None else None

    def abort(self) -> None:
        """Drop the connection; the attempt hears nothing more."""
        self._handler = None
        self._hang_up()

    # -- the engine's response (ResponseHandler) -----------------------------------------------------------------

    def response_started(self, response: UpstreamResponse) -> None:
        """The engine's head is complete."""
        if not response.head.is_plain:
            self._fail("sent a compressed response, which it was not asked for")
            return
        self._dechunk = Dechunker() if response.head.kind == "chunked" else None
        self._translator.begin(response.head.status)

    def response_body(self, response: UpstreamResponse, data: bytes) -> None:
        """Translate the next bytes of the engine's body."""
        if self._handler is None:
            return
        self.received = True
        try:
            translated = self._translator.feed(data if self._dechunk is None else self._dechunk.feed(data))
        except BadEngineResponse as error:
            self._fail(str(error))
            return
        if translated:
            self._write(translated)
        if self._translator.done and self._handler is not None:
            self._hang_up()
            self._end()

    def response_ended(self, response: UpstreamResponse) -> None:
        """The engine's body is complete."""
        self._upstream = None
        if self._handler is not None:
            self._end()

    def response_whole(self, response: UpstreamResponse, body: bytes) -> None:
        """All of it came in one read."""
        self._upstream = None
        self.response_started(response)
        self.response_body(response, body)
        self.response_ended(response)

    def response_broken(self, reason: str, *, stale: bool = False) -> None:
        """The engine's connection broke."""
        self._upstream = None
        handler, self._handler = self._handler, None
        if handler is not None:
            handler.response_broken(reason, stale=stale)

    # -- the client's response -----------------------------------------------------------------------------------

    def _write(self, data: bytes) -> None:
        response = self._response
        if response is None:
            response = self._response = UpstreamResponse(self._head(b"transfer-encoding: chunked"))
            if self._handler is not None:
                self._handler.response_started(response)
        if self._handler is not None:
            self._handler.response_body(response, chunk(data))

    def _end(self) -> None:
        try:
            rest = self._translator.end()
        except BadEngineResponse as error:
            self._fail(str(error))
            return
        if self._response is None and not self._translator.streams:
            handler, self._handler = self._handler, None
            if handler is not None:
                length = b"content-length: %d" % len(rest)
                handler.response_whole(UpstreamResponse(self._head(length)), rest)
            return
        if rest:
            self._write(rest)
        handler, self._handler = self._handler, None  # what was written may have ended it
        if handler is not None and self._response is not None:
            handler.response_body(self._response, LAST_CHUNK)
            handler.response_ended(self._response)

    def _head(self, framing: bytes) -> bytes:
        translator = self._translator
        own = [(b"content-type", translator.content_type), (b"cache-control", b"no-cache")]
        lines = b"".join([b"%b: %b\r\n" % field for field in [*self._fields, *own]])
        return b"%b%b%b\r\n\r\n" % (render.status_line(translator.status), lines, framing)

    def _fail(self, reason: str) -> None:
        self._hang_up()
        handler, self._handler = self._handler, None
        if handler is not None:
            handler.response_broken(reason)

    def _hang_up(self) -> None:
        upstream, self._upstream = self._upstream, None
        if upstream is not None:
            upstream.abort()
