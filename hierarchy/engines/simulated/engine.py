"""The state of a simulated engine, and the timing of its tokens. Without HTTP."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import math
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from hierarchy.engines.simulated.faults import Fault, Faults
from hierarchy.engines.simulated.memory import Memory
from hierarchy.engines.simulated.options import SimulatedOptions
from hierarchy.engines.simulated.prefix_cache import BLOCK_CHARS, PrefixCache
from hierarchy.engines.simulated.slots import Slots

CONTEXT_TOKENS = 32_768
EMBEDDING_SIZE = 8
CHARS_PER_TOKEN = 4  # the usual estimate for English

#: each answer repeats this text, which has no characters that JSON must escape
TEXT = "This answer was simulated: no model computed it, and its words only mark the time."
WORDS = tuple(TEXT.split(" "))


@dataclass(frozen=True)
class Job:
    """One generation. Its length and its fault are decided when the request arrives."""

    #: counts the requests of the engine, from 1
    number: int
    model: str
    prompt_tokens: int
    answer_tokens: int
    finish_reason: str
    fault: Fault
    prompt: str = ""

    @property
    def usage(self) -> dict[str, int]:
        """`usage` in both APIs."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.answer_tokens,
            "total_tokens": self.prompt_tokens + self.answer_tokens,
        }


class ConnectionCut(Exception):
    """The faults `cut_after_tokens` and `reset_after_tokens`: the response ends here, unfinished."""


class WrongEnd(Exception):
    """The fault `answer` of a stream: its last event is not what it should be. after: tokens that were sent."""

    def __init__(self, after: int) -> None:
        super().__init__(after)
        self.after = after


