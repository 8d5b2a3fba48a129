"""Faults to inject into a simulated engine, by flag or at run time, to test failures."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

Tokens = Annotated[int, Field(ge=0)]
RequestKind = Literal["generate", "probe"]


class Fault(BaseModel):
    """What goes wrong with a request. Several fields can be combined."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    on: RequestKind = Field(
        default="generate", description="generate: requests for tokens; probe: health, models, metrics, status"
    )
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


class Faults:
    """The active faults. If several match a request, the first one applies."""

    def __init__(self, faults: tuple[Fault, ...] = ()) -> None:
        self.replace(faults)

    def replace(self, faults: Iterable[Fault]) -> None:
        """Make these the active faults, instead of those before."""
        self._left: list[tuple[Fault, int | None]] = [(fault, fault.count) for fault in faults]

    def take(self, on: RequestKind) -> Fault | None:
        """The fault for a request of this kind, if any. Reduces its count."""
        for index, (fault, left) in enumerate(self._left):
            if fault.on == on:
                if left == 1:
                    del self._left[index]
                elif left is not None:
                    self._left[index] = fault, left - 1
                return fault
        return None

    def state(self) -> list[dict[str, object]]:
        """The active faults, for `GET /simulated`. left: how many more requests each affects."""
        return [{**fault.model_dump(exclude_defaults=True), "on": fault.on, "left": left} for fault, left in self._left]
