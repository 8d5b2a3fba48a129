"""How long a request may take, by its model. Seconds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from hierarchy.config.models import Settings
from hierarchy.http.render import COMMENT_EVERY_S

HOP_S: Final = 1.0  # by which each level gives up before the one above it, so that the fault is found where it is


@dataclass(frozen=True, slots=True)
class Limits:
    """first_byte: from sending to the first body byte. look: when to look at a request that waits for it, at the entry
    node, for the first time. idle: between two reads. total: from arrival to the end; None for no limit.
    """

    first_byte_s: float
    look_s: float
    idle_s: float
    total_s: float | None

    @classmethod
    def of(cls, settings: Settings, model: str) -> Limits:
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
        """`first_byte_s` at a node below the entry node."""
        return self.first_byte_s - min(hops * HOP_S, self.first_byte_s / 4)
