"""Faults to inject, by flag or at run time, so that failure can be rehearsed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

Tokens = Annotated[int, Field(ge=0)]
Where = Literal["generate", "probe"]


class Fault(BaseModel):
    """What goes wrong with a request; several fields may be combined."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    on: Where = Field(
        default="generate", description="generate: requests for tokens; probe: health, models, metrics, status"
    )
    status: int | None = Field(default=None, ge=400, le=599, description="answer this and an error object at once")
    delay_first_byte_s: float = Field(
        default=0.0, ge=0, allow_inf_nan=False, description="beyond prefill; after a stream's head"
    )
    hang: bool = Field(default=False, description="take the request, and a slot, and send nothing, not even a head")
    hang_after_tokens: Tokens | None = Field(
        default=None, description="stop there and keep the connection and the slot"
    )
    cut_after_tokens: Tokens | None = Field(
        default=None, description="close the connection there, in the middle of the answer"
    )
    count: int | None = Field(
        default=None, ge=1, description="how many requests it hits; None: all, until it is cleared"
    )


_LIST = TypeAdapter(list[Fault])


def parse_faults(text: str | bytes) -> list[Fault]:
    """A fault or a list of them, as JSON.

    Raises:
        ValueError: naming the fields that are wrong.
    """
    try:
        return _LIST.validate_json(text) if text.lstrip()[:1] in ("[", b"[") else [Fault.model_validate_json(text)]
    except ValidationError as error:
        problems = (f"{'.'.join(map(str, item['loc']))}: {item['msg']}".lstrip(": ") for item in error.errors())
        raise ValueError("; ".join(problems)) from None


class Faults:
    """The faults in force, in the order in which they strike."""

    def __init__(self, faults: tuple[Fault, ...] = ()) -> None:
        self.replace(faults)

    def replace(self, faults: Iterable[Fault]) -> None:
        self._left: list[tuple[Fault, int | None]] = [(fault, fault.count) for fault in faults]

    def take(self, on: Where) -> Fault | None:
        """The fault that strikes this request, if any; counts it."""
        for index, (fault, left) in enumerate(self._left):
            if fault.on == on:
                if left == 1:
                    del self._left[index]
                elif left is not None:
                    self._left[index] = fault, left - 1
                return fault
        return None

    def page(self) -> list[dict[str, object]]:
        """What is left of them, for `GET /simulated`."""
        return [{**fault.model_dump(exclude_defaults=True), "on": fault.on, "left": left} for fault, left in self._left]
