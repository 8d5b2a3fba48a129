"""The response to one client: every byte of it is written here.

    nothing ──▶ a child's response ──▶ end                                          the usual way
            ──▶ a promise and comments ──▶ whatever then comes, made to keep it     see `http.promise`
            ──▶ an error of this node

Nothing can be taken back once it is written. So a child's response begins with the first byte of its body, and until
then another child may be tried.
"""

from __future__ import annotations

from hierarchy.errors import RequestError
from hierarchy.http import render
from hierarchy.http.content_coding import Decoder, decoder
from hierarchy.http.framing import Dechunker, chunk
from hierarchy.http.promise import Fate, Promise, without_chunks
from hierarchy.http.request_head import PATH, RequestHead
from hierarchy.http.response_head import JSON, UpstreamResponse
from hierarchy.registry.child import NODE
from hierarchy.relay.client import Client
from hierarchy.relay.held import Held
from hierarchy.relay.upstream.connection import ConnectionPool


def path_of(pool: ConnectionPool, source: UpstreamResponse) -> bytes:
    """The nodes and the engine that a response came from, as x-hierarchy-path has it."""
    below = source.head.path if pool.child.kind == NODE else b""
    return b"%b/%b" % (pool.path, below) if below else pool.path


class Response:
    """What the client has been sent so far, and how the rest has to be framed."""

    started: bool = False  # a child's response is being passed on: no other attempt can follow
    complete: bool = False  # its last byte is written, or the client is gone
    _rechunk: bool = False  # the client gets chunks that this node makes
    _own_status: int = 0  # of an error of this node

    def __init__(self, client: Client, head: RequestHead) -> None:
        self.keep_alive = head.keep_alive
        self._client = client
        self._head = head  # of the request
        self._dechunk: Dechunker | None = None  # the client gets no chunks: it speaks HTTP/1.0
        self._source: UpstreamResponse | None = None  # what is being passed on
        self._promise: Promise | None = None  # made by a head that was sent before any child had answered
        self._decode: Decoder | None = None  # the promise has no content coding, but the child's response does

    @property
    def waiting(self) -> bool:
        """Was a head sent while there was nothing else? Then errors can only be events."""
        return self._promise is not None

    @property
    def status(self) -> int:
        """That the client got; 0 as long as it got none."""
        if self.waiting:
            return 200
        return self._source.head.status if self._source is not None else self._own_status

    @property
    def is_verbatim(self) -> bool:
        """Are bytes of the child's body passed on as they are?"""
        return not self._rechunk and self._dechunk is None

    # -- a child's response --------------------------------------------------------------------------------------

    def begin(self, source: UpstreamResponse, pool: ConnectionPool, data: bytes, for_parent: bytes) -> None:
        """Write the head of a child's response, and the first bytes of its body.

        pool: of the child. for_parent: complete lines of the head that a parent reads. Raises as `pass_on`.
        """
        self.started = True
        self._source = source
        head = self._head_of(source, pool, for_parent)
        if data and not self.is_verbatim:
            data = self._framed(data)
        self._client.write(head + data)

    def pass_on(self, data: bytes) -> None:
        """Write more of the child's body.

        Raises:
            CodingError: it cannot be decompressed.
        """
        self._client.write(self._framed(data))

    @property
    def is_torn(self) -> bool:
        """Does the child's compressed body end inside its content?"""
        return self._decode is not None and not self._decode.complete

    def end(self, trailer: bytes = b"") -> None:
        """The child's body is complete. trailer: a line for a parent, if this node makes the chunks."""
        if self._rechunk:
            self._client.write(render.last_chunk(trailer))

    def _framed(self, data: bytes) -> bytes:
        if self._dechunk is not None:
            data = self._dechunk.feed(data)
        if self._decode is not None:
            data = self._decode.feed(data)
        return chunk(data) if self._rechunk and data else data

    def _head_of(self, source: UpstreamResponse, pool: ConnectionPool, for_parent: bytes) -> bytes:
        if source.ordinary_head and self.keep_alive and not (for_parent or self.waiting):
            if not source.head.has_length:
                return source.ordinary_head
            return b"".join([source.ordinary_head, str(source.length).encode(), b"\r\n\r\n"])
        framing: bytes | None = None
        if self._head.http10:
            self.keep_alive = False
            if source.head.kind == "chunked":
                self._dechunk = Dechunker()
                framing = b""
        elif source.head.kind == "until-close":
            self._rechunk = True
            framing = b"transfer-encoding: chunked\r\n"
        if self._promise is not None:
            self._keep_promise(source)
            return b""  # a head was sent before
        path = path_of(pool, source)
        return source.forward(path=path, framing=framing, close=not self.keep_alive, parent_lines=for_parent)

    def _keep_promise(self, source: UpstreamResponse) -> None:
        """Bring the body into the framing and the coding that were promised."""
        kind, http10 = source.head.kind, self._head.http10
        self._decode = decoder(source.head.coding)
        if kind == "chunked" and self._decode is not None:
            self._dechunk = Dechunker()
        self._rechunk = not http10 and (kind != "chunked" or self._decode is not None)

    # -- comments while the request waits ------------------------------------------------------------------------

    def comment(self) -> None:
        """Tell a client that reads a stream that its request still waits; the first time, send a head before that."""
        promise, data = self._promise, b""
        if promise is None:
            promise = self._new_promise()
            data = self._begin_promise(promise)
        self._client.write(data + promise.comment())

    def _new_promise(self) -> Promise:
        """Of a stream whose content is not known, or has to be made here."""
        head = self._head
        return Promise(head.dialect, head.http10, close=head.http10 or not self.keep_alive)

    def _begin_promise(self, promise: Promise, *own: tuple[bytes, bytes]) -> bytes:
        """Make it. own: more fields. Returns its head, which has to be written at once."""
        self._promise = promise
        self.keep_alive = not promise.close
        return promise.head([*self._client.fields(), *own])

    def fate(
        self, source: UpstreamResponse, first: bytes, *, is_error: bool, wants_stream: bool, at_entry: bool
    ) -> Fate:
        """What becomes of a child's response, of which the first bytes have come.

        is_error: they report an error. wants_stream: the client has asked for a stream. at_entry: no parent reads it.
        """
        head, dialect = source.head, self._head.dialect
        if self._promise is not None:
            return self._promise.fate(head, first, is_error=is_error)
        if not at_entry:
            return "as_it_comes"
        if dialect.form == "frames":  # whose readers look at no status
            return "as_error" if head.status >= 300 else "as_it_comes"
        if head.is_event_stream and is_error and head.is_plain:
            return "as_it_comes" if dialect.reads(without_chunks(head, first)) else "as_error"
        if wants_stream and head.form == JSON:
            return "as_error" if is_error else "as_events"
        return "as_it_comes"

    # -- errors --------------------------------------------------------------------------------------------------

    def refuse(self, error: RequestError, unspent: tuple[bytes, bytes] | None = None) -> None:
        """Write an error of this node instead of a child's response. unspent: a header field for a parent."""
        if self._promise is not None:
            data = self._promise.error(error)
        else:
            self._own_status = 200 if self._head.dialect.always_ok else error.status
            fields = self._client.fields()
            if unspent is not None:
                fields = [*fields, unspent]
            data = render.error_response(error, self._head.dialect, fields, close=not self.keep_alive)
        self._client.write(data)

    def pass_on_whole(self, held: Held, pool: ConnectionPool, for_parent: bytes = b"") -> None:
        """Write a child's whole response, which was held: another child might do better, or it has another form.

        for_parent: complete lines of the head that a parent reads.
        """
        source, content, promise = held.response, held.content, self._promise
        path, head, events = path_of(pool, source), b"", None
        if promise is None:
            promise = self._new_promise()
            if held.fate == "as_events":
                events = promise.events(source.head, content)
            if events is None and held.fate != "as_error":
                self.begin(source, pool, held.body, for_parent)
                self.end()
                return
            head = self._begin_promise(promise, (PATH, path))
        rest = (
            promise.fit(path.decode("ascii", "replace"), source.head, content)
            if events is None
            else promise.end(events)
        )
        self._client.write(head + rest)

    def cut(self, error: RequestError, trailer: bytes = b"") -> None:
        """End a child's response that will not be completed; never so that it looks complete.

        trailer: a line for a parent.
        """
        self.keep_alive = False
        source = self._source
        tail = None
        if source is not None:
            promised, kind = self._promise is not None, source.head.kind
            raw = self._dechunk is not None or (self._head.http10 and (promised or kind == "until-close"))
            tail = render.error_tail(
                error, self._head.dialect, source, rechunked=self._rechunk, raw=raw, trailer=trailer,
                promised=promised,
            )  # fmt: skip
        if tail is None:
            self._client.reset()
        else:
            self._client.write(tail)

    def __repr__(self) -> str:
        state = "complete" if self.complete else "started" if self.started else "waiting" if self.waiting else "empty"
        return f"<Response {state}>"
