"""Who sent a request, and what it may use. Each request asks, so this module is compiled."""

from __future__ import annotations

from dataclasses import dataclass

from hierarchy.config.client_paths import ClientPaths
from hierarchy.labels import Requirement


@dataclass(frozen=True, slots=True)
class Caller:
    """The client that sent a request."""

    name: str  # of the key's owner; "" without a key
    models: frozenset[str] | None = None  # the models it may use; None for all
    refusal: str = ""  # why it has no access; "" if it has
    paths: ClientPaths | None = None  # what it may call; None for what the node allows
    require: Requirement | None = None  # labels that whatever serves its requests must have; None for none

    def may_use(self, model: str) -> bool:
        """Whether the caller may use the model or alias `model`."""
        return self.models is None or model in self.models


ANYONE = Caller("")  #: where no keys are required


def refused_caller(reason: str) -> Caller:
    """A caller without a known key, who may not use any model. reason: for the error message."""
    return Caller("", frozenset(), reason)
