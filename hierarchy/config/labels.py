"""Labels in the configuration, as a pydantic type."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, WithJsonSchema

from hierarchy.labels import MAX_LABELS, MAX_LENGTH, MAX_VALUES, check


def _parse(value: object) -> object:
    return {} if value == {} else check(value)


def _parse_several(value: object) -> object:
    return {} if value == {} else check(value, several=True)


_WORD = {"type": "string", "minLength": 1, "maxLength": MAX_LENGTH}
_WORDS = {"type": "string", "minLength": 1, "maxLength": MAX_VALUES * (MAX_LENGTH + 1)}


def _schema(value: dict[str, object]) -> WithJsonSchema:
    return WithJsonSchema({"type": "object", "additionalProperties": value, "maxProperties": MAX_LABELS})


#: of an engine
EngineLabels = Annotated[dict[str, str], BeforeValidator(_parse), _schema(_WORD)]
#: of a node: what is below it may have one value or another, as `eu/us`
NodeLabels = Annotated[dict[str, str], BeforeValidator(_parse_several), _schema(_WORDS)]
