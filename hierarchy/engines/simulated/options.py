"""Options of a simulated engine at its start."""

from __future__ import annotations

from dataclasses import dataclass

from hierarchy.engines.simulated.faults import Fault


@dataclass(frozen=True)
class SimulatedOptions:
    """The rates and slots have the defaults of `config.models.SimulatedSpec`; a rate may be infinite."""

    models: tuple[str, ...] = ("simulated",)
    #: of all requests together
    prefill_tokens_per_s: float = 8000.0
    #: of each request
    decode_tokens_per_s: float = 50.0
    #: requests at once; more wait
    slots: int = 8
    #: length of an answer unless `max_tokens` makes it shorter, or `ignore_eos` longer
    answer_tokens: int = 64
    #: reported to FastChat controllers; it does not change the rates
    speed: float = 1.0
    #: URL of a controller to register with, as an unmodified FastChat worker does
    register: str | None = None
    #: URL under which to register
    address: str | None = None
    #: FastChat's own interval (constants.WORKER_HEART_BEAT_INTERVAL)
    heart_beat_s: float = 45.0
    faults: tuple[Fault, ...] = ()
