"""The `speed` of an engine in the YAML: a number, or that it is measured."""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import PlainSerializer, PlainValidator, WithJsonSchema

from hierarchy.config.yaml import shown


def _parse_speed(value: object) -> float:
    measured = value == "measured"
    if isinstance(value, dict) and set(value) == {"measured"}:
        measured, value = True, value["measured"]
    elif measured:
        value = 1.0
    if isinstance(value, bool) or not isinstance(value, int | float):
        hint = "write a number, `measured`, or `{measured: NUMBER}` to start from that"
        raise ValueError(f"{shown(value)} is not a speed", hint)
    if not 0 < value < math.inf:
        raise ValueError(f"must be greater than 0, not {shown(value)}", "1 is an engine that reads 8,000 tokens/s")
    return MeasuredSpeed(value) if measured or isinstance(value, MeasuredSpeed) else float(value)


class MeasuredSpeed(float):
    """A speed that is measured while the node runs; the number is that to start from."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, MeasuredSpeed) and float(self) == float(other)

    def __hash__(self) -> int:
        return hash(("measured", float(self)))

    @property
    def written(self) -> object:
        """As the file has it."""
        return "measured" if float(self) == 1.0 else {"measured": float(self)}


def _written_speed(speed: float) -> object:
    return speed.written if isinstance(speed, MeasuredSpeed) else speed


_NUMBER = {"exclusiveMinimum": 0, "type": "number"}
_MEASURED = {"additionalProperties": False, "properties": {"measured": _NUMBER}, "required": ["measured"]}
Speed = Annotated[
    float,
    PlainValidator(_parse_speed),
    PlainSerializer(_written_speed, when_used="json"),
    WithJsonSchema({"anyOf": [_NUMBER, {"const": "measured"}, {"type": "object", **_MEASURED}]}),
]
