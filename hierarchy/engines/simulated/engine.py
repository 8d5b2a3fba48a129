"""The simulated engine's state and its clock of tokens; knows no HTTP."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from hierarchy.engines.simulated.faults import Fault, Faults
from hierarchy.engines.simulated.options import SimulatedOptions
from hierarchy.engines.simulated.slots import Slots

CONTEXT_TOKENS = 32_768
EMBEDDING_SIZE = 8
CHARS_PER_TOKEN = 4  # the usual rule of thumb for English

#: what every answer says, over and over; plain words, so that JSON need not escape them
TEXT = "This answer was simulated: no model computed it, and its words only mark the time."
WORDS = tuple(TEXT.split(" "))


@dataclass(frozen=True)
class Job:
    """One generation, decided in full when the request arrives."""

    number: int
    model: str
    prompt_tokens: int
    answer_tokens: int
    finish_reason: str
    fault: Fault

    @property
    def usage(self) -> dict[str, int]:
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.answer_tokens,
            "total_tokens": self.prompt_tokens + self.answer_tokens,
        }


class Cut(Exception):
    """The fault `cut_after_tokens` strikes."""


class Engine:
    def __init__(self, options: SimulatedOptions) -> None:
        self.options = options
        self.models = list(options.models)
        self.slots = Slots(options.slots)
        self.faults = Faults(options.faults)
        self.served = 0
        self.cancelled = 0
        self.faulted = 0
        self._numbers = itertools.count(1)

    def job(self, model: str, prompt: str, max_tokens: int | None, *, ignore_eos: bool = False) -> Job:
        """Plan an answer: as long as `max_tokens`, or shorter where it ends by itself unless `ignore_eos`."""
        natural = self.options.answer_tokens
        room = CONTEXT_TOKENS if max_tokens is None else max_tokens
        length = room if ignore_eos and max_tokens is not None else min(natural, room)
        return Job(
            number=next(self._numbers),
            model=model,
            prompt_tokens=count_tokens(prompt),
            answer_tokens=length,
            finish_reason="stop" if length == natural and not ignore_eos else "length",
            fault=self.faults.take("generate") or Fault(),
        )

    async def generate(self, job: Job, emit: Callable[[int], Awaitable[None]]) -> None:
        """Hold a slot through prefill and decode; `await emit(i)` when token `i` is due.

        The first token comes with the end of prefill. Tokens are due at absolute times, so that a slow reader or a
        busy machine does not lower the rate for good.
        """
        async with self.slots.hold(job.model):
            if job.fault.hang:
                await forever()
            prefill_s = job.prompt_tokens / self.options.prefill_tokens_per_s
            await asyncio.sleep(prefill_s + job.fault.delay_first_byte_s)
            await _strike(job.fault, 0)
            start, step_s = time.monotonic(), 1 / self.options.decode_tokens_per_s
            for index in range(job.answer_tokens):
                # Awaited also when it is late, or a client that left would not get its turn to be noticed.
                await asyncio.sleep(max(0.0, start + index * step_s - time.monotonic()))
                await emit(index)
                await _strike(job.fault, index + 1)

    def page(self) -> dict[str, Any]:
        """`GET /simulated`."""
        return {
            "simulated": True,
            "models": self.models,
            "slots": self.slots.capacity,
            "running": self.slots.running.total(),
            "waiting": self.slots.waiting.total(),
            "served": self.served,
            "cancelled": self.cancelled,
            "faulted": self.faulted,
            "faults": self.faults.page(),
        }

    def metrics(self) -> str:
        """The two of vLLM's metrics that say how busy it is."""
        lines = []
        for name, help_text, counts in (
            ("running", "Number of requests in model execution batches.", self.slots.running),
            ("waiting", "Number of requests waiting to be processed.", self.slots.waiting),
        ):
            metric = f"vllm:num_requests_{name}"
            lines += [f"# HELP {metric} {help_text}", f"# TYPE {metric} gauge"]
            # JSON's escapes of a quote and a backslash are also Prometheus's.
            lines += [
                f'{metric}{{engine="0",model_name={json.dumps(model, ensure_ascii=False)}}} {counts[model]:.1f}'
                for model in dict.fromkeys([*self.models, *counts])
            ]
        return "\n".join(lines) + "\n"

    def fastchat_status(self) -> dict[str, Any]:
        return {
            "model_names": self.models,
            "speed": self.options.speed,
            "queue_length": self.slots.queue_length,
        }


async def _strike(fault: Fault, tokens: int) -> None:
    """Do what `fault` does once `tokens` tokens have been sent."""
    if fault.cut_after_tokens == tokens:
        raise Cut
    if fault.hang_after_tokens == tokens:
        await forever()


def word(index: int) -> str:
    """Token `index` of every answer, with the space before it."""
    text = WORDS[index % len(WORDS)]
    return f" {text}" if index else text


def text_of(tokens: int) -> str:
    """The first `tokens` tokens of every answer."""
    return "".join(map(word, range(tokens)))


def count_tokens(text: str) -> int:
    return max(1, len(text) // CHARS_PER_TOKEN)


def embedding(text: str) -> list[float]:
    """A vector that depends on the text and on nothing else."""
    return [byte / 255 for byte in hashlib.sha256(text.encode(errors="replace")).digest()[:EMBEDDING_SIZE]]


async def forever() -> None:
    await asyncio.get_running_loop().create_future()
