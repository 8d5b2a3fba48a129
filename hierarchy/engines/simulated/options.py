"""Options of a simulated engine at its start."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hierarchy.config import simulated
from hierarchy.engines.simulated.faults import Fault

Role = Literal["vllm", "router", "ollama"]


@dataclass(frozen=True)
class SimulatedOptions:
    """A rate may be infinite."""

    models: tuple[str, ...] = ("simulated",)
    #: prompt tokens a second, of all requests together
    prefill_tokens_per_s: float = simulated.PREFILL_TOKENS_PER_S
    #: generated tokens a second, of each request
    decode_tokens_per_s: float = simulated.DECODE_TOKENS_PER_S
    #: requests at once; more wait
    slots: int = simulated.SLOTS
    #: tokens of prompts that are kept in the prefix cache; 0: there is none
    cache_tokens: int = simulated.CACHE_TOKENS
    #: tokens of an answer, unless `max_tokens` makes it shorter or `ignore_eos` longer
    answer_tokens: int = 64
    #: reported to FastChat controllers; it does not change the rates
    speed: float = 1.0
    #: URL of a controller to register with, as an unmodified FastChat worker does
    register: str | None = None
    #: URL to register, under which the controller reaches this engine
    address: str | None = None
    #: between two heartbeats; the default is FastChat's own (constants.WORKER_HEART_BEAT_INTERVAL)
    heart_beat_s: float = 45.0
    #: `vllm`: all models are in memory, and it can be put to sleep; `router`, `ollama`: a request loads its model
    role: Role = "vllm"
    #: models in memory at once, of a router or Ollama
    loaded: int = 1
    #: seconds to load a model, or to wake up
    load_s: float = 0.0
    #: it sleeps when it starts, as vLLM does at level 1
    asleep: bool = False
    faults: tuple[Fault, ...] = ()
