"""From a request to the connection of the child that gets it: a lease, a connection, and words that it understands.

The commonest case, an idle connection to a child that takes the request as it came, is synchronous. A new connection
has to be dialled, and of an engine of the other API family something may have to be asked first.
"""

from __future__ import annotations

import errno
import logging

from hierarchy.errors import BadRequest, EngineUnreadable, RequestError, Unavailable
from hierarchy.registry.child import Lease
from hierarchy.relay.retry import Retrying
from hierarchy.relay.upstream.connection import Upstream
from hierarchy.relay.upstream.pool import Pool
from hierarchy.relay.upstream.translating import Interpreter, Speech, prepare

log = logging.getLogger("hierarchy.lane")


class Reaching(Retrying):
    """The part of an `Exchange` that finds it a child."""

    def _send(self, upstream: Upstream | Interpreter, now: float) -> None:
        raise NotImplementedError

    def _attempt(self, now: float, *, fresh: bool = False) -> None:
        """Send the request to the child that dispatch chooses. fresh: over a new connection.

        Raises:
            RequestError: there is no child to send it to.
        """
        lane = self._lane
        self._lease = lease = lane.dispatch.lease((self._model, self.api), self._tried, translated=self.head.translated)
        if self._parent is not None:
            self._parent.open += 1
        share = lease.share
        assert share is not None
        self._pool = pool = share.child.pool or lane.pool(share.child)
        if share.key[1] != self.head.native and not pool.numbered:
            lane.spawn(self._interpret(pool, lease, fresh=fresh))
            return
        upstream = None if fresh else pool.take(now)
        if upstream is not None:
            self._send(upstream, now)
        else:
            lane.spawn(self._dial(pool, lease))

    async def _dial(self, pool: Pool, lease: Lease, speech: Speech | None = None) -> None:
        """speech: what the child is told instead of the request as it came."""
        why, ours = "", False
        try:
            upstream = await pool.dial()
        except OSError as error:
            upstream, why = None, f"cannot be reached: {_words(error)}"
            ours = error.errno in (errno.EMFILE, errno.ENFILE)
        if self._lease is not lease or self.response_complete:  # the client left meanwhile
            if upstream is not None:
                pool.put(upstream)
        elif upstream is not None:
            if speech is None:
                self._send(upstream, self._lane.clock())
            else:
                self._tell(upstream, speech)
        elif ours:  # which no other child could mend, and none is to blame for
            log.error("out of file descriptors: each stream needs two; raise the limit (ulimit -n, LimitNOFILE)")
            self.fail(Unavailable("this node is out of file descriptors"))
        else:
            self._lane.registry.failed(pool.child, "unreachable", why)
            self._try_another(why)

    async def _interpret(self, pool: Pool, lease: Lease, *, fresh: bool) -> None:
        """Send the request to an engine in its own words."""
        share = lease.share
        assert share is not None
        why = ""
        refusal: RequestError | None = None
        try:
            speech = await prepare(pool, share, self.head, self._model, self._body())
        except BadRequest as error:
            refusal = error
        except (RequestError, EngineUnreadable) as error:
            why = str(error).removeprefix(f"{pool.child.name} ")
        except Exception:  # a defect, which must not leave its client without an answer
            log.exception("a request for model %s could not be put into the words of %s", self._model, pool.child.name)
            refusal = RequestError("this request could not be translated for the engine of its model")
        if self._lease is not lease or self.response_complete:
            return
        if refusal is not None:
            self.fail(refusal)
        elif why:
            self._lane.registry.failed(pool.child, "broke", why)
            self._try_another(why)
        else:
            upstream = None if fresh else pool.take(self._lane.clock())
            if upstream is None:
                await self._dial(pool, lease, speech)
            else:
                self._tell(upstream, speech)

    def _tell(self, upstream: Upstream, speech: Speech) -> None:
        fields = self._protocol.server_state.default_headers
        self._send(Interpreter(upstream, speech, fields), self._lane.clock())


def _words(error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return "no connection in time"
    return error.strerror or str(error) or type(error).__name__
