"""What a simulated engine can be told at its start."""

from __future__ import annotations

from dataclasses import dataclass

from hierarchy.engines.simulated.faults import Fault


@dataclass(frozen=True)
class SimulatedOptions:
    """Defaults are those of `config.SimulatedSpec`; a rate may be infinite.

    answer_tokens: length of an answer that `max_tokens` does not cut and `ignore_eos` does not prolong.
    speed: what it tells FastChat controllers; it does not change the rates.
    register: URL of a controller to register with, as an unmodified FastChat worker does, under the URL `address`.
    heart_beat_s: FastChat's own interval (constants.WORKER_HEART_BEAT_INTERVAL).
    """

    models: tuple[str, ...] = ("simulated",)
    prefill_tokens_per_s: float = 8000.0
    decode_tokens_per_s: float = 50.0
    slots: int = 8
    answer_tokens: int = 64
    speed: float = 1.0
    register: str | None = None
    address: str | None = None
    heart_beat_s: float = 45.0
    faults: tuple[Fault, ...] = ()
