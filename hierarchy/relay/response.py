"""The response to one client: every byte of it is written here.

    nothing ──▶ a child's response ──▶ end                          the usual way
            ──▶ head and comments ──▶ a child's stream, or an error event
            ──▶ an error of this node

Nothing can be taken back once it is written. So a child's response begins with the first byte of its body, and until
then another child may be tried.
"""

from __future__ import annotations

from hierarchy.errors import RequestError
from hierarchy.http import render
from hierarchy.http.framing import Dechunker, chunk
from hierarchy.http.request_head import RequestHead
from hierarchy.http.response_head import UpstreamResponse
from hierarchy.registry.child import NODE
from hierarchy.relay.client import Client
from hierarchy.relay.upstream.connection import ConnectionPool


class Response:
    """What the client has been sent so far, and how the rest has to be framed."""

    started: bool = False  # a child's response is being passed on: no other attempt can follow
    waiting: bool = False  # a head and comments were sent while there was nothing else: errors can only be events
    complete: bool = False  # its last byte is written, or the client is gone
    _rechunk: bool = False  # the client gets chunks that this node makes
    _own_status: int = 0  # of an error of this node

    def __init__(self, client: Client, head: RequestHead) -> None:
        self.keep_alive = head.keep_alive
        self._client = client
        self._head = head  # of the request
        self._dechunk: Dechunker | None = None  # the client gets no chunks: it speaks HTTP/1.0
        self._source: UpstreamResponse | None = None  # what is being passed on

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

        pool: of the child. for_parent: complete lines of the head that a parent reads.
        """
        self.started = True
        self._source = source
        head = self._head_of(source, pool, for_parent)
        if data and not self.is_verbatim:
            data = self._framed(data)
        self._client.write(head + data)

    def pass_on(self, data: bytes) -> None:
        """Write more of the child's body."""
        self._client.write(self._framed(data))

    def end(self, trailer: bytes = b"") -> None:
        """The child's body is complete. trailer: a line for a parent, if this node makes the chunks."""
        if self._rechunk:
            self._client.write(render.last_chunk(trailer))

    def _framed(self, data: bytes) -> bytes:
        if self._rechunk:
            return chunk(data)
        return data if self._dechunk is None else self._dechunk.feed(data)

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
        elif source.head.kind == "until-close" or (self.waiting and source.head.kind != "chunked"):
            self._rechunk = True
            framing = b"transfer-encoding: chunked\r\n"
        if self.waiting:
            return b""  # a head was sent before
        path = pool.path
        if source.head.path and pool.child.kind == NODE:
            path = b"%b/%b" % (path, source.head.path)
        return source.forward(path=path, framing=framing, close=not self.keep_alive, parent_lines=for_parent)

    # -- comments while the request waits ------------------------------------------------------------------------

    def comment(self) -> None:
        """Tell a client that reads a stream that its request still waits; the first time, send a head before that."""
        dialect, http10 = self._head.dialect, self._head.http10
        data = render.waiting_comment(dialect, http10=http10)
        if not self.waiting:
            self.waiting = True
            fields, close = self._client.fields(), not self._head.keep_alive
            data = render.waiting_head(dialect, fields, http10=http10, close=close) + data
        self._client.write(data)

    def fits(self, source: UpstreamResponse) -> bool:
        """Can a child's response follow the head that was sent while the request waited?"""
        head = source.head
        return head.status == 200 and head.is_plain and (self._head.dialect.form == "frames" or head.is_event_stream)

    # -- errors --------------------------------------------------------------------------------------------------

    def refuse(self, error: RequestError, unspent: tuple[bytes, bytes] | None = None) -> None:
        """Write an error of this node instead of a child's response. unspent: a header field for a parent."""
        if self.waiting:
            data = render.waiting_error(error, self._head.dialect, http10=self._head.http10)
        else:
            self._own_status = 200 if self._head.dialect.always_ok else error.status
            fields = self._client.fields()
            if unspent is not None:
                fields = [*fields, unspent]
            data = render.error_response(error, self._head.dialect, fields, close=not self.keep_alive)
        self._client.write(data)

    def pass_on_refusal(self, source: UpstreamResponse, pool: ConnectionPool, body: bytes, for_parent: bytes) -> None:
        """Write a child's whole error response, which was held while another child might do better."""
        if not self.waiting or self.fits(source):
            self.begin(source, pool, body, for_parent)
            self.end()
            return
        if source.head.kind == "chunked":
            body = Dechunker().feed(body)
        self._client.write(render.waiting_refusal(body, self._head.dialect, http10=self._head.http10))

    def cut(self, error: RequestError, trailer: bytes = b"") -> None:
        """End a child's response that will not be completed; never so that it looks complete.

        trailer: a line for a parent.
        """
        self.keep_alive = False
        source = self._source
        tail = None
        if source is not None:
            raw = self._dechunk is not None or (self._head.http10 and source.head.kind == "until-close")
            tail = render.error_tail(
                error, self._head.dialect, source, rechunked=self._rechunk, raw=raw, trailer=trailer
            )
        if tail is None:
            self._client.reset()
        else:
            self._client.write(tail)

    def __repr__(self) -> str:
        state = "complete" if self.complete else "started" if self.started else "waiting" if self.waiting else "empty"
        return f"<Response {state}>"
