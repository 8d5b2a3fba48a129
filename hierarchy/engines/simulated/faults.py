"""Faults to inject into a simulated engine, by flag or at run time, to test failures."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

Tokens = Annotated[int, Field(ge=0)]
RequestKind = Literal["generate", "probe", "wake"]
#: what a broken engine, or a proxy in front of it, answers with status 200:
#: html: a page; garbage: bytes that are no JSON; empty: no body; truncated: half of the body, framed as if it were all;
#: error: an error object, in a stream an event after the first token and then the end, as vLLM sends it
Answer = Literal["html", "garbage", "empty", "truncated", "error"]


class Fault(BaseModel):
    """What goes wrong with a request. Several fields can be combined."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    on: RequestKind = Field(
        default="generate",
        description="generate: requests for tokens; probe: health, models, metrics, status; wake: /wake_up",
    )
    model: str | None = Field(default=None, description="only requests for this model; None: for any")
    every: int = Field(default=1, ge=1, description="only each so many-th of these requests")
    status: int | None = Field(
        default=None, ge=400, le=599, description="respond with this status and an error object at once"
    )
    delay_first_byte_s: float = Field(
        default=0.0, ge=0, allow_inf_nan=False, description="added to prefill; a stream's head is sent before"
    )
    hang: bool = Field(default=False, description="accept the request, occupy a slot and send nothing, not even a head")
    hang_after_tokens: Tokens | None = Field(
        default=None, description="stop after these tokens, but keep the connection and the slot"
    )
    cut_after_tokens: Tokens | None = Field(
        default=None, description="close the connection after these tokens, in the middle of the answer"
    )
    reset: bool = Field(default=False, description="reset the TCP connection at once; nothing is sent")
    reset_after_tokens: Tokens | None = Field(
        default=None, description="reset the TCP connection after these tokens, in the middle of the answer"
    )
    freeze_s: float = Field(
        default=0.0,
        ge=0,
        allow_inf_nan=False,
        description="the whole engine stops for this long: probes and streams too",
    )
    answer: Answer | None = Field(default=None, description="respond with status 200, but a wrong body")
    running: Annotated[int, Field(ge=0)] | None = Field(
        default=None, description="of a probe: the metrics lie, this many requests run and none waits"
    )
    count: int | None = Field(
        default=None, ge=1, description="how many requests it affects; None: all, until it is cleared"
    )


_LIST = TypeAdapter(list[Fault])


def parse_faults(text: str | bytes) -> list[Fault]:
    """Decode a fault or a list of faults from JSON.

    Raises:
        ValueError: it names the fields that are wrong.
    """
    try:
        return _LIST.validate_json(text) if text.lstrip()[:1] in ("[", b"[") else [Fault.model_validate_json(text)]
    except ValidationError as error:
        problems = (f"{'.'.join(map(str, item['loc']))}: {item['msg']}".lstrip(": ") for item in error.errors())
        raise ValueError("; ".join(problems)) from None


@dataclass
class _Active:
    fault: Fault
    left: int | None  # how many more requests it affects; None: all
    matched: int = 0  # requests that it could have affected; `every` counts these


class Faults:
    """The active faults. If several match a request, the first one applies."""

    def __init__(self, faults: tuple[Fault, ...] = ()) -> None:
        self.replace(faults)

    def replace(self, faults: Iterable[Fault]) -> None:
        """Make these the active faults, instead of those before."""
        self._active = [_Active(fault, fault.count) for fault in faults]

    def take(self, on: RequestKind, model: str | None = None) -> Fault | None:
        """The fault for a request of this kind, if any. Reduces its count."""
        for active in self._active:
            fault = active.fault
            if fault.on == on and fault.model in (None, model):
                active.matched += 1
                if active.matched % fault.every == 0:
                    self._spend(active)
                    return fault
        return None

    def _spend(self, active: _Active) -> None:
        if active.left is not None:
            active.left -= 1
            if not active.left:
                self._active.remove(active)

    def state(self) -> list[dict[str, object]]:
        """The active faults, for `GET /simulated`. left: how many more requests each affects."""
        return [
            {**active.fault.model_dump(exclude_defaults=True), "on": active.fault.on, "left": active.left}
            for active in self._active
        ]