class Engine:
    """One simulated engine: its models, slots, faults and counters."""

    def __init__(self, options: SimulatedOptions) -> None:
        self.options = options
        self.models = list(options.models)
        self.slots = Slots(options.slots)
        self.cache = PrefixCache(options.cache_tokens * CHARS_PER_TOKEN // BLOCK_CHARS)
        self.faults = Faults(options.faults)
        self.served = 0  # responses that were complete
        self.cancelled = 0  # responses whose client disconnected
        self.sleep_level = 0  # 0: awake; 1 and 2 as in vLLM
        self.wakes = 0  # how often it was woken up
        self._awake = asyncio.Event()
        self._awake.set()
        self.faulted = 0  # responses that a fault changed
        self._job_numbers = itertools.count(1)
        self.memory = Memory(math.inf if options.role == "vllm" else options.loaded, options.load_s)
        self.memory.fill(self.models)
        if options.asleep:
            self.sleep(1)

    def job(self, model: str, prompt: str, max_tokens: int | None, *, ignore_eos: bool = False) -> Job:
        """Plan a generation of at most `max_tokens`; with `ignore_eos`, of exactly as many."""
        natural = self.options.answer_tokens
        limit = CONTEXT_TOKENS if max_tokens is None else max_tokens
        length = limit if ignore_eos and max_tokens is not None else min(natural, limit)
        return Job(
            number=next(self._job_numbers),
            model=model,
            prompt_tokens=count_tokens(prompt),
            answer_tokens=length,
            finish_reason="stop" if length == natural and not ignore_eos else "length",
            fault=self.faults.take("generate", model) or Fault(),
            prompt=prompt if self.cache.blocks else "",
        )

    def sleep(self, level: int) -> None:
        """Sleep as vLLM does: requests wait until it is awake. level: 0 wakes it up."""
        if self.sleep_level and not level:
            self.wakes += 1
        self.sleep_level = level
        if level:
            self._awake.clear()
        else:
            self._awake.set()

    async def generate(self, job: Job, emit: Callable[[int], Awaitable[None]]) -> None:
        """Hold a slot through prefill and decode; `await emit(i)` when token `i` is due.

        The first token is due at the end of prefill. Tokens are due at absolute times, so that a slow client or a busy
        machine does not lower the rate permanently.

        Raises:
            ConnectionCut, WrongEnd: the job's fault.
        """
        async with self.slots.hold(job.model), self.memory.hold(job.model):
            await self._awake.wait()
            freeze(job.fault)
            if job.fault.hang:
                await wait_forever()
            cached = self.cache.match(job.model, job.prompt) // CHARS_PER_TOKEN
            prefill_s = max(0, job.prompt_tokens - cached) / self.options.prefill_tokens_per_s
            await asyncio.sleep(prefill_s + job.fault.delay_first_byte_s)
            self.cache.put(job.model, job.prompt)
            await _apply_fault(job, 0)
            start, step_s = time.monotonic(), 1 / self.options.decode_tokens_per_s
            for index in range(job.answer_tokens):
                # Sleep even if the token is late: without it, a disconnection of the client would not be processed.
                await asyncio.sleep(max(0.0, start + index * step_s - time.monotonic()))
                await emit(index)
                await _apply_fault(job, index + 1)

    def state(self) -> dict[str, Any]:
        """The response of `GET /simulated`."""
        return {
            "simulated": True,
            "models": self.models,
            "slots": self.slots.capacity,
            "running": self.slots.running.total(),
            "waiting": self.slots.waiting.total(),
            "served": self.served,
            "cancelled": self.cancelled,
            "faulted": self.faulted,
            "sleeping": self.sleep_level > 0,
            "loaded": self.memory.loaded,
            "loads": self.memory.loads,
            "wakes": self.wakes,
            "faults": self.faults.state(),
        }

    def metrics(self, running: int | None = None) -> str:
        """vLLM's metrics of its load and its sleep, in Prometheus's text format.

        running: says that so many requests run and none waits, which is a fault.
        """
        lines = []
        lie = None if running is None else Counter({self.models[0]: running} if self.models else {})
        for name, help_text, counts in (
            ("running", "Number of requests in model execution batches.", self.slots.running if lie is None else lie),
            (
                "waiting",
                "Number of requests waiting to be processed.",
                self.slots.waiting if lie is None else Counter(),
            ),
        ):
            metric = f"vllm:num_requests_{name}"
            lines += [f"# HELP {metric} {help_text}", f"# TYPE {metric} gauge"]
            # Prometheus escapes quotes and backslashes as JSON does.
            lines += [
                f'{metric}{{engine="0",model_name={json.dumps(model, ensure_ascii=False)}}} {counts[model]:.1f}'
                for model in dict.fromkeys([*self.models, *counts])
            ]
        return "\n".join(lines + self._cache_metrics() + self._sleep_metrics()) + "\n"

    def _cache_metrics(self) -> list[str]:
        lines: list[str] = []
        if not self.cache.blocks:
            return lines
        for name, counts in (("queries", self.cache.queries), ("hits", self.cache.hits)):
            metric = f"vllm:prefix_cache_{name}_total"
            lines += [f"# HELP {metric} Prefix cache {name}, in tokens.", f"# TYPE {metric} counter"]
            lines += [
                f'{metric}{{engine="0",model_name={json.dumps(model, ensure_ascii=False)}}} {count / CHARS_PER_TOKEN}'
                for model, count in counts.items()
            ]
        return lines

    def _sleep_metrics(self) -> list[str]:
        metric = "vllm:engine_sleep_state"
        states = {"awake": 0, "weights_offloaded": 1, "discard_all": 2}  # the level at which each is 1
        return [f"# HELP {metric} Engine sleep state.", f"# TYPE {metric} gauge"] + [
            f'{metric}{{engine="0",model_name={json.dumps(model, ensure_ascii=False)},sleep_state="{state}"}} '
            f"{float(level == self.sleep_level)}"
            for model in self.models
            for state, level in states.items()
        ]

    def worker_status(self) -> dict[str, Any]:
        """A FastChat worker's status."""
        return {
            "model_names": self.models,
            "speed": self.options.speed,
            "queue_length": self.slots.queue_length,
        }


async def _apply_fault(job: Job, tokens: int) -> None:
    """Cut, hang or end wrongly if the job's fault does so after `tokens` tokens. Raises ConnectionCut, WrongEnd."""
    fault = job.fault
    if tokens in (fault.cut_after_tokens, fault.reset_after_tokens):
        raise ConnectionCut
    if fault.hang_after_tokens == tokens:
        await wait_forever()
    if (fault.answer == "error" and tokens == 1) or (fault.answer == "truncated" and tokens == job.answer_tokens // 2):
        raise WrongEnd(tokens)


def freeze(fault: Fault) -> None:
    """Hold the event loop, and with it the whole engine, if the fault does so."""
    if fault.freeze_s:
        time.sleep(fault.freeze_s)


def token_text(index: int) -> str:
    """Token `index` of each answer, with the space that precedes it."""
    word = WORDS[index % len(WORDS)]
    return f" {word}" if index else word


def answer_text(tokens: int) -> str:
    """The first `tokens` tokens of each answer."""
    return "".join(map(token_text, range(tokens)))


def count_tokens(text: str) -> int:
    """An estimate; at least 1."""
    return max(1, len(text) // CHARS_PER_TOKEN)


def embedding(text: str) -> list[float]:
    """A vector of `EMBEDDING_SIZE` numbers from 0 to 1; equal texts have equal vectors."""
    return [byte / 255 for byte in hashlib.sha256(text.encode(errors="replace")).digest()[:EMBEDDING_SIZE]]


async def wait_forever() -> None:
    """Wait until cancelled."""
    await asyncio.get_running_loop().create_future()
