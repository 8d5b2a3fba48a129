"""The parts of sending a request that have to wait: dialling a child, and bringing the request into its form.

An engine of the other API family may have to be asked for its chat template before. Nothing here changes the state of
an attempt: it gets a `Connected` or a `NotConnected`, and acts on that.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from hierarchy.errors import BadRequest, EngineUnreadable, RequestError, Unavailable, describe
from hierarchy.http.request_head import Fields
from hierarchy.registry.ejection import Failure
from hierarchy.relay.lane import Lane
from hierarchy.relay.request import Request
from hierarchy.relay.upstream.connection import RequestSender, Upstream
from hierarchy.relay.upstream.destination import Destination
from hierarchy.relay.upstream.pool import NO_DESCRIPTORS
from hierarchy.relay.upstream.translating import TranslatedRequest, Translator, translate

log = logging.getLogger("hierarchy.lane")


@dataclass(frozen=True, slots=True)
class Connected:
    """A connection to the child. translated: what is sent instead of the request as it came."""

    upstream: Upstream
    translated: TranslatedRequest | None = None

    def sender(self, fields: Fields) -> RequestSender:
        """Through what the request is sent. fields: of every response of this node."""
        translated = self.translated
        return self.upstream if translated is None else Translator(self.upstream, translated, fields)


@dataclass(frozen=True, slots=True)
class NotConnected:
    """Why the request cannot be sent to this child."""

    failure: Failure = "unreachable"
    reason: str = ""  # as a sentence without its subject, the child
    error: RequestError | None = None  # no other child could serve it either, and none is to blame


async def connect(
    destination: Destination,
    request: Request,
    lane: Lane,
    is_over: Callable[[], bool],
    *,
    translated: bool,
    fresh: bool,
) -> Connected | NotConnected:
    """Connect to the child of a request. translated: it is of the other API family. fresh: over a new connection.

    is_over: has its client left meanwhile? Then the result is not used, and a connection has to be put back.
    """
    sent_instead = None
    if translated:
        found = await _translated(destination, request)
        if isinstance(found, NotConnected) or is_over():
            return found if isinstance(found, NotConnected) else NotConnected()
        sent_instead = found
        upstream = None if fresh else destination.pool.take(lane.clock())
        if upstream is not None:
            return Connected(upstream, sent_instead)
    try:
        return Connected(await destination.pool.dial(), sent_instead)
    except OSError as error:
        if error.errno in NO_DESCRIPTORS:
            lane.warnings.warn(
                "out of file descriptors: each stream needs two; raise the limit (ulimit -n, LimitNOFILE)"
            )
            return NotConnected(error=Unavailable("this node is out of file descriptors"))
        return NotConnected("unreachable", unreachable_reason(error))


async def _translated(destination: Destination, request: Request) -> TranslatedRequest | NotConnected:
    """The request in the form of its engine's own API family."""
    child = destination.child
    try:
        return await translate(destination, request.head, request.model, request.body())
    except BadRequest as error:
        return NotConnected(error=error)
    except (RequestError, EngineUnreadable) as error:
        return NotConnected("broke", str(error).removeprefix(f"{child.label} "))
    except Exception:  # a defect, which must not leave its client without a response
        log.exception("a request for model %s could not be translated for %s", request.model, child.name)
        return NotConnected(error=RequestError("this request could not be translated for the engine of its model"))


def unreachable_reason(error: OSError) -> str:
    """Why a connection to a child could not be made, as a sentence without its subject."""
    if isinstance(error, TimeoutError):
        return "cannot be reached: no connection in time"
    return f"cannot be reached: {error.strerror or describe(error)}"
