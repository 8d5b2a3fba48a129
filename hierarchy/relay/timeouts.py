"""How long a request may take, by its model. Seconds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from hierarchy.config.models import Settings
from hierarchy.http.promise import COMMENT_EVERY_S

HOP_S: Final = 1.0  # by which each level gives up before the one above it, so that the fault is found where it is


@dataclass(frozen=True, slots=True)
class Timeouts:
    """The time limits of one model's requests."""

    first_byte_s: float  # from sending the request to the first byte of the response's body
    look_s: float  # when the entry node first looks at a request that waits for that byte
    idle_s: float  # between two reads of a body
    total_s: float | None  # from the request's arrival to the response's end; None: no limit

    @classmethod
    def of(cls, settings: Settings, model: str) -> Timeouts:
        """Those of the settings, and of this model where it has its own."""
        own = settings.models.get(model)
        first_byte_s = (own and own.first_byte_timeout_s) or settings.first_byte_timeout_s
        return cls(
            first_byte_s,
            min(first_byte_s, COMMENT_EVERY_S),
            (own and own.idle_timeout_s) or settings.idle_timeout_s,
            (own and own.total_timeout_s) or settings.total_timeout_s,
        )

    def below_s(self, hops: int) -> float:
        """`first_byte_s` at a node `hops` levels below the entry node."""
        return self.first_byte_s - min(hops * HOP_S, self.first_byte_s / 4)
